//! Softmax attention, which linear attention approximates.

use super::token_ranges;
use crate::error::Error;
use crate::problem::config::{Config, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

/// Causal softmax attention in f64, O(T²):
///
/// `o_i = Σ_{j<=i} e^(q_i . k_j / √K) v_j / Σ_{j<=i} e^(q_i . k_j / √K)`
///
/// o `[B,T,max(H,E),V]`. Of `config` it takes K, V and the dtype of q, k and v; an initial state
/// has no part in it.
///
/// # Errors
///
/// A config, shape or inputs that no call would accept.
pub fn softmax(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Vec<f64>, Error> {
    // Of softmax's own: it has no feature map, and no nu.
    let config = &Config::new(config.key_dim, config.value_dim)
        .with_feature_map(FeatureMap::Identity)
        .with_normalization(Normalization::None)
        .with_dtype(config.dtype);
    let inputs = Inputs::new(inputs.q, inputs.k, inputs.v);
    inputs.check(config, shape)?;
    let lens = shape.lens(config)?;
    let [q, k, v] = inputs.rounded(config.dtype);
    let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
    let heads = Heads::new(config, shape);
    let scale = f64::from(config.key_dim).sqrt().recip();
    let mut o = vec![0.0; lens.o as usize];
    let mut logits = Vec::new();
    for tokens in token_ranges(shape)? {
        for i in tokens.clone() {
            for h in 0..heads.output {
                let e = heads.value_head(h);
                let q_i = &q[heads.query(i, h)..][..key_dim];
                logits.clear();
                logits.extend((tokens.start..=i).map(|j| {
                    let k_j = &k[heads.key(j, e)..][..key_dim];
                    let dot: f64 =
                        q_i.iter().zip(k_j).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    scale * dot
                }));
                // Every weight less the largest, which is e^0: the quotient is the same.
                let row_max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let o = &mut o[heads.output(i, h)..][..value_dim];
                let mut total = 0.0;
                for (j, logit) in (tokens.start..).zip(&logits) {
                    let weight = (logit - row_max).exp();
                    total += weight;
                    let v_j = &v[heads.value(j, e)..][..value_dim];
                    for (o, v) in o.iter_mut().zip(v_j) {
                        *o += weight * f64::from(*v);
                    }
                }
                for o in o {
                    *o /= total;
                }
            }
        }
    }
    Ok(o)
}
