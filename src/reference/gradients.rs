//! Gradients by the outputs and by the inputs of a call.

use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::shape::Lens;

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

    pub(super) fn check(&self, config: &Config, lens: &Lens) -> Result<(), Error> {
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

/// The gradients of a loss by the inputs of a call, each laid out as its tensor; empty where the call
/// has no such tensor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Gradients64 {
    /// By q.
    pub q: Vec<f64>,
    /// By k.
    pub k: Vec<f64>,
    /// By v.
    pub v: Vec<f64>,
    /// By what is given as decay, before its activation.
    pub decay: Vec<f64>,
    /// By what is given as beta, before its activation.
    pub beta: Vec<f64>,
    /// By `A_log` `[E]`.
    pub a_log: Vec<f64>,
    /// By `dt_bias` `[E]` or `[E,F]`.
    pub dt_bias: Vec<f64>,
    /// By the initial mu `[N,E,F,V]`.
    pub mu: Vec<f64>,
    /// By the initial nu `[N,E,F]`.
    pub nu: Vec<f64>,
    /// By the weights of the keys' map, W `[heads,P,K]` and b `[heads,P]`; where queries share them, of
    /// both.
    pub key_weights: [Vec<f64>; 2],
    /// By the weights of the queries' map, where it has its own.
    pub query_weights: [Vec<f64>; 2],
}
