//! The definition: every token weighs every token up to itself, in f64.

use super::{Output64, Rows, normalized, phi};
use crate::{Config, Error, Inputs, Shape};

/// Linear attention as it is defined, O(T²):
///
/// `o_i = s (q'_i mu_0 + Σ_{j<=i} (q'_i . k'_j) v_j) / (s (q'_i . nu_0 + Σ_{j<=i} q'_i . k'_j) + eps)`
///
/// # Errors
///
/// A config, shape or inputs that no call would accept.
pub fn naive(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output64, Error> {
    config.validate()?;
    let lens = shape.lens(config)?;
    inputs.check(&lens)?;
    let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
    let rows = Rows::new(shape);
    let mapped = |x: &[f32]| -> Vec<f64> {
        x.iter().map(|x| phi(config.feature_map, f64::from(*x))).collect()
    };
    let (q, k) = (mapped(inputs.q), mapped(inputs.k));
    let initial = |state: usize, f: usize, c: usize| {
        inputs.initial.map_or(0.0, |s| f64::from(s.mu[(state * key_dim + f) * value_dim + c]))
    };
    let initial_nu = |state: usize, f: usize| {
        inputs.initial.map_or(0.0, |s| f64::from(s.nu[state * key_dim + f]))
    };

    let mut out = Output64::zeros(&lens);
    for n in 0..shape.batch as usize {
        for h in 0..rows.heads {
            let g = rows.kv_head(h);
            let state = n * rows.kv_heads + g;
            for i in 0..rows.seq_len {
                let q_i = &q[rows.q(n, i, h) * key_dim..][..key_dim];
                let weight = |j: usize| -> f64 {
                    let k_j = &k[rows.kv(n, j, g) * key_dim..][..key_dim];
                    q_i.iter().zip(k_j).map(|(q, k)| q * k).sum()
                };
                let weights: Vec<f64> = (0..=i).map(weight).collect();
                let initial_weight: f64 = (0..key_dim).map(|f| q_i[f] * initial_nu(state, f)).sum();
                let total = initial_weight + weights.iter().sum::<f64>();
                for c in 0..value_dim {
                    let before: f64 = (0..key_dim).map(|f| q_i[f] * initial(state, f, c)).sum();
                    let seen: f64 = weights
                        .iter()
                        .enumerate()
                        .map(|(j, w)| w * f64::from(inputs.v[rows.kv(n, j, g) * value_dim + c]))
                        .sum();
                    out.o[rows.q(n, i, h) * value_dim + c] =
                        normalized(config, before + seen, total);
                }
            }
        }
        for g in 0..rows.kv_heads {
            let state = n * rows.kv_heads + g;
            let key = |t: usize, f: usize| k[rows.kv(n, t, g) * key_dim + f];
            for f in 0..key_dim {
                out.nu[state * key_dim + f] =
                    initial_nu(state, f) + (0..rows.seq_len).map(|t| key(t, f)).sum::<f64>();
                for c in 0..value_dim {
                    let value = |t: usize| f64::from(inputs.v[rows.kv(n, t, g) * value_dim + c]);
                    out.mu[(state * key_dim + f) * value_dim + c] = initial(state, f, c)
                        + (0..rows.seq_len).map(|t| key(t, f) * value(t)).sum::<f64>();
                }
            }
        }
    }
    Ok(out)
}
