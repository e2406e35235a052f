//! A block of tokens of one value head: what the passes over the state multiply.

use super::features::Features;
use super::passes::TOKENS;
use crate::problem::config::Config;
use crate::problem::gates::Gates;
use crate::problem::heads::Heads;

/// What the blocks of a call have in common.
pub(super) struct Call<'a> {
    pub(super) config: &'a Config,
    pub(super) heads: Heads,
    pub(super) gates: Gates<f32>,
    pub(super) of_keys: Features<'a>,
    pub(super) of_queries: Features<'a>,
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

/// Coefficients of up to [`TOKENS`] tokens; those of tokens that there are not are 0.
#[derive(Debug)]
pub(super) struct Block {
    keys: Vec<f32>,
    queries: Vec<f32>,
    /// Decays up to a token, and a key that decays.
    decayed: Vec<f32>,
    /// `k'_t P_t`, by which a delta rule recalls: `[F][TOKENS]`.
    pub(super) recall: Vec<[f32; TOKENS]>,
    /// `k'_j A_8j`, which are added: `[F][TOKENS]`.
    pub(super) write: Vec<[f32; TOKENS]>,
    /// `q'_t P_t` of each output head: `[heads][F][TOKENS]`.
    pub(super) read: Vec<Vec<[f32; TOKENS]>>,
    /// `k'_t A_tj . k'_j` for j < t.
    pub(super) of_keys: [[f32; TOKENS]; TOKENS],
    /// `q'_t A_tj . k'_j` for j <= t, of each output head.
    pub(super) of_queries: Vec<[[f32; TOKENS]; TOKENS]>,
    /// The factor of each row of o, of each output head.
    pub(super) factors: Vec<[f32; TOKENS]>,
    pub(super) betas: [f32; TOKENS],
    /// `P_8 - 1` of each row; empty without decays. Less 1, since a decay near 0 has more digits than
    /// its exponential.
    pub(super) kept: Vec<f32>,
}

impl Block {
    pub(super) fn new(config: &Config, group: usize) -> Self {
        let features = config.features() as usize;
        Self {
            keys: vec![0.0; TOKENS * features],
            queries: vec![0.0; TOKENS * features],
            decayed: vec![0.0; 2 * features],
            recall: vec![[0.0; TOKENS]; features],
            write: vec![[0.0; TOKENS]; features],
            read: vec![vec![[0.0; TOKENS]; features]; group],
            of_keys: [[0.0; TOKENS]; TOKENS],
            of_queries: vec![[[0.0; TOKENS]; TOKENS]; group],
            factors: vec![[0.0; TOKENS]; group],
            betas: [0.0; TOKENS],
            kept: vec![0.0; if config.decay_rows() > 0 { features } else { 0 }],
        }
    }

    /// Fills it with the tokens `first .. first + tokens` of value head e, and lets them enter nu.
    #[inline(always)]
    pub(super) fn fill(
        &mut self,
        call: &Call<'_>,
        first: usize,
        tokens: usize,
        e: usize,
        nu: &mut [f32],
    ) {
        let features = call.config.features() as usize;
        let key_dim = call.config.key_dim as usize;
        let key_head = call.heads.key_head(e);
        for (j, key) in self.keys.chunks_mut(features).enumerate() {
            if j >= tokens {
                key.fill(0.0);
                continue;
            }
            let x = &call.k[call.heads.key_row(first + j, e) * key_dim..][..key_dim];
            call.of_keys.row(x, key_head, key);
        }
        self.betas = [0.0; TOKENS];
        for (t, beta) in self.betas.iter_mut().enumerate().take(tokens) {
            *beta = call.gates.beta(first + t, e).unwrap_or(0.0);
        }
        let corrects = call.config.update_rule.beta().is_some();
        self.fill_keys(call, first, tokens, e, corrects);
        for h in 0..call.heads.value_group {
            self.fill_queries(call, first, tokens, [e, h], nu);
        }
        if call.config.is_normalized() {
            for (f, nu) in nu.iter_mut().enumerate() {
                let kept = self.kept.get(f).copied().unwrap_or(0.0);
                *nu += kept * *nu + self.write[f].iter().sum::<f32>();
            }
        }
    }

