//! The definition: every token weighs every token up to itself, in f64.

use super::{Output64, Phi, Rows, check_weights, normalized, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

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
    check_weights(config, shape, inputs.weights)?;
    let [q, k, v] = inputs.rounded(config.dtype);
    let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
    let (features, value_dim) = (config.features() as usize, config.value_dim as usize);
    let rows = Rows::new(shape);
    let group = rows.heads / rows.kv_heads;
    let (q, _) =
        Phi::of_queries(config, inputs.weights, group, false).rows::<f64>(inputs.q, rows.heads);
    let (k, _) = Phi::of_keys(config, inputs.weights).rows::<f64>(inputs.k, rows.kv_heads);
    let initial = |state: usize, f: usize, c: usize| {
        inputs.initial.map_or(0.0, |s| f64::from(s.mu[(state * features + f) * value_dim + c]))
    };
    let initial_nu = |state: usize, f: usize| {
        inputs.initial.map_or(0.0, |s| f64::from(s.nu[state * features + f]))
    };

    let mut out = Output64::zeros(&lens);
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for h in 0..rows.heads {
            let g = rows.kv_head(h);
            let state = n * rows.kv_heads + g;
            for i in tokens.clone() {
                let q_i = &q[rows.q(i, h) * features..][..features];
                let weight = |j: usize| -> f64 {
                    let k_j = &k[rows.kv(j, g) * features..][..features];
                    q_i.iter().zip(k_j).map(|(q, k)| q * k).sum()
                };
                let weights: Vec<f64> = (tokens.start..=i).map(weight).collect();
                let initial_weight: f64 =
                    (0..features).map(|f| q_i[f] * initial_nu(state, f)).sum();
                let total = initial_weight + weights.iter().sum::<f64>();
                for c in 0..value_dim {
                    let before: f64 = (0..features).map(|f| q_i[f] * initial(state, f, c)).sum();
                    let seen: f64 = weights
                        .iter()
                        .zip(tokens.start..)
                        .map(|(w, j)| w * f64::from(inputs.v[rows.kv(j, g) * value_dim + c]))
                        .sum();
                    out.o[rows.q(i, h) * value_dim + c] = normalized(config, before + seen, total);
                }
            }
        }
        for g in 0..rows.kv_heads {
            let state = n * rows.kv_heads + g;
            let key = |t: usize, f: usize| k[rows.kv(t, g) * features + f];
            for f in 0..features {
                out.nu[state * features + f] =
                    initial_nu(state, f) + tokens.clone().map(|t| key(t, f)).sum::<f64>();
                for c in 0..value_dim {
                    let value = |t: usize| f64::from(inputs.v[rows.kv(t, g) * value_dim + c]);
                    out.mu[(state * features + f) * value_dim + c] = initial(state, f, c)
                        + tokens.clone().map(|t| key(t, f) * value(t)).sum::<f64>();
                }
            }
        }
    }
    Ok(out)
}
