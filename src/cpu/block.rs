//! A block of tokens of one value head: the coefficients of the passes over the state.

use super::features::Features;
use super::passes::TOKENS;
use crate::problem::config::{Config, Gating};
use crate::problem::gates::Gates;
use crate::problem::heads::Heads;

/// The inputs and maps that the blocks of a call share.
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
    /// The keys, `[F][TOKENS]`.
    transposed: Vec<[f32; TOKENS]>,
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
            transposed: vec![[0.0; TOKENS]; features],
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
        let decays = Decays::of_block(call, first, tokens, e);
        self.fill_keys(call, &decays, [first, tokens, e]);
        for h in 0..call.heads.value_group {
            self.fill_queries(call, &decays, [first, tokens, e], h, nu);
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
    fn fill_keys(&mut self, call: &Call<'_>, decays: &Decays, [first, tokens, e]: [usize; 3]) {
        let features = call.config.features() as usize;
        let corrects = call.config.update_rule.beta().is_some();
        transpose(&self.keys, &mut self.transposed);
        let (kept, key) = self.decayed.split_at_mut(features);
        if !decays.are_of_rows {
            if corrects {
                self.of_keys = decays.scale(products(&self.transposed, &self.transposed));
            }
            scale(&self.transposed, &decays.up_to_last, &mut self.write);
            if corrects {
                scale(&self.transposed, &decays.from_first, &mut self.recall);
            }
            self.kept.fill(decays.kept);
            return;
        }
        kept.fill(0.0);
        for t in 0..tokens {
            decay_rows(call, first + t, e, kept);
            if corrects {
                let of_token = &self.keys[t * features..][..features];
                for ((recall, k), kept) in self.recall.iter_mut().zip(of_token).zip(kept.iter()) {
                    recall[t] = k + kept * k;
                }
            }
        }
        self.kept.copy_from_slice(kept);
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
        decays: &Decays,
        [first, tokens, e]: [usize; 3],
        h: usize,
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
        if decays.are_of_rows {
            self.fill_decayed_queries(call, [first, tokens, e], h);
        } else {
            let read = &mut self.read[h];
            transpose(&self.queries, read);
            self.of_queries[h] = decays.scale(products(read, &self.transposed));
            for row in read.iter_mut() {
                row.iter_mut().zip(&decays.from_first).for_each(|(q, kept)| *q *= kept);
            }
        }
        let mut weights = [0.0f32; TOKENS];
        if call.config.is_normalized() {
            for (read, nu) in self.read[h].iter().zip(nu) {
                for (weight, q) in weights.iter_mut().zip(read) {
                    *weight = q.mul_add(*nu, *weight);
                }
            }
        }
        for (t, weight) in weights.into_iter().enumerate() {
            let weight = weight + self.of_queries[h][t].iter().take(t + 1).sum::<f32>();
            self.factors[h][t] = row_factor(call.config, weight, gains[t]);
        }
    }

    /// The same with a decay for each row, which cannot be taken out of a product.
    #[inline(always)]
    fn fill_decayed_queries(&mut self, call: &Call<'_>, [first, tokens, e]: [usize; 3], h: usize) {
        let features = call.config.features() as usize;
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
        for t in 0..tokens {
            let query = &mut self.queries[t * features..][..features];
            decay_rows(call, first + t, e, kept);
            query.iter_mut().zip(kept.iter()).for_each(|(q, kept)| *q += kept * *q);
        }
        transpose(&self.queries, &mut self.read[h]);
    }
}

/// The decays of a block where all rows of mu have the same, or none.
struct Decays {
    are_of_rows: bool,
    /// A_tj, of the tokens after j up to t; 0 above the diagonal.
    between: [[f32; TOKENS]; TOKENS],
    /// P_t, of the tokens up to t.
    from_first: [f32; TOKENS],
    /// Of the tokens after j.
    up_to_last: [f32; TOKENS],
    /// P_8 - 1.
    kept: f32,
}

