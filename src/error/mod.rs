//! One error type for each step. Each message says what was wrong, what was required and what was
//! found.

mod bind;
mod config;
mod device;
mod matrix_units;
mod plan;
mod pool;

pub use bind::BindError;
pub use config::{ConfigError, WeightsError};
pub use device::DeviceError;
pub use matrix_units::MatrixUnitsError;
pub use plan::PlanError;
pub use pool::PoolError;

use thiserror::Error;

/// An error from a call on host slices. Each step of the call has a variant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// See [`PlanError`].
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// See [`WeightsError`].
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// See [`PoolError`].
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The sequences of the shape are only in buffers: see
    /// [`Shape::with_slots`](crate::Shape::with_slots) and
    /// [`Shape::packed_up_to`](crate::Shape::packed_up_to).
    #[error("{what}: a call on host slices must have lengths of its own and no pool")]
    HostShape {
        /// `slots` or `packed_up_to`.
        what: &'static str,
    },
    /// A slice has the wrong length.
    #[error("{tensor} must have {required} elements, found {actual}")]
    Len {
        /// The tensor.
        tensor: &'static str,
        /// Elements the shape asks for.
        required: u64,
        /// Elements of the slice.
        actual: u64,
    },
    /// A slice has elements of another type than the config says, and not f32.
    #[error("{tensor} must be {required} or F32, found {actual}")]
    SliceDtype {
        /// The tensor.
        tensor: &'static str,
        /// The type that the config says.
        required: &'static str,
        /// The slice's.
        actual: &'static str,
    },
    /// An input is infinite or NaN.
    #[error("{tensor} must be finite, found {actual} at element {index}")]
    NonFinite {
        /// The tensor.
        tensor: &'static str,
        /// The first such element.
        index: u64,
        /// Its value, printed.
        actual: String,
    },
    /// A feature of a key is infinite or NaN in f32, and would make every later sum so.
    #[error(
        "phi(k) must be finite in f32, found {actual} at token {token}, head {head}, \
         feature {feature}"
    )]
    KeyFeature {
        /// The token, counted through all sequences.
        token: u64,
        /// The key head.
        head: u64,
        /// The feature of φ.
        feature: u64,
        /// Its value, printed.
        actual: String,
    },
    /// All features of a key, and of all keys before it, are below the smallest normal f32, though
    /// none need be 0: o, an average of their values, would be 0.
    #[error(
        "phi(k) must not vanish in f32 where o is an average, found all features below 1.2e-38 \
         at token {token}, head {head}"
    )]
    KeyVanishes {
        /// The token, counted through all sequences.
        token: u64,
        /// The key head.
        head: u64,
    },
    /// A feature map has no derivative, as a caller's own map.
    #[error("feature map {feature_map} must have a derivative, found none")]
    NoDerivative {
        /// The map's name.
        feature_map: String,
    },
    /// A tensor that the update rule needs is missing, or one is given that it does not use.
    #[error("update rule {rule}: {tensor} must be {required}, found {actual}")]
    RuleTensor {
        /// The rule's name.
        rule: &'static str,
        /// `decay`, `beta`, `gate_weights`, or a state.
        tensor: &'static str,
        /// `given`, `absent` or `absent beside a pool`.
        required: &'static str,
        /// `none` or `some`.
        actual: &'static str,
    },
    /// A decay or beta is out of range.
    #[error("{tensor} must be {required}, found {actual} at token {token}, head {head}")]
    Gate {
        /// `decay` or `beta`.
        tensor: &'static str,
        /// The condition it fails.
        required: &'static str,
        /// Its value, printed.
        actual: String,
        /// The token, counted through all sequences.
        token: u64,
        /// The value head.
        head: u64,
    },
    /// A summary is damaged, of another version, or of another config or other sequences.
    #[error("summary: {what} must be {required}, found {actual}")]
    Summary {
        /// A part of it.
        what: &'static str,
        /// The value required.
        required: String,
        /// The value found.
        actual: String,
    },
    /// The caller's `on_progress` cancelled the call.
    #[error("the call was cancelled after {done} of {operations} operations")]
    Cancelled {
        /// Operations of the submissions that had run.
        done: u64,
        /// Those of the whole call.
        operations: u64,
    },
    /// wgpu or the driver refused an object, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fmt;

    use super::*;

    #[test]
    fn a_refusal_keeps_its_source() {
        let refused = BindError::from(DeviceError::from_source("linear_attention.q", fmt::Error));
        assert_eq!(
            refused.to_string(),
            format!("the device refused linear_attention.q: {}", fmt::Error)
        );
        assert!(refused.source().is_some_and(|source| source.is::<fmt::Error>()));
        let message = fmt::Error.to_string();
        assert_eq!(refused, BindError::Device(DeviceError::new("linear_attention.q", message)));
    }
}
