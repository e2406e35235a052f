//! Mirror of `matrix/segment_output.wgsl`, `matrix/segment_state.wgsl` and
//! `matrix/segment_transition.wgsl`: a chunk of tokens at a time, with factors in f16 and sums in
//! f32.
//!
//! Sums over tokens and features have one order here and any on a device. Value blocks have scales
//! of their own there; all are powers of two, which round nothing but what is below 2^-28 of the
//! largest.

use std::ops::Range;

use super::segment_output::row_factor;
use super::{Sizes, State};
use crate::plan::Plan;
use crate::problem::dtype::Dtype;
use crate::problem::io::Inputs;

/// Bits of the exponent, so that both powers of a scale are normal numbers.
fn half_exponent(largest: f32) -> u32 {
    (largest.to_bits() >> 23).clamp(15, 254)
}

/// The power of two that brings a largest magnitude to 2^14 .. 2^15.
fn half_scale(largest: f32) -> f32 {
    f32::from_bits((268 - half_exponent(largest)) << 23)
}

/// One over it.
fn half_inverse(largest: f32) -> f32 {
    f32::from_bits((half_exponent(largest) - 14) << 23)
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()))
}

/// Factors of a row that is multiplied by `scale`.
fn halves(x: &[f32], scale: f32) -> Vec<f32> {
    x.iter().map(|x| Dtype::F16.round(x * scale)).collect()
}

/// What enters the state, as factors.
struct Values {
    /// `[tokens,V]`, each by its scale.
    factors: Vec<Vec<f32>>,
    /// One over each.
    inverses: Vec<f32>,
    /// The largest magnitude of each, or of all.
    largest: Vec<f32>,
}

impl Values {
    /// Rows of v; f16 has those in f16 as they are.
    fn uncorrected(dtype: Dtype, values: &[Vec<f32>]) -> Self {
        let largest: Vec<f32> = values.iter().map(|value| largest(value)).collect();
        if dtype == Dtype::F16 {
            return Self { factors: values.to_vec(), inverses: vec![1.0; values.len()], largest };
        }
        Self::scaled(values, largest)
    }

    fn corrected(values: &[Vec<f32>]) -> Self {
        let all = values.iter().fold(0.0, |all: f32, value| all.max(largest(value)));
        Self::scaled(values, vec![all; values.len()])
    }

    fn scaled(values: &[Vec<f32>], largest: Vec<f32>) -> Self {
        let scaled = values.iter().zip(&largest);
        let factors = scaled.map(|(value, largest)| halves(value, half_scale(*largest))).collect();
        let inverses = largest.iter().map(|largest| half_inverse(*largest)).collect();
        Self { factors, inverses, largest }
    }

    /// As the factors have them.
    fn rounded(&self) -> Vec<Vec<f32>> {
        let row = |(factors, inverse): (&Vec<f32>, &f32)| -> Vec<f32> {
            factors.iter().map(|v| v * inverse).collect()
        };
        self.factors.iter().zip(&self.inverses).map(row).collect()
    }
}

/// The state before a chunk, as a factor.
struct Before {
    /// `[F,V]`, by its scale.
    state: Vec<f32>,
    /// One over it.
    inverse: f32,
}

/// A chunk of tokens of a value head.
struct Chunk {
    /// Features of the keys, each by its scale: `[tokens,F]`.
    keys: Vec<Vec<f32>>,
    key_max: Vec<f32>,
    /// exp(decay) - 1 of each token.
    decays: Vec<f32>,
    /// Weights of the scaled keys in the state, and the largest product of each.
    weights: Vec<f32>,
    reach: Vec<f32>,
}

impl Chunk {
    fn new(sizes: &Sizes<'_>, inputs: Inputs<'_>, tokens: &Range<usize>, e: usize) -> Self {
        let mut chunk = Self {
            keys: Vec::new(),
            key_max: Vec::new(),
            decays: Vec::new(),
            weights: Vec::new(),
            reach: Vec::new(),
        };
        for t in tokens.clone() {
            let x = &inputs.k[sizes.heads.key(t, e)..][..sizes.key_dim];
            let mut key = vec![0.0; sizes.features];
            sizes.of_keys.row(x, sizes.heads.key_head(e), &mut key);
            let key_max = largest(&key);
            chunk.keys.push(halves(&key, half_scale(key_max)));
            chunk.key_max.push(key_max);
            chunk.decays.push(sizes.gates.decay(t, e, 0).map_or(0.0, f32::exp_m1));
        }
        chunk
    }

