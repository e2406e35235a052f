//! Engines that are wrong on purpose, to prove that the harness can fail.

/// A mistake of an engine made by
/// [`CpuAttention::with_mutation`](crate::cpu::CpuAttention::with_mutation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(
    not(feature = "mutation"),
    allow(dead_code, unreachable_pub, reason = "no engine has them, and nobody sees them")
)]
pub enum Mutation {
    /// A token does not see itself.
    MaskOffByOne,
    /// The state is forgotten from one block of tokens to the next.
    StateNotCarried,
    /// The last block, which is not a whole one, does not enter the state.
    RaggedBlockSkipped,
    /// Keys do not enter nu.
    NuNotUpdated,
    /// A state does not decay.
    DecayForgotten,
    /// beta is 1.
    BetaForgotten,
    /// A value head reads another key head.
    HeadsTiled,
    /// A single token leaves no state.
    StepForgets,
    /// Gradients by what a delta rule writes are solved from a block's first tokens on.
    SolveForward,
    /// Gradients by a decay have what its own token wrote.
    DecaySumsLate,
}

impl Mutation {
    /// Every one of the forward pass.
    #[cfg(feature = "mutation")]
    pub const ALL: [Self; 8] = [
        Self::MaskOffByOne,
        Self::StateNotCarried,
        Self::RaggedBlockSkipped,
        Self::NuNotUpdated,
        Self::DecayForgotten,
        Self::BetaForgotten,
        Self::HeadsTiled,
        Self::StepForgets,
    ];

    /// Every one of the backward pass by blocks of tokens.
    #[cfg(feature = "mutation")]
    pub const BACKWARD: [Self; 8] = [
        Self::MaskOffByOne,
        Self::StateNotCarried,
        Self::RaggedBlockSkipped,
        Self::NuNotUpdated,
        Self::DecayForgotten,
        Self::BetaForgotten,
        Self::SolveForward,
        Self::DecaySumsLate,
    ];
}

/// The mistake of an engine; without the feature `mutation` there is none, and nothing asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mistake {
    #[cfg(feature = "mutation")]
    pub(super) mutation: Option<Mutation>,
}

impl Mistake {
    #[cfg(feature = "mutation")]
    #[inline(always)]
    pub(super) fn is(self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    #[cfg(not(feature = "mutation"))]
    #[inline(always)]
    pub(super) fn is(self, _: Mutation) -> bool {
        false
    }
}