impl Decays {
    #[inline(always)]
    fn of_block(call: &Call<'_>, first: usize, tokens: usize, e: usize) -> Self {
        let are_of_rows = call.config.gates() == Some(Gating::PerRow);
        let mut decays = Self {
            are_of_rows,
            between: [[0.0; TOKENS]; TOKENS],
            from_first: [1.0; TOKENS],
            up_to_last: [1.0; TOKENS],
            kept: 0.0,
        };
        let has_decays = call.config.decay_rows() > 0 && !are_of_rows;
        // m = exp(decay) - 1 of each token; 0 where there is none.
        let mut m = [0.0f32; TOKENS];
        if has_decays {
            for (t, m) in m.iter_mut().enumerate().take(tokens) {
                *m = call.gates.decay(first + t, e, 0).map_or(0.0, f32::exp_m1);
            }
        }
        for t in 0..TOKENS {
            decays.between[t][t] = 1.0;
            for j in (0..t).rev() {
                decays.between[t][j] = decays.between[t][j + 1] * (1.0 + m[j + 1]);
            }
            decays.kept = next_kept(decays.kept, m[t]);
            decays.from_first[t] = 1.0 + decays.kept;
        }
        decays.up_to_last = decays.between[TOKENS - 1];
        decays
    }

    /// Products of tokens t and j, with the decays between them.
    #[inline(always)]
    fn scale(&self, mut products: [[f32; TOKENS]; TOKENS]) -> [[f32; TOKENS]; TOKENS] {
        for (products, between) in products.iter_mut().zip(&self.between) {
            products.iter_mut().zip(between).for_each(|(product, decay)| *product *= decay);
        }
        products
    }
}

/// From `[TOKENS][F]` to `[F][TOKENS]`.
#[inline(always)]
fn transpose(rows: &[f32], columns: &mut [[f32; TOKENS]]) {
    let features = columns.len();
    for (f, column) in columns.iter_mut().enumerate() {
        for (t, x) in column.iter_mut().enumerate() {
            *x = rows[t * features + f];
        }
    }
}

/// `to[f][t] = from[f][t] by[t]`.
#[inline(always)]
fn scale(from: &[[f32; TOKENS]], by: &[f32; TOKENS], to: &mut [[f32; TOKENS]]) {
    for (to, from) in to.iter_mut().zip(from) {
        for ((to, from), by) in to.iter_mut().zip(from).zip(by) {
            *to = from * by;
        }
    }
}

/// `[t][j]`: the products of tokens t of one and j of the other.
#[inline(always)]
fn products(a: &[[f32; TOKENS]], b: &[[f32; TOKENS]]) -> [[f32; TOKENS]; TOKENS] {
    let mut sums = [[0.0f32; TOKENS]; TOKENS];
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
    sums
}

/// (1 + m) (1 + m') - 1; what forgets everything leaves nothing for rounding.
#[inline(always)]
fn next_kept(kept: f32, m: f32) -> f32 {
    if m == -1.0 { -1.0 } else { kept + m * (1.0 + kept) }
}

/// Multiplies what is kept of each row, less 1, by the decays of a token.
#[inline(always)]
fn decay_rows(call: &Call<'_>, t: usize, e: usize, kept: &mut [f32]) {
    for (f, kept) in kept.iter_mut().enumerate() {
        *kept = next_kept(*kept, call.gates.decay(t, e, f).map_or(0.0, f32::exp_m1));
    }
}

/// Multiplies each row of a key by the decays of a token.
#[inline(always)]
fn decay_key(call: &Call<'_>, t: usize, e: usize, key: &mut [f32]) {
    for (f, k) in key.iter_mut().enumerate() {
        *k += call.gates.decay(t, e, f).map_or(0.0, f32::exp_m1) * *k;
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

/// The factor of a row whose weight q' . nu is given; 0 where the weight is below every normal value.
/// Written apart from the mirror's, whose error is the bound that the harness holds this engine to.
fn row_factor(config: &Config, weight: f32, gain: f32) -> f32 {
    let scale = config.scale;
    let (above, below) = match config.normalization.eps() {
        None => return scale / gain,
        // s is a common factor as well.
        Some(0.0) => (1.0, weight),
        Some(eps) => (scale, scale * weight + eps * gain),
    };
    if below.abs() < f32::MIN_POSITIVE { 0.0 } else { above / below }
}
