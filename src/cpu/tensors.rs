//! The tensors of a call, checked before anything is computed.

use crate::cpu::slices::{Slice, SliceMut};
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::weights::Weights;
use crate::problem::io::{GateWeights, Inputs, Output};
use crate::problem::shape::{Lens, Shape};
use crate::problem::state::StateSlices;
use crate::problem::tensor::Tensor;

/// The tensors of one call, row-major, or with the strides of the shape. Each of q, k, v and o is
/// f32, or of the type [`Config::dtype`](crate::Config::dtype).
///
/// ```
/// use linear_attention::cpu::{CpuAttention, Tensors, f16};
/// use linear_attention::{Config, Dtype, Shape};
///
/// let attention = CpuAttention::new(Config::new(16, 16).with_dtype(Dtype::F16))?;
/// let mut plan = attention.plan(&Shape::new(1, 100, 2))?;
/// let [q, k, v] = [0.1, 0.2, 0.25].map(|x| vec![f16::from_f32(x); 100 * 2 * 16]);
/// let mut o = vec![f16::ZERO; 100 * 2 * 16];
/// plan.run(Tensors::new(&q, &k, &v, &mut o))?;
/// assert_eq!(o[0], f16::from_f32(0.25));
/// # Ok::<(), linear_attention::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Tensors<'a> {
    /// q `[B,T,H,K]`.
    pub q: Slice<'a>,
    /// k `[B,T,G,K]`.
    pub k: Slice<'a>,
    /// v `[B,T,E,V]`.
    pub v: Slice<'a>,
    /// o `[B,T,max(H,E),V]`, written.
    pub o: SliceMut<'a>,
    /// The decays, or what an activation makes decays of: `[E]`, `[B,T,E]` or `[B,T,E,F]`, where
    /// the update rule has any, and only there. f32, or
    /// [`Decay::dtype`](crate::update_rule::Decay::dtype).
    pub decay: Option<Slice<'a>>,
    /// beta `[B,T,E]` or `[B,T,1]`, where the update rule has it, and only there. f32, or
    /// [`Beta::dtype`](crate::update_rule::Beta::dtype).
    pub beta: Option<Slice<'a>>,
    /// The weights of the decays' activation, where they have one, and only there.
    pub gate_weights: Option<GateWeights<'a>>,
    /// The states before the first tokens; `None` is zero.
    pub initial_state: Option<StateSlices<'a>>,
    /// The states after the last tokens, written: mu `[N,E,F,V]`, nu `[N,E,F]`, empty where o is
    /// not normalised; `None` drops them.
    pub final_state: Option<(&'a mut [f32], &'a mut [f32])>,
    /// The weights of the feature maps, where they need any.
    pub weights: Option<&'a Weights>,
}

impl<'a> Tensors<'a> {
    /// From a zero state, without a final one.
    #[must_use]
    pub fn new(
        q: impl Into<Slice<'a>>,
        k: impl Into<Slice<'a>>,
        v: impl Into<Slice<'a>>,
        o: impl Into<SliceMut<'a>>,
    ) -> Self {
        Self {
            q: q.into(),
            k: k.into(),
            v: v.into(),
            o: o.into(),
            decay: None,
            beta: None,
            gate_weights: None,
            initial_state: None,
            final_state: None,
            weights: None,
        }
    }

    /// Of inputs and an output in f32.
    #[must_use]
    pub fn of(inputs: Inputs<'a>, output: &'a mut Output) -> Self {
        Self {
            decay: inputs.decay.map(Slice::F32),
            beta: inputs.beta.map(Slice::F32),
            gate_weights: inputs.gate_weights,
            initial_state: inputs.initial_state,
            final_state: Some((&mut output.mu, &mut output.nu)),
            weights: inputs.weights,
            ..Self::new(inputs.q, inputs.k, inputs.v, &mut output.o)
        }
    }

    /// Without an initial or a final state: for states in a pool.
    #[must_use]
    pub fn without_states(self) -> Self {
        Self { initial_state: None, final_state: None, ..self }
    }

    /// With the decays of the update rule.
    #[must_use]
    pub fn with_decay(self, decay: impl Into<Slice<'a>>) -> Self {
        Self { decay: Some(decay.into()), ..self }
    }

    /// With the betas of the update rule.
    #[must_use]
    pub fn with_beta(self, beta: impl Into<Slice<'a>>) -> Self {
        Self { beta: Some(beta.into()), ..self }
    }

    /// With the weights of the decays' activation: `A_log` `[E]`, `dt_bias` `[E]` or `[E,F]`.
    #[must_use]
    pub fn with_gate_weights(self, a_log: &'a [f32], dt_bias: &'a [f32]) -> Self {
        Self { gate_weights: Some(GateWeights { a_log, dt_bias }), ..self }
    }