    /// The coefficients of keys, and what is kept of the state.
    #[inline(always)]
    fn fill_keys(
        &mut self,
        call: &Call<'_>,
        first: usize,
        tokens: usize,
        e: usize,
        corrects: bool,
    ) {
        let features = call.config.features() as usize;
        let (kept, key) = self.decayed.split_at_mut(features);
        kept.fill(0.0);
        for t in 0..tokens {
            decay(call, first + t, e, kept);
            if corrects {
                let of_token = &self.keys[t * features..][..features];
                for ((recall, k), kept) in self.recall.iter_mut().zip(of_token).zip(kept.iter()) {
                    recall[t] = k + kept * k;
                }
            }
        }
        let len = self.kept.len();
        self.kept.copy_from_slice(&kept[..len]);
        for j in 0..TOKENS {
            key.copy_from_slice(&self.keys[j * features..][..features]);
            for t in j + 1..tokens {
                decay_key(call, first + t, e, key);
                if corrects {
                    self.of_keys[t][j] = dot(&self.keys[t * features..][..features], key);
                }
            }
            for (write, k) in self.write.iter_mut().zip(key.iter()) {
                write[j] = *k;
            }
        }
    }

    /// The coefficients of the queries of an output head.
    #[inline(always)]
    fn fill_queries(
        &mut self,
        call: &Call<'_>,
        first: usize,
        tokens: usize,
        [e, h]: [usize; 2],
        nu: &[f32],
    ) {
        let (features, heads) = (call.config.features() as usize, &call.heads);
        let key_dim = call.config.key_dim as usize;
        let output_head = e * heads.value_group + h;
        let head = call.of_queries.weights_head(heads.query_head(output_head), heads.key_head(e));
        let mut gains = [1.0; TOKENS];
        for (t, query) in self.queries.chunks_mut(features).enumerate() {
            if t >= tokens {
                query.fill(0.0);
                continue;
            }
            let x = &call.q[heads.query_row(first + t, output_head) * key_dim..][..key_dim];
            gains[t] = call.of_queries.row(x, head, query);
        }
        let products = &mut self.of_queries[h];
        *products = [[0.0; TOKENS]; TOKENS];
        let (kept, key) = self.decayed.split_at_mut(features);
        for j in 0..tokens {
            key.copy_from_slice(&self.keys[j * features..][..features]);
            for (t, products) in products.iter_mut().enumerate().take(tokens).skip(j) {
                if t > j {
                    decay_key(call, first + t, e, key);
                }
                products[j] = dot(&self.queries[t * features..][..features], key);
            }
        }
        kept.fill(0.0);
        let has_decay = !self.kept.is_empty();
        for t in 0..TOKENS {
            let query = &mut self.queries[t * features..][..features];
            if has_decay && t < tokens {
                decay(call, first + t, e, kept);
                query.iter_mut().zip(kept.iter()).for_each(|(q, kept)| *q += kept * *q);
            }
            for (read, q) in self.read[h].iter_mut().zip(query.iter()) {
                read[t] = *q;
            }
            let mut weight = 0.0;
            if call.config.is_normalized() {
                weight = dot(query, nu) + products[t].iter().sum::<f32>();
            }
            self.factors[h][t] = call.config.row_factor(weight, gains[t]);
        }
    }
}

/// Multiplies what is kept, less 1, by the decays of a token.
#[inline(always)]
fn decay(call: &Call<'_>, t: usize, e: usize, kept: &mut [f32]) {
    let next = |kept: f32, m: f32| if m == -1.0 { -1.0 } else { kept + m * (1.0 + kept) };
    match call.config.decay_rows() {
        0 => {}
        1 => {
            let m = call.gates.decay(t, e, 0).map_or(0.0, f32::exp_m1);
            kept.iter_mut().for_each(|kept| *kept = next(*kept, m));
        }
        _ => {
            for (f, kept) in kept.iter_mut().enumerate() {
                *kept = next(*kept, call.gates.decay(t, e, f).map_or(0.0, f32::exp_m1));
            }
        }
    }
}

/// Multiplies a key by the decays of a token.
#[inline(always)]
fn decay_key(call: &Call<'_>, t: usize, e: usize, key: &mut [f32]) {
    match call.config.decay_rows() {
        0 => {}
        1 => {
            let m = call.gates.decay(t, e, 0).map_or(0.0, f32::exp_m1);
            key.iter_mut().for_each(|k| *k += m * *k);
        }
        _ => {
            for (f, k) in key.iter_mut().enumerate() {
                *k += call.gates.decay(t, e, f).map_or(0.0, f32::exp_m1) * *k;
            }
        }
    }
}

/// A sum of products, in sixteen sums that become vectors.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
