//! The errors of matrix units.

use thiserror::Error;

use super::ConfigError;

/// The reason that no matrix units compute a config on a device. The config runs there without
/// them.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum MatrixUnitsError {
    /// The device was made without a feature.
    #[error("the device must have {required:?}, found {actual:?}")]
    Features {
        /// [`MatrixUnits::required_features`](crate::tuning::MatrixUnits::required_features).
        required: wgpu::Features,
        /// Those of them that the device has.
        actual: wgpu::Features,
    },
    /// The adapter has no matrices of a shape that the shaders know.
    #[error("the adapter must have matrices of 16x16x16 or 8x8x8, F16 to F32, found {actual}")]
    Shapes {
        /// Those that it has, printed.
        actual: String,
    },
    /// The config has no shader for them, or it fits no layout on the device.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// They computed something else than the reference, or the device refused a shader.
    #[error("matrices of {size}x{size}x{size} failed {case}: {what}")]
    Wrong {
        /// Rows of a matrix.
        size: u32,
        /// The case.
        case: String,
        /// The tensor with its error and the bound, or the device's message.
        what: String,
    },
}