    /// The weights of the tokens in the state.
    fn weigh(&mut self, values: &Values) {
        for (i, largest) in values.largest.iter().enumerate() {
            let kept = 1.0 + self.decay_between(i + 1..values.largest.len());
            let weight = kept * half_inverse(self.key_max[i]);
            self.weights.push(weight);
            self.reach.push(32_768.0 * weight.abs() * largest);
        }
    }

    /// The product of key i with `x`, a factor of another row.
    fn product(&self, x: &[f32], i: usize) -> f32 {
        x.iter().zip(&self.keys[i]).map(|(x, k)| x * k).sum::<f32>() * half_inverse(self.key_max[i])
    }

    /// `(I + L) U = beta (V - a K' S)`, by substitution from the first token to the last.
    fn corrected(&self, betas: &[f32], before: &Before, values: &[Vec<f32>]) -> Values {
        let mut corrected: Vec<Vec<f32>> = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let key = &self.keys[i];
            let l = |j: usize| {
                let product = self.product(key, j) * half_inverse(self.key_max[i]);
                betas[i] * (product * (1.0 + self.decay_between(j + 1..i + 1)))
            };
            let l: Vec<f32> = (0..i).map(l).collect();
            let kept = 1.0 + self.decay_between(0..i + 1);
            let recall = kept * before.inverse * half_inverse(self.key_max[i]);
            let row = |(c, v): (usize, &f32)| {
                let rows = before.state.chunks(value.len());
                let recalled: f32 = key.iter().zip(rows).map(|(k, mu)| k * mu[c]).sum();
                let u = betas[i] * (v - recall * recalled);
                l.iter().zip(&corrected).fold(u, |u, (l, earlier)| u - l * earlier[c])
            };
            let row = value.iter().enumerate().map(row).collect();
            corrected.push(row);
        }
        Values::corrected(&corrected)
    }

    /// The product of the decays of some tokens, less 1.
    fn decay_between(&self, tokens: Range<usize>) -> f32 {
        let product = |total: f32, m: &f32| {
            if *m == -1.0 { -1.0 } else { total + m * (1.0 + total) }
        };
        self.decays[tokens].iter().fold(0.0, product)
    }
}

