//! Choices about how a config is compiled.

use crate::bind::matrix_units::MatrixUnits;
use crate::plan::tuning::Tuning;

/// Checks of indices and bounds of loops within the shaders.
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

/// Choices for [`LinearAttention::with_options`](crate::LinearAttention::with_options).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options<'a> {
    /// Sizes chosen by the caller, [`Tuning::new`] where `None`.
    pub tuning: Option<Tuning>,
    /// Checks within the shaders.
    pub checks: ShaderChecks,
    /// A cache from which the driver loads compiled pipelines, and in which it stores new ones.
    pub cache: Option<&'a wgpu::PipelineCache>,
    /// Matrix units, checked with the same config on the same device; none are used without. Where
    /// `tuning` is `None`, theirs is taken.
    pub matrix_units: Option<&'a MatrixUnits>,
}

impl<'a> Options<'a> {
    /// With sizes chosen by the caller; with those of [`Tuning::new`] for `None`.
    #[must_use]
    pub fn with_tuning(self, tuning: impl Into<Option<Tuning>>) -> Self {
        Self { tuning: tuning.into(), ..self }
    }

    /// With or without checks in the shaders.
    #[must_use]
    pub fn with_checks(self, checks: ShaderChecks) -> Self {
        Self { checks, ..self }
    }

    /// With a cache of the driver's pipelines.
    #[must_use]
    pub fn with_cache(self, cache: &'a wgpu::PipelineCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// With matrix units, for the calls that they compute; with none for `None`.
    #[must_use]
    pub fn with_matrix_units(self, units: impl Into<Option<&'a MatrixUnits>>) -> Self {
        Self { matrix_units: units.into(), ..self }
    }
}
