//! The backward pass in f64, and in f32 for the harness: the gradients of a loss by the inputs,
//! token by token in reverse.

use std::ops::Range;

use super::token_ranges;
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::{Phi, WeightGradients};
use crate::problem::feature_map::projection::Projection;
use crate::problem::feature_map::real::Real;
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
/// and through the feature maps, L2 norms and activations by the chain rule. A row whose
/// denominator is 0 has no gradient. States are recomputed from the tokens and kept for one value
/// head at a time.
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
    compute(config, shape, inputs, gradients)
}

/// The same in f32, but for the way through feature maps: its error is what rounding costs.
pub(crate) fn backward_mirror(
    config: &Config,
    shape: &Shape,
    inputs: Inputs<'_>,
    gradients: OutputGradients<'_>,
) -> Result<Gradients<f32>, Error> {
    compute(config, shape, inputs, gradients)
}

fn compute<R: Real>(
    config: &Config,
    shape: &Shape,
    inputs: Inputs<'_>,
    gradients: OutputGradients<'_>,
) -> Result<Gradients<R>, Error> {
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
        gates: Gates::<R>::new(config, shape, inputs),
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
    activate::<R, R>(&mut gradients, config, shape, inputs, (&decays, &betas));
    gradients.key_weights = [of_keys.weight, of_keys.bias];
    gradients.query_weights = [of_queries.weight, of_queries.bias];
    Ok(gradients)
}

struct Backward<'a, R> {
    config: &'a Config,
    heads: Heads,
    of_keys: Phi<'a>,
    of_queries: Phi<'a>,
    gates: Gates<R>,
    inputs: Inputs<'a>,
    gradients: OutputGradients<'a>,
}

/// A token of a value head, as it entered the state.
struct Step<R> {
    key: Vec<R>,
    /// The row that entered.
    u: Vec<R>,
    /// The decayed state that the token met, and the state after it.
    met: State<R>,
    after: State<R>,
}

#[derive(Clone)]
struct State<R> {
    /// `[F,V]`.
    mu: Vec<R>,
    /// `[F]`; empty where nothing is divided.
    nu: Vec<R>,
}

/// The gradients so far, by features, decays and betas where tensors have what these are made of.
struct Found<R> {
    gradients: Gradients<R>,
    /// By the decays in log space, `[tokens,E,rows]`, and by the betas, `[tokens,E]`.
    decays: Vec<R>,
    betas: Vec<R>,
    of_keys: WeightGradients<R>,
    of_queries: WeightGradients<R>,
}

impl<R: Real> Found<R> {
    fn new(config: &Config, shape: &Shape, lens: &Lens, weights: Option<&Weights>) -> Self {
        let of_weights = |projection: Option<&Projection>| {
            let [weight, bias] = projection.map_or([0, 0], Projection::lens);
            WeightGradients { weight: zeros_of(weight), bias: zeros_of(bias) }
        };
        let rows = shape.value_heads as usize * shape.batch as usize * shape.seq_len as usize;
        let has_beta = config.update_rule.beta().is_some();
        Self {
            gradients: zeros(lens),
            decays: vec![R::from(0.0); rows * config.decay_rows() as usize],
            betas: vec![R::from(0.0); if has_beta { rows } else { 0 }],
            of_keys: of_weights(weights.and_then(|weights| weights.keys.as_ref())),
            of_queries: of_weights(weights.and_then(|weights| weights.queries.as_ref())),
        }
    }
}

