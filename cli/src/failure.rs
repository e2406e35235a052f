//! The failures with which the program ends.

use linear_attention::Error;
use linear_attention::error::{BindError, ConfigError, PlanError};
use linear_attention_measure::MeasureError;
use thiserror::Error;

/// A failure by its cause, which the exit status tells.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The caller's: an argument, a file.
    #[error("{0}")]
    Input(String),
    /// The machine's: no adapter, a device that failed, a disk that is full.
    #[error("{0}")]
    Device(String),
    /// A result that is not what it must be.
    #[error("{0}")]
    NotHeld(String),
}

impl Failure {
    /// 2 where the caller can mend it, 1 where not.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Device(_) | Self::NotHeld(_) => 1,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Device(_) | ConfigError::Limit { .. } => Self::Device(error.to_string()),
            _ => Self::Input(error.to_string()),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Config(error) => error.into(),
            _ => Self::Input(error.to_string()),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::Device(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config(error) => error.into(),
            Error::Plan(error) => error.into(),
            Error::Len { .. } | Error::NonFinite { .. } | Error::Gate { .. } => {
                Self::Input(format!("tensor {error}"))
            }
            Error::Weights(_)
            | Error::RuleTensor { .. }
            | Error::KeyFeature { .. }
            | Error::KeyVanishes { .. } => Self::Input(error.to_string()),
            _ => Self::Device(error.to_string()),
        }
    }
}

impl From<MeasureError> for Failure {
    fn from(error: MeasureError) -> Self {
        match error {
            MeasureError::Config(error) => error.into(),
            MeasureError::Plan(error) => error.into(),
            MeasureError::Memory { .. } => Self::Input(error.to_string()),
            MeasureError::Attention(error) => error.into(),
            MeasureError::Wrong { .. } => Self::NotHeld(error.to_string()),
            _ => Self::Device(error.to_string()),
        }
    }
}
