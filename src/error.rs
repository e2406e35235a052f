//! One error type a step. Each message says what, what was required, what was found.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// The device refused to make an object, or failed while it ran or was read back.
#[derive(Clone)]
#[non_exhaustive]
pub struct DeviceError {
    /// The label of the object.
    pub what: String,
    /// The message of wgpu or of the driver.
    pub message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl DeviceError {
    /// Without an error of wgpu behind it.
    pub(crate) fn new(what: &str, message: impl Into<String>) -> Self {
        Self { what: what.to_owned(), message: message.into(), source: None }
    }

    /// From an error of wgpu, which stays its [`source`](StdError::source).
    pub(crate) fn from_source(what: &str, source: impl StdError + Send + Sync + 'static) -> Self {
        let (what, message) = (what.to_owned(), source.to_string());
        Self { what, message, source: Some(Arc::new(source)) }
    }
}

impl fmt::Debug for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceError")
            .field("what", &self.what)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device refused {}: {}", self.what, self.message)
    }
}

impl StdError for DeviceError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Equal where object and message are.
impl PartialEq for DeviceError {
    fn eq(&self, other: &Self) -> bool {
        (&self.what, &self.message) == (&other.what, &other.message)
    }
}

impl Eq for DeviceError {}

/// Why a [`Config`](crate::Config) cannot be compiled.
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
    /// No feature map has this name, or its size is missing or not wanted.
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

/// Why [`Weights`](crate::feature_map::Weights) of a feature map cannot be used.
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
        /// Where.
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
}

/// Why a [`Shape`](crate::Shape) cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The config itself is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A size is zero.
    #[error("{what} must be at least 1, found 0")]
    Zero {
        /// The field of [`Shape`](crate::Shape).
        what: &'static str,
    },
    /// Value heads are not divided evenly among key heads.
    #[error("key_heads must divide value_heads = {value_heads}, found {key_heads}")]
    KeyHeads {
        /// E.
        value_heads: u32,
        /// G.
        key_heads: u32,
    },
    /// Query heads are not divided evenly among value heads, nor value heads among query heads.
    #[error("value_heads must divide heads = {heads} or be a multiple of it, found {value_heads}")]
    ValueHeads {
        /// H.
        heads: u32,
        /// E.
        value_heads: u32,
    },
    /// A call has so many tokens that their indices could wrap.
    #[error("tokens of all sequences must be at most {required}, found {actual}")]
    SeqLen {
        /// 2^31.
        required: u32,
        /// B T, or 2^32 - 1 where it is larger.
        actual: u32,
    },
    /// Sources and checkpoints are slots of a pool, which the shape has not.
    #[error("slots must be given for a shape with {what}, found none")]
    NoSlots {
        /// `sources` or `checkpoints`.
        what: &'static str,
    },
    /// Packed sequences lie along T, so there is no batch beside them.
    #[error("batch must be 1 where sequences are packed, found {actual}")]
    PackedBatch {
        /// B.
        actual: u32,
    },
    /// The lengths of packed sequences do not add up to T.
    #[error("the lengths of packed sequences must add up to seq_len = {required}, found {actual}")]
    Lengths {
        /// T.
        required: u32,
        /// Their sum.
        actual: u64,
    },
    /// A buffer has entries of more sequences than one call accepts.
    #[error("sequences must be at most {required}, found {actual}")]
    Sequences {
        /// The most that the device takes.
        required: u32,
        /// N.
        actual: u32,
    },
    /// A pool is larger than the device binds.
    #[error(
        "pool must have at most {required} bytes \
         (max_storage_buffer_binding_size, max_buffer_size), found {actual}{hint}",
        hint = slots_hint(.largest)
    )]
    PoolTooLarge {
        /// The device's limit in bytes.
        required: u64,
        /// The pool's bytes.
        actual: u64,
        /// The most slots that fit, if any do.
        largest: Option<u32>,
    },
    /// A tensor has more elements than 32 bits can index.
    #[error("{what} must have fewer than 2^32 elements, found {actual}")]
    TooManyElements {
        /// The tensor.
        what: &'static str,
        /// Its elements, or `u64::MAX` where 64 bits are not enough either.
        actual: u64,
    },
    /// A tensor is larger than the device binds.
    #[error(
        "{what} must have at most {required} bytes \
         (max_storage_buffer_binding_size, max_buffer_size), found {actual}{hint}",
        hint = batch_hint(.largest_batch)
    )]
    TooLarge {
        /// The tensor.
        what: &'static str,
        /// The device's limit in bytes.
        required: u64,
        /// The tensor's bytes.
        actual: u64,
        /// The largest batch of this shape that fits, if one does.
        largest_batch: Option<u32>,
    },
    /// More workgroups than two dimensions of a dispatch hold.
    #[error("{stage} must have at most {required} workgroups, found {actual}")]
    TooManyWorkgroups {
        /// The stage's name.
        stage: &'static str,
        /// The most that two dimensions of a dispatch have room for and 32 bits can number.
        required: u64,
        /// The workgroups it would take.
        actual: u64,
    },
}

