//! The backward pass in f64: the gradients of a loss by the inputs, token by token in reverse.

use std::ops::Range;

use super::token_ranges;
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::{Phi, WeightGradients};
use crate::problem::feature_map::projection::Projection;
use crate::problem::feature_map::weights::Weights;
use crate::problem::gates::Gates;
use crate::problem::gradients::{Gradients, OutputGradients, activate, zeros};
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::{Lens, Shape};

/// The gradients of a loss by all inputs. With `a = exp(decay)`, in the order in which a token does
/// what it does, reversed; `dmu` and `dnu` begin as the gradients of the final state:
///
/// ```text
/// c     = s / (s q' . nu_i + eps)                            s where nothing is divided
/// dq'   = c (mu_i do - (do . o) nu_i)
/// dmu  += c q'^T do                  dnu -= c (do . o) q'
/// du    = k' dmu                     dk'  = dmu u + dnu
/// dv    = du, or beta du             dbeta = du . (v - k' mu),   dk' -= beta mu du,   dmu -= beta k'^T du
/// ddecay = mu . dmu + nu . dnu       of the row, or of all rows;  mu and nu decayed
/// dmu   = a dmu                      dnu = a dnu
/// ```
///
/// and through the feature maps, L2 norms and activations by the chain rule. A row whose denominator
/// is 0 has no gradient. States are recomputed from the tokens and kept for one value head at a time.
///
/// # Errors
///
/// A config, shape or inputs that no call would accept; gradients of other lengths;
/// [`Error::NoDerivative`] for a map of the caller's own.
pub fn backward(
    config: &Config,
    shape: &Shape,
    inputs: Inputs<'_>,
    gradients: OutputGradients<'_>,
) -> Result<Gradients<f64>, Error> {
    inputs.check(config, shape)?;
    let lens = shape.lens(config)?;
    gradients.check(config, &lens)?;
    if let Some(map) = config.custom_maps().next() {
        return Err(Error::NoDerivative { feature_map: map.name().to_owned() });
    }
    let [q, k, v] = inputs.rounded(config.dtype);
    let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
    let of = Backward {
        config,
        heads: Heads::new(config, shape),
        of_keys: Phi::of_keys(config, inputs.weights),
        of_queries: Phi::of_queries(config, inputs.weights),
        gates: Gates::new(config, shape, inputs),
        inputs,
        gradients,
    };
    let mut found = Found::new(config, shape, &lens, inputs.weights);
    for (n, tokens) in token_ranges(shape)?.into_iter().enumerate() {
        for e in 0..of.heads.value {
            let steps = of.forward([n, e], tokens.clone());
            of.reverse([n, e], tokens.start, &steps, &mut found);
        }
    }
    let Found { mut gradients, decays, betas, of_keys, of_queries } = found;
    activate(&mut gradients, config, shape, inputs, (&decays, &betas));
    gradients.key_weights = [of_keys.weight, of_keys.bias];
    gradients.query_weights = [of_queries.weight, of_queries.bias];
    Ok(gradients)
}

struct Backward<'a> {
    config: &'a Config,
    heads: Heads,
    of_keys: Phi<'a>,
    of_queries: Phi<'a>,
    gates: Gates<f64>,
    inputs: Inputs<'a>,
    gradients: OutputGradients<'a>,
}

/// A token of a value head, as it entered the state.
struct Step {
    key: Vec<f64>,
    /// The row that entered.
    u: Vec<f64>,
    /// The decayed state that the token met, and the state after it.
    met: State,
    after: State,
}

#[derive(Clone)]
struct State {
    /// `[F,V]`.
    mu: Vec<f64>,
    /// `[F]`; empty where nothing is divided.
    nu: Vec<f64>,
}

/// The gradients so far, by features, decays and betas where tensors have what these are made of.
struct Found {
    gradients: Gradients<f64>,
    /// By the decays in log space, `[tokens,E,rows]`, and by the betas, `[tokens,E]`.
    decays: Vec<f64>,
    betas: Vec<f64>,
    of_keys: WeightGradients,
    of_queries: WeightGradients,
}

impl Found {
    fn new(config: &Config, shape: &Shape, lens: &Lens, weights: Option<&Weights>) -> Self {
        let of_weights = |projection: Option<&Projection>| {
            let [weight, bias] = projection.map_or([0, 0], Projection::lens);
            WeightGradients { weight: vec![0.0; weight], bias: vec![0.0; bias] }
        };
        let rows = shape.value_heads as usize * shape.batch as usize * shape.seq_len as usize;
        let has_beta = config.update_rule.beta().is_some();
        Self {
            gradients: zeros(lens),
            decays: vec![0.0; rows * config.decay_rows() as usize],
            betas: vec![0.0; if has_beta { rows } else { 0 }],
            of_keys: of_weights(weights.and_then(|weights| weights.keys.as_ref())),
            of_queries: of_weights(weights.and_then(|weights| weights.queries.as_ref())),
        }
    }
}

