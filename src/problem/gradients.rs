//! Gradients by the outputs and by the inputs of a call.

use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::dual::Dual;
use crate::problem::feature_map::real::Real;
use crate::problem::io::Inputs;
use crate::problem::shape::{Lens, Shape};
use crate::problem::tensor::Tensor;
use crate::problem::update_rule::BetaDims;

/// The gradients of a loss by the outputs of a call, laid out as [`Output`](crate::Output).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OutputGradients<'a> {
    /// By o.
    pub o: &'a [f32],
    /// By the final mu; `None` is zero.
    pub mu: Option<&'a [f32]>,
    /// By the final nu; `None` is zero.
    pub nu: Option<&'a [f32]>,
}

impl<'a> OutputGradients<'a> {
    /// Of a loss that has no part in the final state.
    #[must_use]
    pub fn new(o: &'a [f32]) -> Self {
        Self { o, mu: None, nu: None }
    }

    /// With those by the final state. `nu` is empty where o is not normalised.
    #[must_use]
    pub fn with_final_state(self, mu: &'a [f32], nu: &'a [f32]) -> Self {
        Self { mu: Some(mu), nu: Some(nu), ..self }
    }

    pub(crate) fn check(&self, config: &Config, lens: &Lens) -> Result<(), Error> {
        let nu = self.nu.filter(|_| config.is_normalized());
        for (tensor, slice, required) in [
            ("gradient of o", Some(self.o), lens.o),
            ("gradient of final_mu", self.mu, lens.mu),
            ("gradient of final_nu", nu, lens.nu),
        ] {
            let actual = slice.map_or(required, |slice| slice.len() as u64);
            if actual != required {
                return Err(Error::Len { tensor, required, actual });
            }
        }
        Ok(())
    }
}

/// The gradients of a loss by the inputs of a call, in f32 or f64, each laid out as its tensor;
/// empty where the call has no such tensor.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Gradients<R> {
    /// By q.
    pub q: Vec<R>,
    /// By k.
    pub k: Vec<R>,
    /// By v.
    pub v: Vec<R>,
    /// By what is given as decay, before its activation.
    pub decay: Vec<R>,
    /// By what is given as beta, before its activation.
    pub beta: Vec<R>,
    /// By `A_log` `[E]`.
    pub a_log: Vec<R>,
    /// By `dt_bias` `[E]` or `[E,F]`.
    pub dt_bias: Vec<R>,
    /// By the initial mu `[N,E,F,V]`.
    pub mu: Vec<R>,
    /// By the initial nu `[N,E,F]`.
    pub nu: Vec<R>,
    /// By the weights of the keys' map, W `[heads,P,K]` and b `[heads,P]`; where queries share
    /// them, of both.
    pub key_weights: [Vec<R>; 2],
    /// By the weights of the queries' map, where it has its own.
    pub query_weights: [Vec<R>; 2],
}

/// Zeros, but for what decays and weights are made of.
pub(crate) fn zeros<R: Real>(lens: &Lens) -> Gradients<R> {
    let zeros = |len: u64| vec![R::from(0.0); len as usize];
    Gradients {
        q: zeros(lens.q),
        k: zeros(lens.k),
        v: zeros(lens.v),
        decay: zeros(lens.decay),
        beta: zeros(lens.beta),
        a_log: Vec::new(),
        dt_bias: Vec::new(),
        mu: zeros(lens.mu),
        nu: zeros(lens.nu),
        key_weights: [Vec::new(), Vec::new()],
        query_weights: [Vec::new(), Vec::new()],
    }
}

/// The gradients by what decays and betas were given as, from those by the decays in log space
/// `[tokens,E,rows]` and by the betas `[tokens,E]`. What all tokens share is a sum over them, in S.
pub(crate) fn activate<R: Real, S: Real>(
    found: &mut Gradients<R>,
    config: &Config,
    shape: &Shape,
    inputs: Inputs<'_>,
    (decays, betas): (&[R], &[R]),
) {
    let (rule, heads) = (config.update_rule, shape.value_heads as usize);
    let rows = config.decay_rows() as usize;
    // Rows of padding have none, whatever they hold.
    let is_valid = valid_tokens(shape);
    if let (Some(decay), Some(given)) = (rule.decay(), inputs.decay) {
        let weights = inputs.gate_weights;
        let zeros = |len: usize| vec![S::from(0.0); len];
        let mut by_decay = zeros(found.decay.len());
        let mut by_a_log = zeros(weights.map_or(0, |weights| weights.a_log.len()));
        let mut by_dt_bias = zeros(weights.map_or(0, |weights| weights.dt_bias.len()));
        let dtype = Tensor::Decay.dtype(config);
        for (i, of_decay) in decays.iter().enumerate() {
            let (at, index) = (i % (heads * rows), i % given.len());
            if !is_valid[i / (heads * rows)] {
                continue;
            }
            let x = f64::from(dtype.round(given[index]));
            let (a_log, dt_bias) = weights.map_or((0.0, 0.0), |weights| {
                (weights.a_log[at / rows].into(), weights.dt_bias[at].into())
            });
            let slope = |dx: [f64; 3]| {
                let [x, a_log, dt_bias] =
                    [(x, dx[0]), (a_log, dx[1]), (dt_bias, dx[2])].map(|(x, dx)| Dual { x, dx });
                let slope = R::of(decay.activate(x, a_log, dt_bias).dx) * *of_decay;
                S::of(slope.into())
            };
            by_decay[index] = by_decay[index] + slope([1.0, 0.0, 0.0]);
            if weights.is_some() {
                by_a_log[at / rows] = by_a_log[at / rows] + slope([0.0, 1.0, 0.0]);
                by_dt_bias[at] = by_dt_bias[at] + slope([0.0, 0.0, 1.0]);
            }
        }
        let rounded = |sums: Vec<S>| sums.into_iter().map(|sum| R::of(sum.into())).collect();
        found.decay = rounded(by_decay);
        found.a_log = rounded(by_a_log);
        found.dt_bias = rounded(by_dt_bias);
    }
    if let (Some(beta), Some(given)) = (rule.beta(), inputs.beta) {
        let dtype = Tensor::Beta.dtype(config);
        // One of a token, or one of a token and head.
        let shared = if beta.dims == BetaDims::Shared { heads } else { 1 };
        for (i, of_beta) in betas.iter().enumerate() {
            if !is_valid[i / heads] {
                continue;
            }
            let at = i / shared;
            let x = Dual { x: f64::from(dtype.round(given[at])), dx: 1.0 };
            found.beta[at] = found.beta[at] + R::of(beta.activate(x).dx) * *of_beta;
        }
    }
}

/// True for each token of a sequence.
fn valid_tokens(shape: &Shape) -> Vec<bool> {
    let mut is_valid = vec![false; shape.batch as usize * shape.seq_len as usize];
    for tokens in shape.token_ranges().unwrap_or_default() {
        is_valid[tokens].fill(true);
    }
    is_valid
}
