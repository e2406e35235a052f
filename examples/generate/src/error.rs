//! Errors.

use linear_attention::error::{BindError, ConfigError, DeviceError, PlanError, PoolError};

/// An error from reading a model, or from a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not a safetensors file.
    #[error("the model must be a safetensors file: {0}")]
    File(#[source] safetensors::SafeTensorError),
    /// The file has no sizes.
    #[error("the model's file must have the metadata config, found none")]
    NoSizes,
    /// The sizes are not valid JSON, or one is missing.
    #[error("the metadata config: {0}")]
    Sizes(#[from] serde_json::Error),
    /// A size is out of range.
    #[error("{what} of the model must be {required}, found {actual}")]
    #[allow(missing_docs, reason = "the message says what they are")]
    Size { what: &'static str, required: &'static str, actual: usize },
    /// A tensor is missing, or has another type or shape.
    #[error("tensor {name} must be {required}, found {actual}")]
    #[allow(missing_docs, reason = "the message says what they are")]
    Tensor { name: String, required: String, actual: String },
    /// A step has too many sequences or tokens, or a sequence without any.
    #[error("{what} of a step must be {required}, found {actual}")]
    #[allow(missing_docs, reason = "the message says what they are")]
    Step { what: &'static str, required: String, actual: usize },
    /// A temperature is negative, infinite or NaN.
    #[error("the temperature must be finite and at least 0, found {actual}")]
    #[allow(missing_docs, reason = "the message says what it is")]
    Temperature { actual: f32 },
    /// A conversation that was paused is damaged, or another model's.
    #[error("a paused conversation must have {required}, found {actual}")]
    #[allow(missing_docs, reason = "the message says what they are")]
    Paused { required: &'static str, actual: String },
    /// From the attention of the CPU engine.
    #[error(transparent)]
    Attention(#[from] linear_attention::Error),
    /// From a layer's config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// From a layer's plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// From binding a layer's tensors.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// From the pool of states.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// From the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
