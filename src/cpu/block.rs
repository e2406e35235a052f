//! A block of tokens of one value head: its decays, and the products of its tokens.

use pulp::Simd;

use crate::cpu::aligned::Aligned;
use crate::cpu::call::Call;
use crate::cpu::decays::{Decays, TOKENS_OF_ROW_DECAYS, decay, decay_rows, has_row_decays};
use crate::cpu::features::{Features, RowBuffer};
use crate::cpu::fused::mul_add;
use crate::cpu::mutation::Mutation;
use crate::cpu::nu;
use crate::cpu::pairs::{Pairs, UP_TO, dot, multiply_pairs, products};
use crate::cpu::rows::Queries;
use crate::cpu::tiles::{TOKENS, width};
use crate::cpu::transpose::transpose;
use crate::problem::config::Config;

/// Features whose products with nu are added up before they are added to the others: the error of a
/// sum over F grows with the length of its parts.
const FEATURES_OF_SUM: usize = 64;

/// The products of features and decays of a block of tokens of a value head.
#[derive(Debug)]
pub(super) struct Block {
    features: usize,
    /// Elements from one row of features to the next.
    pub(super) width: usize,
    /// `k'_t`, `[width][TOKENS]`; empty but for delta rules.
    keys: Aligned,
    /// `q'_t P_t` of an output head, `[width][TOKENS]`.
    pub(super) queries: Aligned,
    /// `k'_t P_t`, by which a delta rule recalls, `[width][TOKENS]`; empty without decays, when it
    /// is the keys.
    recall: Aligned,
    /// `k'_j A_nj`, which are added, `[TOKENS][width]`; empty without decays, when they are the
    /// rows of keys.
    written: Aligned,
    /// `k'_t A_tj . k'_j` for j < t.
    pub(super) of_keys: Box<Pairs>,
    /// `q'_t A_tj . k'_j` for j <= t.
    pub(super) of_queries: Box<Pairs>,
    /// The factor of each row of o.
    pub(super) factors: [f32; TOKENS],
    pub(super) betas: [f32; TOKENS],
    /// `P_n - 1` of each row; empty without decays.
    pub(super) kept: Vec<f32>,
    decays: Decays,
    added: Vec<f32>,
}

impl Block {
    pub(super) fn new(config: &Config) -> Self {
        let (features, width) = (config.features() as usize, width(config));
        let rule = config.update_rule;
        let has_decays = rule.decay().is_some();
        let all = |is_used: bool| Aligned::zeros(if is_used { TOKENS * width } else { 0 });
        let pairs = || Box::new([[0.0; TOKENS]; TOKENS]);
        Self {
            features,
            width,
            keys: all(rule.beta().is_some()),
            queries: all(true),
            recall: all(rule.beta().is_some() && has_decays),
            written: all(has_decays),
            of_keys: pairs(),
            of_queries: pairs(),
            factors: [0.0; TOKENS],
            betas: [1.0; TOKENS],
            kept: vec![0.0; if has_decays { width } else { 0 }],
            decays: Decays::new(config),
            added: vec![0.0; features],
        }
    }

    /// The most tokens of a block.
    pub(super) fn tokens(config: &Config) -> usize {
        if has_row_decays(config) { TOKENS_OF_ROW_DECAYS } else { TOKENS }
    }

    /// The keys as they are added: `[tokens][width]`.
    pub(super) fn written<'a>(&'a self, keys: &'a [f32]) -> &'a [f32] {
        if self.written.is_empty() { keys } else { &self.written }
    }

    /// The keys by which a delta rule recalls: `[width][TOKENS]`.
    pub(super) fn recall(&self) -> &[f32] {
        if self.recall.is_empty() { &self.keys } else { &self.recall }
    }