    /// From the states that an earlier call ended with. `nu` is empty where o is not normalised.
    #[must_use]
    pub fn with_initial_state(self, mu: &'a [f32], nu: &'a [f32]) -> Self {
        Self { initial_state: Some(StateSlices { mu, nu }), ..self }
    }

    /// With the states after the last tokens. `nu` is empty where o is not normalised.
    #[must_use]
    pub fn with_final_state(self, mu: &'a mut [f32], nu: &'a mut [f32]) -> Self {
        Self { final_state: Some((mu, nu)), ..self }
    }

    /// With the weights of the feature maps, if they have any.
    #[must_use]
    pub fn with_weights(self, weights: impl Into<Option<&'a Weights>>) -> Self {
        Self { weights: weights.into(), ..self }
    }

    /// Checks lengths and types, and that everything needed is there and nothing else, but no
    /// contents.
    pub(super) fn check(&self, config: &Config, shape: &Shape, lens: &Lens) -> Result<(), Error> {
        let rule = config.update_rule;
        let o = Some((self.o.len(), self.o.dtype()));
        let of = |slice: &Slice<'_>| Some((slice.len(), slice.dtype()));
        let of_f32 = |slice: &[f32]| Some((slice.len(), Dtype::F32));
        let (has_decay, has_beta) = (rule.decay().is_some(), rule.beta().is_some());
        let has_weights = rule.needs_gate_weights();
        let a_log = u64::from(shape.value_heads);
        let dt_bias = a_log * u64::from(config.decay_rows());
        let (initial, last) = (self.initial_state, self.final_state.as_ref());
        let (has_initial, has_last) = (initial.is_some(), last.is_some());
        let weights = self.gate_weights;
        for (tensor, slice, len, dtype, is_used) in [
            ("q", of(&self.q), lens.q, config.dtype, true),
            ("k", of(&self.k), lens.k, config.dtype, true),
            ("v", of(&self.v), lens.v, config.dtype, true),
            ("o", o, lens.o, config.dtype, true),
            (
                "decay",
                self.decay.as_ref().and_then(of),
                lens.decay,
                Tensor::Decay.dtype(config),
                has_decay,
            ),
            (
                "beta",
                self.beta.as_ref().and_then(of),
                lens.beta,
                Tensor::Beta.dtype(config),
                has_beta,
            ),
            ("gate_weights", weights.and_then(|w| of_f32(w.a_log)), a_log, Dtype::F32, has_weights),
            (
                "gate_weights",
                weights.and_then(|w| of_f32(w.dt_bias)),
                dt_bias,
                Dtype::F32,
                has_weights,
            ),
            ("initial_mu", initial.and_then(|s| of_f32(s.mu)), lens.mu, Dtype::F32, has_initial),
            ("initial_nu", initial.and_then(|s| of_f32(s.nu)), lens.nu, Dtype::F32, has_initial),
            ("final_mu", last.and_then(|s| of_f32(s.0)), lens.mu, Dtype::F32, has_last),
            ("final_nu", last.and_then(|s| of_f32(s.1)), lens.nu, Dtype::F32, has_last),
        ] {
            // Behind the last row of a tensor that has strides there may be rows of others.
            let is_longer = |tensor: &str, actual: usize, len: u64| {
                let may_be = shape.strides.is_some() && matches!(tensor, "q" | "k" | "v" | "o");
                actual as u64 > len && !may_be
            };
            let refuse = |required, actual| {
                Err(Error::RuleTensor { rule: rule.name(), tensor, required, actual })
            };
            match slice {
                Some(_) if !is_used => return refuse("absent", "some"),
                None if is_used => return refuse("given", "none"),
                None => {}
                Some((actual, _)) if (actual as u64) < len || is_longer(tensor, actual, len) => {
                    return Err(Error::Len { tensor, required: len, actual: actual as u64 });
                }
                Some((_, actual)) if actual != Dtype::F32 && actual != dtype => {
                    let (required, actual) = (dtype.name(), actual.name());
                    return Err(Error::SliceDtype { tensor, required, actual });
                }
                Some(_) => {}
            }
        }
        Ok(self.weights.unwrap_or(&Weights::default()).check(config, shape)?)
    }

    /// Refuses states beside a pool.
    pub(super) fn check_no_states(&self, config: &Config) -> Result<(), Error> {
        let (required, actual, rule) = ("absent beside a pool", "some", config.update_rule.name());
        match (&self.initial_state, &self.final_state) {
            (None, None) => Ok(()),
            (None, _) => Err(Error::RuleTensor { rule, tensor: "final_mu", required, actual }),
            _ => Err(Error::RuleTensor { rule, tensor: "initial_mu", required, actual }),
        }
    }
}
