//! Matrix units that have computed a config rightly on a device.

use crate::error::ConfigError;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;

/// Matrix units of a device, after they computed a config there and agreed with f64: see
/// `MatrixUnits::new`, which is native. [`Options::with_matrix_units`](crate::Options::with_matrix_units) takes them;
/// without, no call uses any.
///
/// Prompts in f16 and bf16 of every rule without decays for each row run on them in chunks of 8 or
/// 16 tokens: factors are f16, which costs up to 2^-11 of each, as storing in f16 does and a
/// quarter of what storing in bf16 does, and sums are in f32, as is the solve of a delta rule.
/// `docs/kernels.md`, "Matrix units", has the bound. A value that is infinite or NaN reaches all
/// tokens of its chunk, also those before it.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixUnits {
    device: wgpu::Device,
    config: Config,
    tuning: Tuning,
}

impl MatrixUnits {
    /// Features that a device must have been asked for. The first is one of wgpu's experimental
    /// ones.
    #[must_use]
    pub fn required_features() -> wgpu::Features {
        wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
            | wgpu::Features::SHADER_F16
            | wgpu::Features::SUBGROUP
    }

    /// The tuning with which they were checked.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Rows and columns of a matrix, and tokens of a chunk: 8 or 16.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.tuning.layout.rows
    }

    /// Matrix units whose results have been checked.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn checked(device: &wgpu::Device, config: &Config, tuning: Tuning) -> Self {
        Self { device: device.clone(), config: config.clone(), tuning }
    }

    /// Refuses matrix units that nobody has checked.
    pub(crate) fn check(
        units: Option<&Self>,
        device: &wgpu::Device,
        config: &Config,
        tuning: &Tuning,
    ) -> Result<(), ConfigError> {
        let refuse = |required: &str, actual: &str| {
            Err(ConfigError::Tuning {
                what: "matrix_units",
                required: required.to_owned(),
                actual: actual.to_owned(),
            })
        };
        let Some(units) = units else {
            return match tuning.layout.subgroup_size() {
                None => Ok(()),
                Some(_) => refuse("given for a layout of matrices", "none"),
            };
        };
        if units.device != *device {
            return refuse("of the same device", "those of another");
        }
        if units.config != *config {
            return refuse("checked with the same config", "those of another");
        }
        if !units.tuning.compiles_like(tuning) {
            return refuse("checked with the same layout", "those of another");
        }
        Ok(())
    }
}
