//! One error type; each message says what was wrong, what was required and what was found.

use thiserror::Error;

/// An error from a call.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The core crate refused a config, a shape or a binding.
    #[error(transparent)]
    Core(#[from] linear_attention::Error),
    /// A tensor of other dimensions.
    #[error("{tensor} must be {required:?}, found {actual:?}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// The dimensions that the others ask for.
        required: Vec<usize>,
        /// Those of the tensor.
        actual: Vec<usize>,
    },
    /// A tensor of another type.
    #[error("{tensor} must be {required}, found {actual}")]
    Dtype {
        /// The tensor.
        tensor: &'static str,
        /// The types that it may have.
        required: &'static str,
        /// Its type.
        actual: String,
    },
    /// A tensor that the update rule does not use, or one that it lacks.
    #[error("{tensor} must be {required} with the rule {rule}, found {actual}")]
    RuleTensor {
        /// The tensor.
        tensor: &'static str,
        /// `given` or `absent`.
        required: &'static str,
        /// The update rule.
        rule: &'static str,
        /// `some` or `none`.
        actual: &'static str,
    },
    /// A part of a config whose tensors are not in [`Inputs`](crate::Inputs).
    #[error("{what} must be left out, found {actual}")]
    Unsupported {
        /// The part.
        what: &'static str,
        /// Its value.
        actual: String,
    },
    /// Tensors that are on several devices.
    #[error("{tensor} must be on the device of q")]
    OtherDevice {
        /// The tensor.
        tensor: &'static str,
    },
    /// Tensors of a backend that this build of the crate does not know.
    #[error(
        "tensors must be of the backend Flex, NdArray or Cube, and its feature on, found {actual}"
    )]
    Backend {
        /// The device of q.
        actual: String,
    },
    /// A device of the backend Cube that was not registered.
    #[error("{device} must be registered first: see linear_attention_burn::register")]
    Unregistered {
        /// The device.
        device: String,
    },
    /// A device that is not one of the backend Cube.
    #[error("a registered device must be of the backend Cube, found {actual}")]
    Registration {
        /// The device.
        actual: String,
    },
    /// An operation of Burn that failed.
    #[error("Burn failed to {what}: {message}")]
    Burn {
        /// The operation.
        what: &'static str,
        /// Burn's own message.
        message: String,
    },
}

macro_rules! from_core {
    ($($error:ident)*) => {$(
        impl From<linear_attention::error::$error> for Error {
            fn from(error: linear_attention::error::$error) -> Self {
                Self::Core(error.into())
            }
        }
    )*};
}
from_core!(ConfigError PlanError BindError WeightsError);

impl Error {
    pub(crate) fn burn(what: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Burn { what, message: error.to_string() }
    }
}
