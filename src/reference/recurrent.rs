//! The recurrence: mu and nu carried from token to token, in f64.

use super::heads::Heads;
use super::{Output64, normalized, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
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
    inputs.check(config, shape)?;
    let lens = shape.lens(config)?;
    let [q, k, v] = inputs.rounded(config.dtype);
    let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
    let features = config.features() as usize;
    let heads = Heads::new(shape);
    let of_queries = Phi::of_queries(config, inputs.weights);
    let of_keys = Phi::of_keys(config, inputs.weights);

    let mut out = Output64::zeros(&lens);
    if let Some(initial) = inputs.initial_state {
        out.mu = initial.mu.iter().map(|x| f64::from(*x)).collect();
        out.nu = initial.nu.iter().map(|x| f64::from(*x)).collect();
    }
    let (mut key, mut query) = (vec![0.0; features], vec![0.0; features]);
    let mut sum = vec![0.0; value_dim];
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for t in tokens {
            for e in 0..heads.value {
                let state = n * heads.value + e;
                let x = &k[heads.key_row(t, e) * key_dim..][..key_dim];
                of_keys.row(x, heads.key_head(e), &mut key);
                let value = &v[heads.value_row(t, e) * value_dim..][..value_dim];
                for (f, k) in key.iter().enumerate() {
                    if config.is_normalized() {
                        out.nu[state * features + f] += k;
                    }
                    let mu = &mut out.mu[(state * features + f) * value_dim..][..value_dim];
                    for (mu, v) in mu.iter_mut().zip(value) {
                        *mu += k * f64::from(*v);
                    }
                }
            }
            for h in 0..heads.output {
                let e = heads.value_head(h);
                let state = n * heads.value + e;
                let x = &q[heads.query_row(t, h) * key_dim..][..key_dim];
                let head = of_queries.weights_head(heads.query_head(h), heads.key_head(e));
                let gain = of_queries.row(x, head, &mut query);
                let mut weight = 0.0;
                sum.fill(0.0);
                for (f, q) in query.iter().enumerate() {
                    if config.is_normalized() {
                        weight += q * out.nu[state * features + f];
                    }
                    let mu = &out.mu[(state * features + f) * value_dim..][..value_dim];
                    for (sum, mu) in sum.iter_mut().zip(mu) {
                        *sum += q * mu;
                    }
                }
                let o = &mut out.o[heads.output_row(t, h) * value_dim..][..value_dim];
                for (o, x) in o.iter_mut().zip(&sum) {
                    *o = normalized(config, *x, weight, gain);
                }
            }
        }
    }
    Ok(out)
}
