//! Decays and betas of all tokens, after their activations: the same as `shaders/token_gates.wgsl`.

use std::ops::Range;

use crate::problem::config::Config;
use crate::problem::feature_map::real::Real;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;
use crate::problem::tensor::Tensor;
use crate::problem::update_rule::BetaDims;

/// The decays, in log space, and the betas of a call.
pub(crate) struct Gates<R> {
    value_heads: usize,
    /// Decays of a token and value head: 0, 1, or F.
    rows: usize,
    /// `[B T,E,rows]`, or `[E]` where they are constant.
    decays: Vec<R>,
    is_constant: bool,
    /// `[B T,E]`, or `[B T]` where all heads share one.
    betas: Vec<R>,
    is_shared: bool,
}

impl<R: Real> Gates<R> {
    /// Of inputs that `Inputs::check` accepts.
    pub(crate) fn new(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Self {
        let (rule, rows) = (config.update_rule, config.decay_rows() as usize);
        let value_heads = shape.value_heads as usize;
        let decays = rule.decay().zip(inputs.decay).map_or_else(Vec::new, |(decay, x)| {
            let dtype = Tensor::Decay.dtype(config);
            let activated = |(i, x): (usize, &f32)| {
                let at = i % (value_heads * rows);
                let of = |weights: Option<f32>| R::from(weights.unwrap_or(0.0));
                let a_log = of(inputs.gate_weights.map(|w| w.a_log[at / rows]));
                let dt_bias = of(inputs.gate_weights.map(|w| w.dt_bias[at]));
                decay.activate(R::from(dtype.round(*x)), a_log, dt_bias)
            };
            x.iter().enumerate().map(activated).collect()
        });
        let betas = rule.beta().zip(inputs.beta).map_or_else(Vec::new, |(beta, x)| {
            let dtype = Tensor::Beta.dtype(config);
            x.iter().map(|x| beta.activate(R::from(dtype.round(*x)))).collect()
        });
        let is_shared = rule.beta().is_some_and(|beta| beta.dims == BetaDims::Shared);
        let is_constant = config.has_constant_decay();
        Self { value_heads, rows, decays, is_constant, betas, is_shared }
    }

    /// The decay of row f of mu, in log space; `None` where the rule has none.
    pub(crate) fn decay(&self, t: usize, e: usize, f: usize) -> Option<R> {
        let head = if self.is_constant { e } else { t * self.value_heads + e };
        match self.rows {
            0 => None,
            1 => Some(self.decays[head]),
            rows => Some(self.decays[head * rows + f]),
        }
    }

    /// beta; `None` where the rule has none.
    pub(crate) fn beta(&self, t: usize, e: usize) -> Option<R> {
        if self.betas.is_empty() {
            return None;
        }
        Some(self.betas[if self.is_shared { t } else { t * self.value_heads + e }])
    }
}

/// The sums of the decays of each sequence, in log space: `[N,E,rows]`, where `Config::decay_rows`
/// says how many rows there are. Of inputs that `Inputs::check` accepts, in a shape of the host's.
pub(crate) fn decay_sums(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Vec<f64> {
    let Some((decay, given)) = config.update_rule.decay().zip(inputs.decay) else {
        return Vec::new();
    };
    let dtype = Tensor::Decay.dtype(config);
    let rows = config.decay_rows() as usize;
    let len = shape.value_heads as usize * rows;
    let weights = inputs.gate_weights;
    let activated = |at: usize, x: f32| {
        let x = f64::from(dtype.round(x));
        // Most have none.
        let Some(weights) = weights else { return decay.activate(x, 0.0, 0.0) };
        decay.activate(x, weights.a_log[at / rows].into(), weights.dt_bias[at].into())
    };
    let mut sums = Vec::with_capacity(shape.sequences() as usize * len);
    for tokens in shape.token_ranges().unwrap_or_default() {
        let begin = sums.len();
        sums.resize(begin + len, 0.0);
        let sums = &mut sums[begin..];
        if config.has_constant_decay() {
            for (at, sum) in sums.iter_mut().enumerate() {
                // No token, no decay: 0 times -inf is none either.
                let count = tokens.len() as f64;
                *sum = if tokens.is_empty() { 0.0 } else { count * activated(at, given[at]) };
            }
            continue;
        }
        for row in given[tokens.start * len..tokens.end * len].chunks(len.max(1)) {
            for (at, (sum, x)) in sums.iter_mut().zip(row).enumerate() {
                *sum += activated(at, *x);
            }
        }
    }
    sums
}

/// The factors by which tokens multiply each element of a state, in f64.
pub(crate) struct Kept {
    gates: Gates<f64>,
    value_heads: usize,
    features: usize,
    value_dim: usize,
    nu_len: usize,
}

impl Kept {
    /// Of inputs that `Inputs::check` accepts.
    pub(crate) fn new(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Self {
        let features = config.features() as usize;
        Self {
            gates: Gates::new(config, shape, inputs),
            value_heads: shape.value_heads as usize,
            features,
            value_dim: config.value_dim as usize,
            nu_len: if config.is_normalized() { features } else { 0 },
        }
    }

    /// The product of the decays of an element of the state.
    pub(crate) fn of_element(&self, element: usize, tokens: Range<usize>) -> f64 {
        let (e, f) =
            row_of_element(element, [self.value_heads, self.features, self.value_dim, self.nu_len]);
        let decay = |t: usize| self.gates.decay(t, e, f).unwrap_or(0.0);
        tokens.map(decay).sum::<f64>().exp()
    }
}

/// The value head and the feature of an element of a state: mu `[E,F,V]`, then nu `[E,F]`.
pub(crate) fn row_of_element(
    element: usize,
    [value_heads, features, value_dim, nu_len]: [usize; 4],
) -> (usize, usize) {
    let mu_len = features * value_dim;
    match element.checked_sub(value_heads * mu_len) {
        None => (element / mu_len, element % mu_len / value_dim),
        Some(in_nu) => (in_nu / nu_len, in_nu % nu_len),
    }
}