impl State {
    /// The tokens of a segment enter the state of value head e, with values of zero where `v` is
    /// `None`; with `o` its outputs are computed, too.
    pub(super) fn advance_in_chunks(
        &mut self,
        (plan, sizes): (&Plan, &Sizes<'_>),
        inputs: Inputs<'_>,
        (tokens, e): (Range<usize>, usize),
        v: Option<&[f32]>,
        mut o: Option<&mut [f32]>,
    ) {
        let value = |t: usize| match v {
            Some(v) => v[sizes.heads.value(t, e)..][..sizes.value_dim].to_vec(),
            None => vec![0.0; sizes.value_dim],
        };
        let mut bound = largest(&self.mu);
        for first in tokens.clone().step_by(plan.chunk_len() as usize) {
            let tokens = first..tokens.end.min(first + plan.chunk_len() as usize);
            let state = halves(&self.mu, half_scale(bound));
            let before = Before { state, inverse: half_inverse(bound) };
            let values: Vec<Vec<f32>> = tokens.clone().map(value).collect();
            let mut chunk = Chunk::new(sizes, inputs, &tokens, e);
            let betas: Option<Vec<f32>> = tokens.clone().map(|t| sizes.gates.beta(t, e)).collect();
            let mut values = Values::uncorrected(sizes.config.dtype, &values);
            if let Some(betas) = betas {
                values = chunk.corrected(&betas, &before, &values.rounded());
            }
            chunk.weigh(&values);
            if let Some(o) = &mut o {
                for (i, t) in tokens.clone().enumerate() {
                    for h in e * sizes.heads.value_group..(e + 1) * sizes.heads.value_group {
                        let o = &mut o[sizes.heads.output(t, h)..][..sizes.value_dim];
                        self.chunk_row(
                            (sizes, inputs),
                            &before,
                            (&chunk, &values),
                            [i, t, h, e],
                            o,
                        );
                    }
                }
            }
            let kept = (1.0 + chunk.decay_between(0..tokens.len())).abs();
            bound = kept * largest(&self.mu) + plan.layout().rows as f32 * largest(&chunk.reach);
            self.add_chunk(sizes, &chunk, &values);
        }
    }

    /// A row of o, of the token of index i in its chunk.
    fn chunk_row(
        &self,
        (sizes, inputs): (&Sizes<'_>, Inputs<'_>),
        before: &Before,
        (chunk, values): (&Chunk, &Values),
        [i, t, h, e]: [usize; 4],
        o: &mut [f32],
    ) {
        let heads = &sizes.heads;
        let mut query = vec![0.0; sizes.features];
        let x = &inputs.q[heads.query(t, h)..][..sizes.key_dim];
        let head = sizes.of_queries.weights_head(heads.query_head(h), heads.key_head(e));
        let gain = sizes.of_queries.row(x, head, &mut query);
        let query_max = largest(&query);
        let query = halves(&query, half_scale(query_max));

        let score = |j: usize| chunk.product(&query, j) * (1.0 + chunk.decay_between(j + 1..i + 1));
        let scores: Vec<f32> = (0..=i).map(score).collect();
        let of_chunk = scores.iter().sum::<f32>();
        let scores: Vec<f32> =
            scores.iter().zip(&values.inverses).map(|(score, inverse)| score * inverse).collect();
        let score_max = largest(&scores);
        let scores = halves(&scores, half_scale(score_max));

        let kept = 1.0 + chunk.decay_between(0..i + 1);
        let (of_scores, of_query) = (half_inverse(score_max), half_inverse(query_max));
        let products = query.iter().zip(&self.nu).map(|(q, nu)| q * nu);
        let weight = (kept * products.sum::<f32>() + of_chunk) * of_query;
        let factor = row_factor(sizes.config, weight, gain);
        for (c, o) in o.iter_mut().enumerate() {
            let rows = before.state.chunks(sizes.value_dim);
            let old: f32 = query.iter().zip(rows).map(|(q, mu)| q * mu[c]).sum();
            let own: f32 = scores.iter().zip(&values.factors).map(|(score, v)| score * v[c]).sum();
            let old = old * of_query * (kept * before.inverse);
            *o = (old + own * of_query * of_scores) * factor;
        }
    }

    /// `mu += m mu + sum_i weight_i k'_i^T v_i`, and nu alike.
    fn add_chunk(&mut self, sizes: &Sizes<'_>, chunk: &Chunk, values: &Values) {
        let m = chunk.decay_between(0..values.factors.len());
        let largest = largest(&chunk.reach) / 32_768.0;
        let (scale, inverse) = (half_scale(largest), half_inverse(largest));
        let weighted = |(value, weight): (&Vec<f32>, &f32)| -> Vec<f32> {
            let weighted: Vec<f32> = value.iter().map(|v| v * weight).collect();
            halves(&weighted, scale)
        };
        let rounded = values.rounded();
        let weighted: Vec<Vec<f32>> = rounded.iter().zip(&chunk.weights).map(weighted).collect();
        for (f, mu) in self.mu.chunks_mut(sizes.value_dim).enumerate() {
            for (c, mu) in mu.iter_mut().enumerate() {
                let products = chunk.keys.iter().zip(&weighted).map(|(k, v)| k[f] * v[c]);
                let added = products.sum::<f32>() * inverse;
                *mu += m * *mu;
                *mu += added;
            }
        }
        for (f, nu) in self.nu.iter_mut().enumerate() {
            let mut sum = *nu + m * *nu;
            for (key, weight) in chunk.keys.iter().zip(&chunk.weights) {
                sum += weight * key[f];
            }
            *nu = sum;
        }
    }
}
