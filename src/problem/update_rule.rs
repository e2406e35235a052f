//! The update rules of the state, with their decays and betas.

use crate::error::ConfigError;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::real::Real;

/// The rule by which a token changes the state. With `k' = φ(k)` and `a = exp(decay)`, a token does
///
/// ```text
/// mu = a mu_{i-1}                    nu = a nu_{i-1}       where there is a decay
/// u  = v                                                   linear, gated
/// u  = beta (v - k' mu)                                    delta, gated-delta
/// mu_i = mu + k'^T u                 nu_i = nu + k'
/// ```
///
/// and is read after that. The names and the order are those of ONNX's operator `LinearAttention`
/// (opset 27).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum UpdateRule {
    /// mu and nu are sums (Katharopoulos 2020, Performer, Based, Hedgehog).
    #[default]
    Linear,
    /// The state decays: RetNet and lightning attention (a constant per head), Mamba-2 (per token
    /// and head), GLA (per token and row).
    Gated(Decay),
    /// A value replaces the one that the state recalls for its key: DeltaNet. It has no quotient,
    /// and wants keys with |k'|² beta <= 2, or it diverges by itself.
    Delta(Beta),
    /// Both: Gated DeltaNet (a decay per head), Kimi Delta Attention (per row).
    GatedDelta(Decay, Beta),
}

/// The decays of a rule: their dimensions, type and activation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Decay {
    /// The dimensions of the tensor.
    pub dims: DecayDims,
    /// The function of an element that is the decay, in log space.
    pub activation: DecayActivation,
    /// f32, or the config's type.
    pub dtype: Dtype,
    /// True if slices with a positive decay, which lets a state grow without bound, are refused.
    pub refuses_positive: bool,
}

/// The dimensions of the decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DecayDims {
    /// `[E]`: a constant for each value head.
    Constant,
    /// `[B,T,E]`: one for each token and value head.
    PerHead,
    /// `[B,T,E,F]`: one for each row of mu as well.
    PerRow,
}

/// The function that makes a decay of an element x. `A_log` is `[E]`; `dt_bias` has a value for each
/// decay of a token, `[E]` or `[E,F]`. Both are [`GateWeights`](crate::update_rule::GateWeights).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum DecayActivation {
    /// The element itself.
    #[default]
    None,
    /// `-exp(A_log) softplus(x + dt_bias)`: Mamba-2, Gated DeltaNet.
    Softplus,
    /// `lower_bound sigmoid(exp(A_log) (x + dt_bias))`: the bounded gate of Kimi Delta Attention.
    Sigmoid {
        /// The most negative decay; finite, below 0. Kimi Delta Attention has -5.
        lower_bound: f32,
    },
}

/// The betas of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Beta {
    /// The dimensions of the tensor.
    pub dims: BetaDims,
    /// The function of an element that is beta.
    pub activation: BetaActivation,
    /// f32, or the config's type.
    pub dtype: Dtype,
}

/// The dimensions of the betas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BetaDims {
    /// `[B,T,E]`: one for each token and value head.
    PerHead,
    /// `[B,T,1]`: one for each token.
    Shared,
}

/// The function that makes a beta of an element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BetaActivation {
    /// The element itself.
    #[default]
    None,
    /// `sigmoid(x)`.
    Sigmoid,
}

impl Decay {
    /// A constant for each value head, in f32.
    #[must_use]
    pub fn constant() -> Self {
        Self::of(DecayDims::Constant)
    }

    /// One for each token and value head, in f32.
    #[must_use]
    pub fn per_head() -> Self {
        Self::of(DecayDims::PerHead)
    }

    /// One for each token, value head and row of mu, in f32.
    #[must_use]
    pub fn per_row() -> Self {
        Self::of(DecayDims::PerRow)
    }

    fn of(dims: DecayDims) -> Self {
        let activation = DecayActivation::None;
        Self { dims, activation, dtype: Dtype::F32, refuses_positive: false }
    }

    /// With a function of its elements.
    #[must_use]
    pub fn with_activation(self, activation: DecayActivation) -> Self {
        Self { activation, ..self }
    }

    /// With another type of its elements.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// With or without a refusal of slices that have a positive decay.
    #[must_use]
    pub fn with_refuses_positive(self, refuses_positive: bool) -> Self {
        Self { refuses_positive, ..self }
    }

    /// The decay of an element, in log space.
    pub(crate) fn activate<R: Real>(self, x: R, a_log: R, dt_bias: R) -> R {
        match self.activation {
            DecayActivation::None => x,
            DecayActivation::Softplus => -(a_log.exp() * softplus(x + dt_bias)),
            DecayActivation::Sigmoid { lower_bound } => {
                R::from(lower_bound) * sigmoid(a_log.exp() * (x + dt_bias))
            }
        }
    }

