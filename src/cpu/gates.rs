//! Decays and betas of a token, after their activations: as `shaders/token_gates.wgsl`.

use crate::cpu::exp::{exp_m1, sigmoid, softplus};
use crate::cpu::fused::mul_add;
use crate::cpu::slices::Slice;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::io::GateWeights;
use crate::problem::tensor::Tensor;
use crate::problem::update_rule::{Beta, BetaDims, Decay, DecayActivation};

/// The decays and betas of a call.
pub(super) struct Gates<'a> {
    decay: Option<(Decay, Slice<'a>)>,
    decay_dtype: Dtype,
    weights: Option<GateWeights<'a>>,
    beta: Option<(Beta, Slice<'a>)>,
    beta_dtype: Dtype,
    is_constant: bool,
    value_heads: usize,
}

impl<'a> Gates<'a> {
    /// Of tensors that `Tensors::check` accepts.
    pub(super) fn new(
        config: &Config,
        value_heads: usize,
        (decay, weights): (Option<Slice<'a>>, Option<GateWeights<'a>>),
        beta: Option<Slice<'a>>,
    ) -> Self {
        let rule = config.update_rule;
        Self {
            decay: rule.decay().zip(decay),
            decay_dtype: Tensor::Decay.dtype(config),
            weights,
            beta: rule.beta().zip(beta),
            beta_dtype: Tensor::Beta.dtype(config),
            is_constant: config.has_constant_decay(),
            value_heads,
        }
    }

    /// exp(decay) - 1 of a token and value head: of each row, or one for all. Less 1, since a decay
    /// near 0 has more digits than its exponential.
    #[inline(always)]
    pub(super) fn kept(&self, t: usize, e: usize, kept: &mut [f32]) {
        if self.decay.is_none() {
            return;
        }
        self.decays(t, e, kept);
        for kept in kept {
            *kept = exp_m1(*kept);
        }
    }

    /// The decay, in log space.
    #[inline(always)]
    pub(super) fn decays(&self, t: usize, e: usize, decays: &mut [f32]) {
        let Some((decay, slice)) = &self.decay else { return };
        let (head, rows) =
            (if self.is_constant { e } else { t * self.value_heads + e }, decays.len());
        slice.copy(head * rows, self.decay_dtype, decays);
        let Some(GateWeights { a_log, dt_bias }) = self.weights else { return };
        let (scale, dt_bias) = (a_log[e].exp(), &dt_bias[e * rows..]);
        match decay.activation {
            DecayActivation::None => {}
            DecayActivation::Softplus => {
                for (x, dt_bias) in decays.iter_mut().zip(dt_bias) {
                    *x = -(scale * softplus(*x + dt_bias));
                }
            }
            DecayActivation::Sigmoid { lower_bound } => {
                for (x, dt_bias) in decays.iter_mut().zip(dt_bias) {
                    *x = lower_bound * sigmoid(scale * (*x + dt_bias));
                }
            }
        }
    }

    /// beta; 1 where the rule has none.
    #[inline(always)]
    pub(super) fn beta(&self, t: usize, e: usize) -> f32 {
        let Some((beta, slice)) = &self.beta else { return 1.0 };
        let is_shared = beta.dims == BetaDims::Shared;
        let at = if is_shared { t } else { t * self.value_heads + e };
        beta.activate(slice.get(at, self.beta_dtype))
    }
}

/// (1 + m) (1 + m') - 1, exactly -1 where either factor forgets everything.
#[inline(always)]
pub(super) fn next_kept(kept: f32, m: f32) -> f32 {
    if m == -1.0 { -1.0 } else { mul_add(m, 1.0 + kept, kept) }
}
