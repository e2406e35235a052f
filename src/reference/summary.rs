//! The summary of a piece of a sequence, in f64.

use super::{recurrent, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
use crate::problem::gates::Gates;
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

/// A summary in f64: the state after a piece is `a mu_before + mu`, and `a nu_before + nu`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary64 {
    /// The state after the piece from zero: mu `[N,E,F,V]`.
    pub mu: Vec<f64>,
    /// nu `[N,E,F]`; empty where o is not normalised.
    pub nu: Vec<f64>,
    /// The sums of the decays of each row of mu, in log space, `[N,E,F]`; empty for delta rules.
    pub decays: Vec<f64>,
    /// The matrices a `[N,E,F,F]` of delta rules; empty for others.
    pub matrices: Vec<f64>,
}

/// The contents of a [`Summary`](crate::summary::Summary), token by token: with `a_i =
/// exp(decay_i)`,
///
/// ```text
/// a = Π_i (I - beta_i k'_i^T k'_i) diag(a_i)
/// ```
///
/// the last token on the left, of which rules without a beta have the diagonal alone.
///
/// # Errors
///
/// A config, shape or inputs that no call would accept. An initial state is not looked at.
pub fn summary(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Summary64, Error> {
    let inputs = Inputs { initial_state: None, ..inputs };
    let output = recurrent(config, shape, inputs)?;
    let gates = Gates::<f64>::new(config, shape, inputs);
    let heads = Heads::new(config, shape);
    let phi = Phi::of_keys(config, inputs.weights);
    let [_, k, _] = inputs.rounded(config.dtype);
    let features = config.features() as usize;
    let (mut decays, mut matrices) = (Vec::new(), Vec::new());
    let (mut key, mut recalled) = (vec![0.0; features], vec![0.0; features]);
    for tokens in token_ranges(shape)? {
        for e in 0..heads.value {
            if config.update_rule.beta().is_none() {
                let of_row = |f: usize| tokens.clone().filter_map(|t| gates.decay(t, e, f)).sum();
                decays.extend((0..features).map(of_row).collect::<Vec<f64>>());
                continue;
            }
            let begin = matrices.len();
            matrices.resize(begin + features * features, 0.0);
            let matrix = &mut matrices[begin..];
            matrix.iter_mut().step_by(features + 1).for_each(|x| *x = 1.0);
            for t in tokens.clone() {
                let row = &k[heads.key(t, e)..][..config.key_dim as usize];
                phi.row(row, heads.key_head(e), &mut key);
                recalled.fill(0.0);
                for (f, row) in matrix.chunks_mut(features).enumerate() {
                    let a = gates.decay(t, e, f).map_or(1.0, f64::exp);
                    for (x, recalled) in row.iter_mut().zip(&mut recalled) {
                        *x *= a;
                        *recalled += key[f] * *x;
                    }
                }
                let beta = gates.beta(t, e).unwrap_or(0.0);
                for (key, row) in key.iter().zip(matrix.chunks_mut(features)) {
                    row.iter_mut().zip(&recalled).for_each(|(x, r)| *x -= beta * key * r);
                }
            }
        }
    }
    Ok(Summary64 { mu: output.mu, nu: output.nu, decays, matrices })
}
