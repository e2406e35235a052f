//! The definition: every token weighs every token up to itself, in f64.

use super::heads::Heads;
use super::{Output64, normalized, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
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
    inputs.check(config, shape)?;
    let lens = shape.lens(config)?;
    let [q, k, v] = inputs.rounded(config.dtype);
    let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
    let (features, value_dim) = (config.features() as usize, config.value_dim as usize);
    let heads = Heads::new(shape);
    let keys = key_rows(config, inputs, &heads);
    let queries = query_rows(config, inputs, &heads, lens.o as usize / value_dim);
    let initial_mu = |state: usize, f: usize, c: usize| {
        inputs
            .initial_state
            .map_or(0.0, |s| f64::from(s.mu[(state * features + f) * value_dim + c]))
    };
    let initial_nu = |state: usize, f: usize| {
        inputs.initial_state.map_or(0.0, |s| f64::from(s.nu[state * features + f]))
    };
    let key = |t: usize, e: usize| &keys[heads.key_row(t, e) * features..][..features];
    let value =
        |t: usize, e: usize, c: usize| f64::from(inputs.v[heads.value_row(t, e) * value_dim + c]);

    let mut out = Output64::zeros(&lens);
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for h in 0..heads.output {
            let e = heads.value_head(h);
            let state = n * heads.value + e;
            for i in tokens.clone() {
                let row = heads.output_row(i, h);
                let (query, gain) = &queries[row];
                let dot = |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                let weights: Vec<f64> = (tokens.start..=i).map(|j| dot(key(j, e))).collect();
                let mut total = weights.iter().sum::<f64>();
                if config.is_normalized() {
                    total += (0..features).map(|f| query[f] * initial_nu(state, f)).sum::<f64>();
                }
                for c in 0..value_dim {
                    let before: f64 =
                        (0..features).map(|f| query[f] * initial_mu(state, f, c)).sum();
                    let seen: f64 =
                        weights.iter().zip(tokens.start..).map(|(w, j)| w * value(j, e, c)).sum();
                    out.o[row * value_dim + c] = normalized(config, before + seen, total, *gain);
                }
            }
        }
        for e in 0..heads.value {
            let state = n * heads.value + e;
            for f in 0..features {
                if config.is_normalized() {
                    out.nu[state * features + f] =
                        initial_nu(state, f) + tokens.clone().map(|t| key(t, e)[f]).sum::<f64>();
                }
                for c in 0..value_dim {
                    out.mu[(state * features + f) * value_dim + c] = initial_mu(state, f, c)
                        + tokens.clone().map(|t| key(t, e)[f] * value(t, e, c)).sum::<f64>();
                }
            }
        }
    }
    Ok(out)
}

/// φ of the rows of k.
fn key_rows(config: &Config, inputs: Inputs<'_>, heads: &Heads) -> Vec<f64> {
    let phi = Phi::of_keys(config, inputs.weights);
    let mut features = vec![0.0; config.features() as usize];
    let rows = inputs.k.chunks(config.key_dim as usize).enumerate();
    rows.flat_map(|(row, x)| {
        phi.row(x, row % heads.key, &mut features);
        features.clone()
    })
    .collect()
}

/// φ of the query of each of `rows` rows of o, with its gain.
fn query_rows(
    config: &Config,
    inputs: Inputs<'_>,
    heads: &Heads,
    rows: usize,
) -> Vec<(Vec<f64>, f64)> {
    let phi = Phi::of_queries(config, inputs.weights);
    let key_dim = config.key_dim as usize;
    let query = |row: usize| {
        let (t, h) = (row / heads.output, row % heads.output);
        let x = &inputs.q[heads.query_row(t, h) * key_dim..][..key_dim];
        let key_head = heads.key_head(heads.value_head(h));
        let mut features = vec![0.0; config.features() as usize];
        let gain = phi.row(x, phi.weights_head(heads.query_head(h), key_head), &mut features);
        (features, gain)
    };
    (0..rows).map(query).collect()
}