fn batch_hint(largest_batch: &Option<u32>) -> String {
    match largest_batch {
        None | Some(0) => String::new(),
        Some(batch) => format!("; batch = {batch} fits"),
    }
}

fn slots_hint(largest: &Option<u32>) -> String {
    match largest {
        None | Some(0) => String::new(),
        Some(slots) => format!("; {slots} slots fit"),
    }
}

/// Why tensors cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The plan was made for another config or tuning.
    #[error("plan: {what} must be that of this LinearAttention")]
    Plan {
        /// `config` or `tuning`.
        what: &'static str,
    },
    /// Checkpoints of a shape come from the host, through a batch that has checked them.
    #[error(
        "sequences of a shape with checkpoints must be Sequences::Host, found Sequences::Device"
    )]
    Checkpoints,
    /// A binding is smaller than its tensor, or reaches beyond its buffer.
    #[error("{tensor} must bind at least {required} bytes, found {actual}")]
    TooSmall {
        /// The tensor.
        tensor: &'static str,
        /// Its bytes.
        required: u64,
        /// The bytes bound.
        actual: u64,
    },
    /// The binding's offset and size reach beyond its buffer.
    #[error("{tensor} must end at or before byte {required} of its buffer, found {actual}")]
    BeyondBuffer {
        /// The tensor.
        tensor: &'static str,
        /// The buffer's size.
        required: u64,
        /// The end of the binding, in bytes.
        actual: u64,
    },
    /// The offset is no multiple of the device's alignment.
    #[error(
        "{tensor} must begin at a multiple of {required} bytes \
         (min_storage_buffer_offset_alignment), found {actual}"
    )]
    Misaligned {
        /// The tensor.
        tensor: &'static str,
        /// The alignment.
        required: u64,
        /// The offset.
        actual: u64,
    },
    /// The plan needs a tensor that is not bound.
    #[error("{tensor} must be bound for this plan, found none")]
    Missing {
        /// The tensor, or `scratch`.
        tensor: &'static str,
    },
    /// A tensor is bound that the plan's shape has no use for.
    #[error("{tensor} must not be bound for this shape and config, found one")]
    Unexpected {
        /// The tensor.
        tensor: &'static str,
    },
    /// A pool's binding has a size, and it is not that of the plan's slots: it holds other states.
    #[error("pool must bind {required} bytes, the plan's slots, found {actual}")]
    PoolSize {
        /// Bytes of the plan's slots.
        required: u64,
        /// The bytes bound.
        actual: u64,
    },
    /// A [`Batch`](crate::serve::Batch) was made for another plan or pool.
    #[error("sequences: the batch must have been made for this {what}")]
    Batch {
        /// `plan` or `pool`.
        what: &'static str,
    },
    /// The buffer was made without `STORAGE`.
    #[error("{tensor} must be a buffer with usage STORAGE, found {actual}")]
    Usage {
        /// The tensor.
        tensor: &'static str,
        /// The usages it has.
        actual: String,
    },
    /// Two bindings share bytes, and at least one of them is written.
    #[error("{first} and {second} must not overlap, found {bytes} bytes in common")]
    Overlap {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The bytes that both have.
        bytes: u64,
    },
    /// The weights are not those that the feature maps need.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The initial state is bound as the final one, but several work items read it, and
    /// one could read what another has written already.
    #[error(
        "a state updated in place must have 1 reader, found {actual}: \
         bind another buffer as the final state"
    )]
    InPlace {
        /// Workgroups, or in the layout `Thread` threads, that read each state.
        actual: u32,
    },
    /// wgpu or the driver refused an object, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why a pool of states, or the sequence metadata of a call, is refused. Nothing was