    /// Computes all that the keys of the tokens `first .. first + count` of head e decide.
    #[inline(always)]
    pub(super) fn fill_keys<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        [first, count, e]: [usize; 3],
        keys: &[f32],
    ) {
        let rule = call.config.update_rule;
        let (corrects, has_decays) = (rule.beta().is_some(), rule.decay().is_some());
        if corrects {
            for (t, beta) in self.betas.iter_mut().enumerate().take(count) {
                *beta = call.gates.beta(first + t, e);
                if call.mistake.is(Mutation::BetaForgotten) {
                    *beta = 1.0;
                }
            }
        }
        if has_row_decays(call.config) {
            self.decays.fill_rows(call, [first, count, e]);
            let last = &self.decays.kept_rows[(count - 1) * self.features..][..self.features];
            self.kept[..self.features].copy_from_slice(last);
            self.fill_keys_of_row_decays(simd, corrects, count, keys);
            return;
        }
        if corrects {
            transpose(simd, keys, [count, self.width], (&mut self.keys, TOKENS));
            products(simd, (keys, self.width), &self.keys, count, &mut self.of_keys);
        }
        if !has_decays {
            return;
        }
        self.decays.fill(call, [first, count, e]);
        self.kept.fill(self.decays.kept[count - 1]);
        let rows = self.written.chunks_mut(self.width).zip(keys.chunks(self.width));
        for ((written, key), between) in rows.zip(self.decays.between.iter()).take(count) {
            let decay = between[count - 1];
            for (written, k) in written.iter_mut().zip(key) {
                *written = decay * k;
            }
        }
        if corrects {
            multiply_pairs(&mut self.of_keys, &self.decays.between, count);
            let columns = self.recall.as_chunks_mut::<TOKENS>().0.iter_mut();
            for (recall, keys) in columns.zip(self.keys.as_chunks::<TOKENS>().0) {
                *recall = *keys;
                decay(recall, &self.decays.kept);
            }
        }
    }

    /// Does what `fill_keys` does, pair by pair, where decays are no factor of a product of rows.
    #[inline(always)]
    fn fill_keys_of_row_decays<S: Simd>(
        &mut self,
        simd: S,
        corrects: bool,
        count: usize,
        keys: &[f32],
    ) {
        let (features, width) = (self.features, self.width);
        let Decays { kept_rows, of_rows, row, rows, .. } = &mut self.decays;
        for j in 0..count {
            row.copy_from_slice(&keys[j * width..][..features]);
            for t in j + 1..count {
                decay(row, &of_rows[t * features..]);
                if corrects {
                    self.of_keys[j][t] = dot(&keys[t * width..][..features], row);
                }
            }
            self.written[j * width..][..features].copy_from_slice(row);
        }
        if corrects {
            decay_rows(keys, [features, width, count], kept_rows, rows);
            transpose(simd, rows, [count, width], (&mut self.recall, TOKENS));
        }
    }

    /// The products of queries of an output head with the keys, and the factors of its rows of o.
    /// `row` has room for a row of q.
    #[inline(always)]
    pub(super) fn fill_queries<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        [first, count, output_head]: [usize; 3],
        (keys, queries): (&[f32], &mut Queries),
        (nu, row): (&[f32], &mut RowBuffer),
    ) {
        let (config, features, width) = (call.config, self.features, self.width);
        transpose(simd, &queries.rows, [count, width], (&mut self.queries, TOKENS));
        if call.of_queries.leaves_out_scales() {
            let mut largest = [0.0f32; TOKENS];
            for queries in self.queries.as_chunks::<TOKENS>().0 {
                for (largest, q) in largest.iter_mut().zip(queries) {
                    *largest = largest.max(q.abs());
                }
            }
            let mut is_changed = false;
            for (t, largest) in largest.into_iter().enumerate().take(count) {
                if Features::lacks_scale(largest) {
                    queries.rescale(call, [first, t, output_head], row);
                    is_changed = true;
                }
            }
            if is_changed {
                transpose(simd, &queries.rows, [count, width], (&mut self.queries, TOKENS));
            }
        }
        if has_row_decays(config) {
            let Decays { kept_rows, of_rows, row, rows, .. } = &mut self.decays;
            for j in 0..count {
                row.copy_from_slice(&keys[j * width..][..features]);
                for t in j..count {
                    if t > j {
                        decay(row, &of_rows[t * features..]);
                    }
                    self.of_queries[j][t] = dot(&queries.rows[t * width..][..features], row);
                }
            }
            decay_rows(&queries.rows, [features, width, count], kept_rows, rows);
            transpose(simd, rows, [count, width], (&mut self.queries, TOKENS));
        } else {
            products(simd, (keys, width), &self.queries, count, &mut self.of_queries);
            if config.update_rule.decay().is_some() {
                multiply_pairs(&mut self.of_queries, &self.decays.between, count);
                for queries in self.queries.as_chunks_mut::<TOKENS>().0 {
                    decay(queries, &self.decays.kept);
                }
            }
        }
        let mut weights = [0.0f32; TOKENS];
        if config.is_normalized() {
            let queries = self.queries.as_chunks::<TOKENS>().0;
            for (queries, nu) in queries.chunks(FEATURES_OF_SUM).zip(nu.chunks(FEATURES_OF_SUM)) {
                let mut sums = [0.0f32; TOKENS];
                for (queries, nu) in queries.iter().zip(nu) {
                    for (sum, q) in sums.iter_mut().zip(queries) {
                        *sum = mul_add(*q, *nu, *sum);
                    }
                }
                for (weight, sum) in weights.iter_mut().zip(sums) {
                    *weight += sum;
                }
            }
            // A query reads the tokens up to its own.
            for (pairs, mask) in self.of_queries.iter().zip(&UP_TO).take(count) {
                for ((weight, pair), mask) in weights.iter_mut().zip(pairs).zip(mask) {
                    *weight += f32::from_bits(pair.to_bits() & mask);
                }
            }
        }
        let rows = self.factors.iter_mut().zip(weights).zip(&queries.gains);
        for ((factor, weight), gain) in rows.take(count) {
            *factor = row_factor(config, weight, *gain);
        }
    }

    /// Adds the keys to nu; `lost` is what rounding took from it.
    #[inline(always)]
    pub(super) fn add_to_nu(
        &mut self,
        (keys, count): (&[f32], usize),
        nu: &mut [f32],
        lost: &mut [f32],
    ) {
        self.added.fill(0.0);
        let written = if self.written.is_empty() { keys } else { &self.written };
        for key in written.chunks(self.width).take(count) {
            for (added, k) in self.added.iter_mut().zip(key) {
                *added += k;
            }
        }
        nu::accumulate(&self.added, &self.kept, nu, lost);
    }
}

/// The factor of a row whose weight q' . nu is given; 0 where the weight is below every normal
/// value. Written apart from the mirror's, whose error is the bound that the harness holds this
/// engine to.
#[inline(always)]
pub(super) fn row_factor(config: &Config, weight: f32, gain: f32) -> f32 {
    let scale = config.scale;
    let (above, below) = match config.normalization.eps() {
        None => return scale / gain,
        // s is a common factor as well.
        Some(0.0) => (1.0, weight),
        Some(eps) => (scale, scale * weight + eps * gain),
    };
    if below.abs() < f32::MIN_POSITIVE { 0.0 } else { above / below }
}