impl<R: Real> Backward<'_, R> {
    /// The steps of the tokens of a sequence and value head.
    fn forward(&self, [n, e]: [usize; 2], tokens: Range<usize>) -> Vec<Step<R>> {
        let (features, value_dim) = self.sizes();
        let mut state = self.initial_state([n, e]);
        let mut steps = Vec::with_capacity(tokens.len());
        for t in tokens {
            let mut key = zeros_of(features);
            let x = &self.inputs.k[self.heads.key(t, e)..][..self.config.key_dim as usize];
            self.of_keys.row(x, self.heads.key_head(e), &mut key);
            for f in 0..features {
                let Some(decay) = self.gates.decay(t, e, f) else { continue };
                let mu = &mut state.mu[f * value_dim..][..value_dim];
                mu.iter_mut().for_each(|mu| *mu = mu.decayed(decay));
                state.nu.iter_mut().skip(f).take(1).for_each(|nu| *nu = nu.decayed(decay));
            }
            let met = state.clone();
            let v = &self.inputs.v[self.heads.value(t, e)..][..value_dim];
            let mut u: Vec<R> = v.iter().map(|v| R::from(*v)).collect();
            if let Some(beta) = self.gates.beta(t, e) {
                for (k, mu) in key.iter().zip(met.mu.chunks(value_dim)) {
                    u.iter_mut().zip(mu).for_each(|(u, mu)| *u = *u - *k * *mu);
                }
                u.iter_mut().for_each(|u| *u = *u * beta);
            }
            for (k, mu) in key.iter().zip(state.mu.chunks_mut(value_dim)) {
                add(mu, *k, &u);
            }
            add(&mut state.nu, R::from(1.0), &key);
            steps.push(Step { key, u, met, after: state.clone() });
        }
        steps
    }

    /// The gradients of the tokens from `first` on, the last first.
    fn reverse(&self, [n, e]: [usize; 2], first: usize, steps: &[Step<R>], found: &mut Found<R>) {
        let (features, value_dim) = self.sizes();
        let at = n * self.heads.value + e;
        let of_final = |slice: Option<&[f32]>, len: usize| -> Vec<R> {
            let of_state = |slice: &[f32]| slice[at * len..(at + 1) * len].to_vec();
            let of_state = slice.map_or_else(|| vec![0.0; len], of_state);
            of_state.into_iter().map(R::from).collect()
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

    /// Takes the gradient of the row of o of token t and output head h to its query and state.
    fn read(
        &self,
        [t, h, e]: [usize; 3],
        step: &Step<R>,
        state: &mut State<R>,
        found: &mut Found<R>,
    ) {
        let (features, value_dim) = self.sizes();
        let mut query = zeros_of(features);
        let begin = self.heads.query(t, h);
        let x = &self.inputs.q[begin..][..self.config.key_dim as usize];
        let head = self.of_queries.weights_head(self.heads.query_head(h), self.heads.key_head(e));
        let gain = self.of_queries.row(x, head, &mut query);
        let mut sums: Vec<R> = zeros_of(value_dim);
        let mut weight = R::from(0.0);
        for (f, q) in query.iter().enumerate() {
            weight = weight + *q * step.after.nu.get(f).copied().unwrap_or(R::from(0.0));
            add(&mut sums, *q, &step.after.mu[f * value_dim..]);
        }
        let scale = R::from(self.config.scale);
        let factor = match self.config.normalization.eps() {
            None => scale / gain,
            Some(eps) => scale / (scale * weight + R::from(eps) * gain),
        };
        if !factor.into().is_finite() {
            return;
        }
        let d_o = &self.gradients.o[self.heads.output(t, h)..][..value_dim];
        let d_o: Vec<R> = d_o.iter().map(|x| R::from(*x)).collect();
        // do . o, which is what the denominator takes away.
        let mut taken = factor * dot(&d_o, &sums);
        if !self.config.is_normalized() {
            taken = R::from(0.0);
        }
        let mut of_query = vec![0.0; features];
        for (f, (of_query, q)) in of_query.iter_mut().zip(&query).enumerate() {
            let product = dot(&step.after.mu[f * value_dim..][..value_dim], &d_o);
            let nu = step.after.nu.get(f).copied().unwrap_or(R::from(0.0));
            *of_query = (factor * (product - taken * nu)).into();
            add(&mut state.mu[f * value_dim..], factor * *q, &d_o);
            if let Some(of_nu) = state.nu.get_mut(f) {
                *of_nu = *of_nu - factor * taken * *q;
            }
        }
        let of_weights = match self.of_queries.shares_key_weights() {
            true => &mut found.of_keys,
            false => &mut found.of_queries,
        };
        let mut dx = vec![0.0; x.len()];
        self.of_queries.pull_back(x, head, &of_query, &mut dx, of_weights);
        add_f64s(&mut found.gradients.q[begin..], &dx);
    }

    /// Takes the gradient of the state after token t to what entered it; `state` becomes the
    /// gradient of the one before.
    fn write(
        &self,
        [t, e]: [usize; 2],
        step: &Step<R>,
        state: &mut State<R>,
        found: &mut Found<R>,
    ) {
        let (features, value_dim) = self.sizes();
        let mut of_u: Vec<R> = zeros_of(value_dim);
        for (k, of_mu) in step.key.iter().zip(state.mu.chunks(value_dim)) {
            add(&mut of_u, *k, of_mu);
        }
        let mut of_key: Vec<R> =
            state.mu.chunks(value_dim).map(|of_mu| dot(of_mu, &step.u)).collect();
        add(&mut of_key, R::from(1.0), &state.nu);
        let row = t * self.heads.value + e;
        let begin = self.heads.value(t, e);
        let mut of_value = of_u.clone();
        if let Some(beta) = self.gates.beta(t, e) {
            let v = &self.inputs.v[begin..][..value_dim];
            let mut missing: Vec<R> = v.iter().map(|v| R::from(*v)).collect();
            for (f, k) in step.key.iter().enumerate() {
                let met = &step.met.mu[f * value_dim..][..value_dim];
                add(&mut missing, -*k, met);
                of_key[f] = of_key[f] - beta * dot(met, &of_u);
                add(&mut state.mu[f * value_dim..], -(beta * *k), &of_u);
            }
            found.betas[row] = dot(&of_u, &missing);
            of_value.iter_mut().for_each(|of_v| *of_v = *of_v * beta);
        }
        add(&mut found.gradients.v[begin..], R::from(1.0), &of_value);
        let rows = self.config.decay_rows() as usize;
        for f in 0..features {
            let Some(decay) = self.gates.decay(t, e, f) else { continue };
            let of_mu = &mut state.mu[f * value_dim..][..value_dim];
            let mut of_decay = dot(of_mu, &step.met.mu[f * value_dim..]);
            of_mu.iter_mut().for_each(|of_mu| *of_mu = of_mu.decayed(decay));
            if let Some(of_nu) = state.nu.get_mut(f) {
                of_decay = of_decay + *of_nu * step.met.nu[f];
                *of_nu = of_nu.decayed(decay);
            }
            let to = &mut found.decays[row * rows + f % rows];
            *to = *to + of_decay;
        }
        let begin = self.heads.key(t, e);
        let x = &self.inputs.k[begin..][..self.config.key_dim as usize];
        let of_key: Vec<f64> = of_key.into_iter().map(Into::into).collect();
        let mut dx = vec![0.0; x.len()];
        self.of_keys.pull_back(x, self.heads.key_head(e), &of_key, &mut dx, &mut found.of_keys);
        add_f64s(&mut found.gradients.k[begin..], &dx);
    }

    fn initial_state(&self, [n, e]: [usize; 2]) -> State<R> {
        let (features, value_dim) = self.sizes();
        let nu_len = if self.config.is_normalized() { features } else { 0 };
        let at = n * self.heads.value + e;
        let of = |slice: Option<&[f32]>, len: usize| match slice {
            Some(slice) if len > 0 => {
                slice[at * len..(at + 1) * len].iter().map(|x| R::from(*x)).collect()
            }
            _ => zeros_of(len),
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

fn zeros_of<R: Real>(len: usize) -> Vec<R> {
    vec![R::from(0.0); len]
}

/// `to += factor x`, as long as both have elements.
fn add<R: Real>(to: &mut [R], factor: R, x: &[R]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to = *to + factor * *x);
}

fn add_f64s<R: Real>(to: &mut [R], x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to = *to + R::of(*x));
}

fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    a.iter().zip(b).fold(R::from(0.0), |sum, (a, b)| sum + *a * *b)
}
