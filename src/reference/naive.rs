//! The definition: every token weighs every token up to itself, in f64.

use std::ops::Range;

use super::{Output64, normalized, token_ranges};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
use crate::problem::gates::Gates;
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

/// Attention by its definition, O(T²). With `A_ij` the product of the decays of tokens j+1 to i,
/// one for each row of mu, and `u_j = v_j` where the rule has no beta:
///
/// ```text
/// u_i = beta_i (v_i - k'_i A_i0 mu_0 - Σ_{j<i} (k'_i A_ij . k'_j) u_j)
/// o_i = s (q'_i A_i0 mu_0 + Σ_{j<=i} (q'_i A_ij . k'_j) u_j)
///     / (s (q'_i A_i0 . nu_0 + Σ_{j<=i} q'_i A_ij . k'_j) + eps)
/// ```
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
    let heads = Heads::new(config, shape);
    let tokens = shape.batch as usize * shape.seq_len as usize;
    let keys = key_rows(config, inputs, &heads, tokens);
    let queries = query_rows(config, inputs, &heads, tokens);
    let gates = Gates::new(config, shape, inputs);
    let mut out = Output64::zeros(&lens);
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for e in 0..heads.value {
            let mut head = Head { n, e, tokens: tokens.clone(), values: Vec::new() };
            let of = Problem { config, inputs, heads: &heads, keys: &keys, gates: &gates };
            for i in tokens.clone() {
                let value = head.value(&of, i);
                head.values.push(value);
                for h in e * heads.value_group..(e + 1) * heads.value_group {
                    let (query, gain) = &queries[i * heads.output + h];
                    let (sums, weight) = head.read(&of, query, i, i + 1);
                    for (c, sum) in sums.into_iter().enumerate() {
                        out.o[heads.output(i, h) + c] = normalized(config, sum, weight, *gain);
                    }
                }
            }
            // The final state is what the unit vectors read.
            let state = n * heads.value + e;
            for f in 0..features {
                let mut unit = vec![0.0; features];
                unit[f] = 1.0;
                let last = tokens.end.max(tokens.start + 1) - 1;
                let (sums, weight) = head.read(&of, &unit, last, tokens.end);
                out.mu[(state * features + f) * value_dim..][..value_dim].copy_from_slice(&sums);
                if config.is_normalized() {
                    out.nu[state * features + f] = weight;
                }
            }
        }
    }
    Ok(out)
}

#[derive(Clone, Copy)]
struct Problem<'a> {
    config: &'a Config,
    inputs: Inputs<'a>,
    heads: &'a Heads,
    keys: &'a [f64],
    gates: &'a Gates<f64>,
}

/// A value head of a sequence.
struct Head {
    n: usize,
    e: usize,
    tokens: Range<usize>,
    /// u of each token so far.
    values: Vec<Vec<f64>>,
}

impl Head {
    /// u of token i: v, or beta times what it differs by from what its key recalls.
    fn value(&self, of: &Problem<'_>, i: usize) -> Vec<f64> {
        let value_dim = of.config.value_dim as usize;
        let value =
            of.inputs.v[of.heads.value(i, self.e)..][..value_dim].iter().map(|v| f64::from(*v));
        let Some(beta) = of.gates.beta(i, self.e) else { return value.collect() };
        let (recalled, _) = self.read(of, of.key(i, self.e), i, i);
        value.zip(recalled).map(|(v, recalled)| beta * (v - recalled)).collect()
    }

    /// The values that a row x reads at token i from the initial state and the tokens before `end`,
    /// and its weight.
    fn read(&self, of: &Problem<'_>, x: &[f64], i: usize, end: usize) -> (Vec<f64>, f64) {
        let Problem { config, inputs, heads, .. } = of;
        let value_dim = config.value_dim as usize;
        let state = self.n * heads.value + self.e;
        let (mut sums, mut weight) = (vec![0.0; value_dim], 0.0);
        // x, decayed from token i back to the token that is read.
        let mut decayed = x.to_vec();
        for j in self.tokens.clone().take_while(|j| *j <= i).collect::<Vec<_>>().into_iter().rev() {
            if j < end {
                let product: f64 = decayed.iter().zip(of.key(j, self.e)).map(|(x, k)| x * k).sum();
                weight += product;
                for (sum, u) in sums.iter_mut().zip(&self.values[j - self.tokens.start]) {
                    *sum += product * u;
                }
            }
            for (f, x) in decayed.iter_mut().enumerate() {
                *x *= of.gates.decay(j, self.e, f).map_or(1.0, f64::exp);
            }
        }
        if let Some(initial) = inputs.initial_state {
            for (f, x) in decayed.iter().enumerate() {
                let row = state * decayed.len() + f;
                for (sum, mu) in sums.iter_mut().zip(&initial.mu[row * value_dim..]) {
                    *sum += x * f64::from(*mu);
                }
                if config.is_normalized() {
                    weight += x * f64::from(initial.nu[row]);
                }
            }
        }
        (sums, weight)
    }
}

impl<'a> Problem<'a> {
    /// The key of token t and value head e.
    fn key(&self, t: usize, e: usize) -> &'a [f64] {
        let features = self.config.features() as usize;
        let row = t * self.heads.key + self.heads.key_head(e);
        &self.keys[row * features..][..features]
    }
}

/// φ of the rows of k: `[tokens,G,F]`.
fn key_rows(config: &Config, inputs: Inputs<'_>, heads: &Heads, tokens: usize) -> Vec<f64> {
    let phi = Phi::of_keys(config, inputs.weights);
    let mut features = vec![0.0; config.features() as usize];
    let rows = (0..tokens).flat_map(|t| (0..heads.key).map(move |head| (t, head)));
    rows.flat_map(|(t, head)| {
        let x = &inputs.k[heads.k.begin(t, head)..][..config.key_dim as usize];
        phi.row(x, head, &mut features);
        features.clone()
    })
    .collect()
}

/// φ of the query of each token and output head, with its gain.
fn query_rows(
    config: &Config,
    inputs: Inputs<'_>,
    heads: &Heads,
    tokens: usize,
) -> Vec<(Vec<f64>, f64)> {
    let phi = Phi::of_queries(config, inputs.weights);
    let key_dim = config.key_dim as usize;
    let query = |row: usize| {
        let (t, h) = (row / heads.output, row % heads.output);
        let x = &inputs.q[heads.query(t, h)..][..key_dim];
        let key_head = heads.key_head(heads.value_head(h));
        let mut features = vec![0.0; config.features() as usize];
        let gain = phi.row(x, phi.weights_head(heads.query_head(h), key_head), &mut features);
        (features, gain)
    };
    (0..tokens * heads.output).map(query).collect()
}
