//! The recurrence: mu and nu carried from token to token, in f64.

use super::{Output64, normalized, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
use crate::problem::gates::Gates;
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

/// Attention as a recurrence, O(T). A token does, in this order, with `a_i = exp(decay_i)`,
///
/// ```text
/// mu   = a_i mu_{i-1}          nu   = a_i nu_{i-1}
/// u_i  = v_i, or beta_i (v_i - k'_i mu)
/// mu_i = mu + k'_i^T u_i       nu_i = nu + k'_i
/// o_i  = s q'_i mu_i / (s q'_i . nu_i + eps)
/// ```
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
    let heads = Heads::new(config, shape);
    let of_queries = Phi::of_queries(config, inputs.weights);
    let of_keys = Phi::of_keys(config, inputs.weights);

    let mut out = Output64::zeros(&lens);
    if let Some(initial) = inputs.initial_state {
        out.mu = initial.mu.iter().map(|x| f64::from(*x)).collect();
        out.nu = initial.nu.iter().map(|x| f64::from(*x)).collect();
    }
    let (mut key, mut query) = (vec![0.0; features], vec![0.0; features]);
    let (mut value, mut sum) = (Vec::with_capacity(value_dim), vec![0.0; value_dim]);
    let gates = Gates::<f64>::new(config, shape, inputs);
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for t in tokens {
            for e in 0..heads.value {
                let state = n * heads.value + e;
                let x = &k[heads.key(t, e)..][..key_dim];
                of_keys.row(x, heads.key_head(e), &mut key);
                let v = &v[heads.value(t, e)..][..value_dim];
                value.clear();
                value.extend(v.iter().map(|v| f64::from(*v)));
                let mu = &mut out.mu[state * features * value_dim..][..features * value_dim];
                for (f, mu) in mu.chunks_mut(value_dim).enumerate() {
                    let Some(a) = gates.decay(t, e, f).map(f64::exp) else { continue };
                    mu.iter_mut().for_each(|mu| *mu *= a);
                    if config.is_normalized() {
                        out.nu[state * features + f] *= a;
                    }
                }
                if let Some(beta) = gates.beta(t, e) {
                    for (k, mu) in key.iter().zip(mu.chunks(value_dim)) {
                        for (u, mu) in value.iter_mut().zip(mu) {
                            *u -= k * mu;
                        }
                    }
                    value.iter_mut().for_each(|u| *u *= beta);
                }
                for (f, (k, mu)) in key.iter().zip(mu.chunks_mut(value_dim)).enumerate() {
                    if config.is_normalized() {
                        out.nu[state * features + f] += k;
                    }
                    for (mu, u) in mu.iter_mut().zip(&value) {
                        *mu += k * u;
                    }
                }
            }
            for h in 0..heads.output {
                let e = heads.value_head(h);
                let state = n * heads.value + e;
                let x = &q[heads.query(t, h)..][..key_dim];
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
                let o = &mut out.o[heads.output(t, h)..][..value_dim];
                for (o, x) in o.iter_mut().zip(&sum) {
                    *o = normalized(config, *x, weight, gain);
                }
            }
        }
    }
    Ok(out)
}