/// changed, neither in the pool nor on the device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The sizes of its states, or of all of them, are out of range.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The caller's buffer lacks a usage.
    #[error("pool must be a buffer with usages STORAGE, COPY_SRC and COPY_DST, found {actual}")]
    Usage {
        /// The usages it has.
        actual: String,
    },
    /// The caller's range begins where the device cannot bind it.
    #[error(
        "pool must begin at a multiple of {required} bytes \
         (min_storage_buffer_offset_alignment), found {actual}"
    )]
    Misaligned {
        /// The alignment.
        required: u64,
        /// The offset.
        actual: u64,
    },
    /// The caller's range has no room for all slots.
    #[error("pool must have at least {required} bytes, found {actual}")]
    TooSmall {
        /// Bytes of all slots.
        required: u64,
        /// Bytes of the range, as far as its buffer reaches.
        actual: u64,
    },
    /// Fewer slots are free than were asked for.
    #[error("{required} slots must be free, found {available} of {capacity}")]
    Full {
        /// Slots asked for.
        required: u32,
        /// Slots that are free.
        available: u32,
        /// Slots there are.
        capacity: u32,
    },
    /// A handle that names no state of this pool.
    #[error("slot {index} must be {required}")]
    Slot {
        /// Its number.
        index: u32,
        /// The condition it fails: of this pool, or allocated and not freed since.
        required: &'static str,
    },
    /// Two sequences of one call cannot both update one state.
    #[error("slot {index} must be used once in a call, found again")]
    Duplicate {
        /// Its number.
        index: u32,
    },
    /// A sequence reads a state that another one writes in the same call.
    #[error("slot {index} must not be read where another sequence of the call writes it")]
    Source {
        /// Its number.
        index: u32,
    },
    /// A source or a checkpoint in a step whose plan has none.
    #[error("{what} must be in the plan's shape before entries have any")]
    NotInPlan {
        /// `sources` or `checkpoints`.
        what: &'static str,
    },
    /// A snapshot is damaged, of another version, or of another state.
    #[error("snapshot: {what} must be {required}, found {actual}")]
    Snapshot {
        /// A part of it.
        what: &'static str,
        /// The value required.
        required: String,
        /// The value found.
        actual: String,
    },
    /// More is in a step than its plan has room for, or other tokens.
    #[error("{what} must be {required} as in the plan, found {actual}")]
    Entries {
        /// `sequences`, `tokens` or `tokens of a sequence`.
        what: &'static str,
        /// The plan's number; the most of it where the shape is packed.
        required: u64,
        /// The step's.
        actual: u64,
    },
    /// A plan and a pool, or a batch and a pool, that do not belong together.
    #[error("pool: {what} must be {required}, found {actual}")]
    Pool {
        /// `config`, `value_heads`, `slots` or `pool`.
        what: &'static str,
        /// The plan's or the batch's.
        required: String,
        /// The pool's.
        actual: String,
    },
    /// The plan's states are not in a pool.
    #[error("the plan's shape must have slots, found none")]
    NotPooled,
    /// wgpu or the driver refused an object, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why a call on host slices failed; every step it goes through has its own variant.
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
    /// A shape whose sequences only buffers have: see
    /// [`Shape::with_slots`](crate::Shape::with_slots) and [`Shape::packed_up_to`](crate::Shape::packed_up_to).
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
    /// A tensor that the update rule needs is missing, or one was given that it does not use.
    #[error("update rule {rule}: {tensor} must be {required}, found {actual}")]
    RuleTensor {
        /// The rule's name.
        rule: &'static str,
        /// `decay`, `beta` or `gate_weights`.
        tensor: &'static str,
        /// `given` or `absent`.
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
    /// wgpu or the driver refused an object, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

#[cfg(test)]
mod tests {
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
