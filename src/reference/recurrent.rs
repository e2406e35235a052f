//! The recurrence: mu and nu carried from token to token, in f64.

use super::{Output64, Phi, Rows, check_weights, normalized, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

/// Linear attention as a recurrence, O(T):
///
/// `mu_i = mu_{i-1} + k'_i^T v_i`, `nu_i = nu_{i-1} + k'_i`,
/// `o_i = s q'_i mu_i / (s q'_i . nu_i + eps)`
///
/// # Errors
///
/// A config, shape or inputs that no call would accept.
pub fn recurrent(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output64, Error> {
    config.validate()?;
    let lens = shape.lens(config)?;
    inputs.check(&lens)?;
    check_weights(config, shape, inputs.weights)?;
    let [q, k, v] = inputs.rounded(config.dtype);
    let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
    let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
    let features = config.features() as usize;
    let rows = Rows::new(shape);
    let of_queries = Phi::of_queries(config, inputs.weights, rows.heads / rows.kv_heads, false);
    let of_keys = Phi::of_keys(config, inputs.weights);

    let mut out = Output64::zeros(&lens);
    if let Some(initial) = inputs.initial {
        out.mu = initial.mu.iter().map(|x| f64::from(*x)).collect();
        out.nu = initial.nu.iter().map(|x| f64::from(*x)).collect();
    }
    let (mut key, mut query) = (vec![0.0; features], vec![0.0; features]);
    let mut sum = vec![0.0; value_dim];
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for t in tokens {
            for g in 0..rows.kv_heads {
                let state = n * rows.kv_heads + g;
                let row = rows.kv(t, g);
                of_keys.row(&inputs.k[row * key_dim..][..key_dim], g, &mut key);
                let value = &inputs.v[row * value_dim..][..value_dim];
                for (f, k) in key.iter().enumerate() {
                    out.nu[state * features + f] += k;
                    let mu = &mut out.mu[(state * features + f) * value_dim..][..value_dim];
                    for (mu, v) in mu.iter_mut().zip(value) {
                        *mu += k * f64::from(*v);
                    }
                }
            }
            for h in 0..rows.heads {
                let state = n * rows.kv_heads + rows.kv_head(h);
                let row = rows.q(t, h);
                of_queries.row(&inputs.q[row * key_dim..][..key_dim], h, &mut query);
                let mut weight = 0.0;
                sum.fill(0.0);
                for (f, q) in query.iter().enumerate() {
                    weight += q * out.nu[state * features + f];
                    let mu = &out.mu[(state * features + f) * value_dim..][..value_dim];
                    for (sum, mu) in sum.iter_mut().zip(mu) {
                        *sum += q * mu;
                    }
                }
                for (o, x) in out.o[row * value_dim..][..value_dim].iter_mut().zip(&sum) {
                    *o = normalized(config, *x, weight);
                }
            }
        }
    }
    Ok(out)
}
