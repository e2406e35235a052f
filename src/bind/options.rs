//! Choices about how a config is compiled.

use crate::plan::tuning::Tuning;

/// Whether shaders check their own indices and bound their own loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShaderChecks {
    /// Every index is clamped and every loop counted by wgpu.
    Checked,
    /// Neither; workgroup memory begins undefined. The host's checks at `bind` make every
    /// index in bounds: see `docs/design.md`, "Unchecked shaders".
    Unchecked,
}

impl Default for ShaderChecks {
    /// Checked where debug assertions are on, as in tests; unchecked in release builds.
    fn default() -> Self {
        if cfg!(debug_assertions) { Self::Checked } else { Self::Unchecked }
    }
}

/// What [`LinearAttention::with_options`](crate::LinearAttention::with_options) takes beside a config.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options<'a> {
    /// Sizes chosen by the caller, [`Tuning::new`] where `None`.
    pub tuning: Option<Tuning>,
    /// Whether shaders check themselves.
    pub checks: ShaderChecks,
    /// Where the driver may find pipelines it compiled before, and leave new ones.
    pub cache: Option<&'a wgpu::PipelineCache>,
}