    pub(crate) fn has_weights(self) -> bool {
        self.activation != DecayActivation::None
    }
}

impl Beta {
    /// One for each token and value head, in f32.
    #[must_use]
    pub fn per_head() -> Self {
        Self { dims: BetaDims::PerHead, activation: BetaActivation::None, dtype: Dtype::F32 }
    }

    /// One for each token, in f32.
    #[must_use]
    pub fn shared() -> Self {
        Self { dims: BetaDims::Shared, ..Self::per_head() }
    }

    /// With a function of its elements.
    #[must_use]
    pub fn with_activation(self, activation: BetaActivation) -> Self {
        Self { activation, ..self }
    }

    /// With another type of its elements.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// The beta of an element.
    pub(crate) fn activate<R: Real>(self, x: R) -> R {
        match self.activation {
            BetaActivation::None => x,
            BetaActivation::Sigmoid => sigmoid(x),
        }
    }
}

impl UpdateRule {
    /// The rule's name: `linear`, `gated`, `delta` or `gated-delta`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Gated(_) => "gated",
            Self::Delta(_) => "delta",
            Self::GatedDelta(..) => "gated-delta",
        }
    }

    /// The rule as a number, in snapshots.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Linear => 0,
            Self::Gated(_) => 1,
            Self::Delta(_) => 2,
            Self::GatedDelta(..) => 3,
        }
    }

    /// The decays, if it has any.
    #[must_use]
    pub fn decay(self) -> Option<Decay> {
        match self {
            Self::Gated(decay) | Self::GatedDelta(decay, _) => Some(decay),
            Self::Linear | Self::Delta(_) => None,
        }
    }

    /// The betas, if it has any.
    #[must_use]
    pub fn beta(self) -> Option<Beta> {
        match self {
            Self::Delta(beta) | Self::GatedDelta(_, beta) => Some(beta),
            Self::Linear | Self::Gated(_) => None,
        }
    }

    /// True if the decays need weights.
    #[must_use]
    pub fn needs_gate_weights(self) -> bool {
        self.decay().is_some_and(Decay::has_weights)
    }

    /// Refuses a field that is out of range, for q, k and v of this type.
    pub(crate) fn check(self, dtype: Dtype) -> Result<(), ConfigError> {
        let refuse = |what, required: String, actual: String| {
            Err(ConfigError::UpdateRule { rule: self.name(), what, required, actual })
        };
        let dtypes = [
            ("the dtype of decay", self.decay().map(|decay| decay.dtype)),
            ("the dtype of beta", self.beta().map(|beta| beta.dtype)),
        ];
        for (what, actual) in dtypes {
            if let Some(actual) = actual.filter(|actual| ![Dtype::F32, dtype].contains(actual)) {
                let required = match dtype {
                    Dtype::F32 => "f32".to_owned(),
                    _ => format!("f32 or {}, that of q", dtype.name()),
                };
                return refuse(what, required, actual.name().to_owned());
            }
        }
        if let Some(DecayActivation::Sigmoid { lower_bound }) = self.decay().map(|d| d.activation)
            && !(lower_bound.is_finite() && lower_bound < 0.0)
        {
            let required = "finite and below 0".to_owned();
            return refuse("lower_bound", required, lower_bound.to_string());
        }
        Ok(())
    }
}

/// ln(1 + e^x), without overflow.
fn softplus<R: Real>(x: R) -> R {
    x.larger(R::from(0.0)) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x), without overflow.
fn sigmoid<R: Real>(x: R) -> R {
    let e = (-x.abs()).exp();
    let one = R::from(1.0);
    (if x < R::from(0.0) { e } else { one }) / (one + e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_neither_overflow_nor_cancel() {
        assert_eq!(softplus(200.0f32), 200.0);
        assert_eq!(softplus(-200.0f32), 0.0);
        assert!((softplus(0.0f64) - 2f64.ln()).abs() < 1e-15);
        assert_eq!([sigmoid(200.0f32), sigmoid(-200.0f32), sigmoid(0.0f32)], [1.0, 0.0, 0.5]);
        let bounded =
            Decay::per_head().with_activation(DecayActivation::Sigmoid { lower_bound: -5.0 });
        assert_eq!(bounded.activate(1e30f32, 0.0, 0.0), -5.0);
        let softplus = Decay::per_row().with_activation(DecayActivation::Softplus);
        let expected = -(0.5f64.exp()) * (1.0 + 1.5f64.exp()).ln();
        assert!((softplus.activate(1.0, 0.5, 0.5) - expected).abs() < 1e-15);
    }
}
