//! Errors in a config, and in the weights of its maps.

use thiserror::Error;

use crate::error::DeviceError;

/// An error from compiling a [`Config`](crate::Config).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// K or V is out of range.
    #[error("{what} must be 1 to {required}, found {actual}")]
    Dim {
        /// `key_dim` or `value_dim`.
        what: &'static str,
        /// The largest.
        required: u32,
        /// The value found.
        actual: u32,
    },
    /// The scale is infinite or NaN.
    #[error("scale must be finite, found {actual}")]
    Scale {
        /// The value found, printed.
        actual: String,
    },
    /// eps is negative, infinite or NaN.
    #[error("eps must be finite and not negative, found {actual}")]
    Eps {
        /// The value found, printed.
        actual: String,
    },
    /// The map can be negative, and so can the denominator.
    #[error(
        "feature map {feature_map} can be negative, so its denominator may cross zero: \
         normalization must be None or, by name, SignedSum; found Sum"
    )]
    SignedSum {
        /// The map's name.
        feature_map: String,
    },
    /// The update rule does not go with the rest, or a field of it is out of range.
    #[error("update rule {rule}: {what} must be {required}, found {actual}")]
    UpdateRule {
        /// The rule's name.
        rule: &'static str,
        /// The field.
        what: &'static str,
        /// The condition it fails.
        required: String,
        /// The value found, printed.
        actual: String,
    },
    /// A feature map's own size is out of range, or does not go with the other map's.
    #[error("feature map {feature_map}: {what} must be {required}, found {actual}")]
    FeatureMap {
        /// The map's name.
        feature_map: String,
        /// The size.
        what: &'static str,
        /// The condition it fails.
        required: String,
        /// The value found.
        actual: u32,
    },
    /// Keys and queries have two custom maps: there is room for the text of one.
    #[error("custom maps of keys and queries must be the same, found {keys} and {queries}")]
    TwoCustomMaps {
        /// The name of the keys' map.
        keys: String,
        /// The name of the queries' map.
        queries: String,
    },
    /// No feature map has this name, or its size is missing or superfluous.
    #[error(
        "feature map must be one of identity, relu, relu-squared, elu, exp, silu, sigmoid, \
         softmax, hedgehog, hedgehog-joint, taylor or, with a size, t2r:F, product:F, favor:F, \
         favor-hyperbolic:F, fourier:F, dpfp:NU; found {actual}"
    )]
    UnknownFeatureMap {
        /// The text found.
        actual: String,
    },
    /// The text of a [`CustomMap`](crate::feature_map::CustomMap) is no feature map.
    #[error("feature map {feature_map}: {message}")]
    Phi {
        /// The map's name.
        feature_map: String,
        /// The condition it fails; for text that is no WGSL, naga's message with the line.
        message: String,
    },
    /// The device gives too little for any layout.
    #[error("{what} of the device must be at least {required}, found {actual}")]
    Limit {
        /// The limit's name in `wgpu::Limits`.
        what: &'static str,
        /// The least that would do.
        required: u64,
        /// The device's limit.
        actual: u64,
    },
    /// A tuning that does not fit the config or the device.
    #[error("tuning: {what} must be {required}, found {actual}")]
    Tuning {
        /// The field.
        what: &'static str,
        /// The condition it fails.
        required: String,
        /// The value found, printed.
        actual: String,
    },
    /// wgpu or the driver refused an object, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// An error in the [`Weights`](crate::feature_map::Weights) of a feature map.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The config itself is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A size is zero.
    #[error("{what} must be at least 1, found 0")]
    Zero {
        /// `heads`, `projections` or `key_dim`.
        what: &'static str,
    },
    /// A slice has another length.
    #[error("{what} must have {required} elements, found {actual}")]
    Len {
        /// `weight` or `bias`.
        what: &'static str,
        /// The elements required.
        required: u64,
        /// The elements found.
        actual: u64,
    },
    /// An element is infinite or NaN.
    #[error("{what} must be finite, found {actual} at {index}")]
    NonFinite {
        /// `weight` or `bias`.
        what: &'static str,
        /// The index of the element.
        index: u64,
        /// The value, printed.
        actual: String,
    },
    /// A map needs weights that were not given.
    #[error("the feature map of {what} needs weights, found none")]
    Missing {
        /// `keys` or `queries`.
        what: &'static str,
    },
    /// Weights were given to a map that has none.
    #[error("the feature map of {what} has no weights, found some")]
    Unexpected {
        /// `keys` or `queries`.
        what: &'static str,
    },
    /// They are of another number of heads.
    #[error("weights of {what} must be of {required} heads, found {actual}")]
    Heads {
        /// `keys` or `queries`.
        what: &'static str,
        /// Those that would do.
        required: String,
        /// Those found.
        actual: u32,
    },
    /// W has other sizes.
    #[error("weights of {what} must be [P,K] = {required:?}, found {actual:?}")]
    Sizes {
        /// `keys` or `queries`.
        what: &'static str,
        /// P and K that the map has.
        required: [u32; 2],
        /// P and K found.
        actual: [u32; 2],
    },
    /// wgpu or the driver refused to write them.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