impl Backward<'_> {
    /// The steps of the tokens of a sequence and value head.
    fn forward(&self, [n, e]: [usize; 2], tokens: Range<usize>) -> Vec<Step> {
        let (features, value_dim) = self.sizes();
        let mut state = self.initial_state([n, e]);
        let mut steps = Vec::with_capacity(tokens.len());
        for t in tokens {
            let mut key = vec![0.0; features];
            let x = &self.inputs.k[self.heads.key(t, e)..][..self.config.key_dim as usize];
            self.of_keys.row(x, self.heads.key_head(e), &mut key);
            for f in 0..features {
                let Some(a) = self.gates.decay(t, e, f).map(f64::exp) else { continue };
                state.mu[f * value_dim..][..value_dim].iter_mut().for_each(|mu| *mu *= a);
                state.nu.iter_mut().skip(f).take(1).for_each(|nu| *nu *= a);
            }
            let met = state.clone();
            let v = &self.inputs.v[self.heads.value(t, e)..][..value_dim];
            let mut u: Vec<f64> = v.iter().map(|v| f64::from(*v)).collect();
            if let Some(beta) = self.gates.beta(t, e) {
                for (k, mu) in key.iter().zip(met.mu.chunks(value_dim)) {
                    u.iter_mut().zip(mu).for_each(|(u, mu)| *u -= k * mu);
                }
                u.iter_mut().for_each(|u| *u *= beta);
            }
            for (k, mu) in key.iter().zip(state.mu.chunks_mut(value_dim)) {
                mu.iter_mut().zip(&u).for_each(|(mu, u)| *mu += k * u);
            }
            state.nu.iter_mut().zip(&key).for_each(|(nu, k)| *nu += k);
            steps.push(Step { key, u, met, after: state.clone() });
        }
        steps
    }

    /// The gradients of the tokens from `first` on, the last first.
    fn reverse(&self, [n, e]: [usize; 2], first: usize, steps: &[Step], found: &mut Found) {
        let (features, value_dim) = self.sizes();
        let at = n * self.heads.value + e;
        let of_final = |slice: Option<&[f32]>, len: usize| -> Vec<f64> {
            let of_state = |slice: &[f32]| slice[at * len..(at + 1) * len].to_vec();
            let of_state = slice.map_or_else(|| vec![0.0; len], of_state);
            of_state.into_iter().map(f64::from).collect()
        };
        let nu_len = if self.config.is_normalized() { features } else { 0 };
        let mut state = State {
            mu: of_final(self.gradients.mu, features * value_dim),
            nu: of_final(self.gradients.nu.filter(|_| nu_len > 0), nu_len),
        };
        for (i, step) in steps.iter().enumerate().rev() {
            let t = first + i;
            for h in e * self.heads.value_group..(e + 1) * self.heads.value_group {
                self.read([t, h, e], step, &mut state, found);
            }
            self.write([t, e], step, &mut state, found);
        }
        let (mu, nu) = (&mut found.gradients.mu, &mut found.gradients.nu);
        mu[at * features * value_dim..][..features * value_dim].copy_from_slice(&state.mu);
        nu[at * nu_len..][..nu_len].copy_from_slice(&state.nu);
    }

    /// What the row of o of token t and output head h depends on.
    fn read(&self, [t, h, e]: [usize; 3], step: &Step, state: &mut State, found: &mut Found) {
        let (features, value_dim) = self.sizes();
        let mut query = vec![0.0; features];
        let begin = self.heads.query(t, h);
        let x = &self.inputs.q[begin..][..self.config.key_dim as usize];
        let head = self.of_queries.weights_head(self.heads.query_head(h), self.heads.key_head(e));
        let gain = self.of_queries.row(x, head, &mut query);
        let mut sums = vec![0.0; value_dim];
        let mut weight = 0.0;
        for (f, q) in query.iter().enumerate() {
            weight += q * step.after.nu.get(f).copied().unwrap_or(0.0);
            for (sum, mu) in sums.iter_mut().zip(&step.after.mu[f * value_dim..]) {
                *sum += q * mu;
            }
        }
        let scale = f64::from(self.config.scale);
        let factor = match self.config.normalization.eps() {
            None => scale / gain,
            Some(eps) => scale / (scale * weight + f64::from(eps) * gain),
        };
        if !factor.is_finite() {
            return;
        }
        let d_o = &self.gradients.o[self.heads.output(t, h)..][..value_dim];
        let d_o: Vec<f64> = d_o.iter().map(|x| f64::from(*x)).collect();
        // do . o, which is what the denominator takes away.
        let mut taken: f64 = d_o.iter().zip(&sums).map(|(d, sum)| d * factor * sum).sum();
        if !self.config.is_normalized() {
            taken = 0.0;
        }
        let mut of_query = vec![0.0; features];
        for (f, (of_query, q)) in of_query.iter_mut().zip(&query).enumerate() {
            let mu = &step.after.mu[f * value_dim..][..value_dim];
            let product: f64 = mu.iter().zip(&d_o).map(|(mu, d)| mu * d).sum();
            let nu = step.after.nu.get(f).copied().unwrap_or(0.0);
            *of_query = factor * (product - taken * nu);
            for (of_mu, d) in state.mu[f * value_dim..].iter_mut().zip(&d_o) {
                *of_mu += factor * q * d;
            }
            if let Some(of_nu) = state.nu.get_mut(f) {
                *of_nu -= factor * taken * q;
            }
        }
        let of_weights = match self.of_queries.shares_key_weights() {
            true => &mut found.of_keys,
            false => &mut found.of_queries,
        };
        let dx = &mut found.gradients.q[begin..][..x.len()];
        self.of_queries.pull_back(x, head, &of_query, dx, of_weights);
    }

    /// What the state after token t depends on; `state` becomes the gradient of the one before.
    fn write(&self, [t, e]: [usize; 2], step: &Step, state: &mut State, found: &mut Found) {
        let (features, value_dim) = self.sizes();
        let mut of_u = vec![0.0; value_dim];
        for (k, of_mu) in step.key.iter().zip(state.mu.chunks(value_dim)) {
            of_u.iter_mut().zip(of_mu).for_each(|(of_u, of_mu)| *of_u += k * of_mu);
        }
        let mut of_key: Vec<f64> = state
            .mu
            .chunks(value_dim)
            .map(|of_mu| of_mu.iter().zip(&step.u).map(|(of_mu, u)| of_mu * u).sum())
            .collect();
        of_key.iter_mut().zip(&state.nu).for_each(|(of_key, of_nu)| *of_key += of_nu);
        let row = t * self.heads.value + e;
        let begin = self.heads.value(t, e);
        let mut of_value = of_u.clone();
        if let Some(beta) = self.gates.beta(t, e) {
            let v = &self.inputs.v[begin..][..value_dim];
            let mut missing: Vec<f64> = v.iter().map(|v| f64::from(*v)).collect();
            for (f, k) in step.key.iter().enumerate() {
                let met = &step.met.mu[f * value_dim..][..value_dim];
                missing.iter_mut().zip(met).for_each(|(missing, mu)| *missing -= k * mu);
                let recalled: f64 = met.iter().zip(&of_u).map(|(mu, of_u)| mu * of_u).sum();
                of_key[f] -= beta * recalled;
                for (of_mu, of_u) in state.mu[f * value_dim..].iter_mut().zip(&of_u) {
                    *of_mu -= beta * k * of_u;
                }
            }
            found.betas[row] = of_u.iter().zip(&missing).map(|(of_u, x)| of_u * x).sum();
            of_value.iter_mut().for_each(|of_v| *of_v *= beta);
        }
        for (to, of_v) in found.gradients.v[begin..].iter_mut().zip(&of_value) {
            *to += of_v;
        }
        let rows = self.config.decay_rows() as usize;
        for f in 0..features {
            let Some(decay) = self.gates.decay(t, e, f) else { continue };
            let of_mu = &mut state.mu[f * value_dim..][..value_dim];
            let met = &step.met.mu[f * value_dim..][..value_dim];
            let mut of_decay: f64 = of_mu.iter().zip(met).map(|(of_mu, mu)| of_mu * mu).sum();
            of_mu.iter_mut().for_each(|of_mu| *of_mu *= decay.exp());
            if let Some(of_nu) = state.nu.get_mut(f) {
                of_decay += *of_nu * step.met.nu[f];
                *of_nu *= decay.exp();
            }
            found.decays[row * rows + f % rows] += of_decay;
        }
        let begin = self.heads.key(t, e);
        let x = &self.inputs.k[begin..][..self.config.key_dim as usize];
        let dx = &mut found.gradients.k[begin..][..x.len()];
        self.of_keys.pull_back(x, self.heads.key_head(e), &of_key, dx, &mut found.of_keys);
    }

    fn initial_state(&self, [n, e]: [usize; 2]) -> State {
        let (features, value_dim) = self.sizes();
        let nu_len = if self.config.is_normalized() { features } else { 0 };
        let at = n * self.heads.value + e;
        let of = |slice: Option<&[f32]>, len: usize| match slice {
            Some(slice) if len > 0 => {
                slice[at * len..(at + 1) * len].iter().map(|x| f64::from(*x)).collect()
            }
            _ => vec![0.0; len],
        };
        let initial = self.inputs.initial_state;
        let mu = of(initial.map(|state| state.mu), features * value_dim);
        State { mu, nu: of(initial.map(|state| state.nu), nu_len) }
    }

    /// F and V.
    fn sizes(&self) -> (usize, usize) {
        (self.config.features() as usize, self.config.value_dim as usize)
    }
}
