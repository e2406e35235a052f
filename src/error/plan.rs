//! Errors of planning a shape.

use thiserror::Error;

use crate::error::ConfigError;

/// An error from planning a [`Shape`](crate::Shape).
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
    /// A driver exits loops after so many iterations of an invocation, and a backward pass would
    /// need more: for a token of wide features and values, or for sums over very many tokens.
    #[error("{what} may take {required} loop iterations on this device, found {actual}")]
    Iterations {
        /// What takes them.
        what: &'static str,
        /// Iterations that an invocation may make of it.
        required: u32,
        /// Those that it takes.
        actual: u64,
    },
    /// A call has so many tokens that their indices could wrap.
    #[error("tokens of all sequences must be at most {required}, found {actual}")]
    SeqLen {
        /// 2^31.
        required: u32,
        /// B T, or 2^32 - 1 where it is larger.
        actual: u32,
    },
    /// A shape has sources or checkpoints, which are slots of a pool, but no slots.
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
    /// The lengths of packed sequences add up to more than T.
    #[error(
        "lengths of packed sequences must add up to at most seq_len = {required}, found {actual}"
    )]
    Lengths {
        /// T.
        required: u32,
        /// Their sum.
        actual: u64,
    },
    /// Padded rows have a range of valid tokens each.
    #[error("a padded shape must have batch = {required} ranges of valid tokens, found {actual}")]
    ValidRanges {
        /// B.
        required: u32,
        /// The ranges.
        actual: u64,
    },
    /// The valid tokens of a padded row are not among its tokens.
    #[error(
        "the valid tokens of row {row} must be a range within 0..{required} (seq_len), \
         found {start}..{end}"
    )]
    Valid {
        /// The row of the batch.
        row: u64,
        /// T.
        required: u32,
        /// The first valid token.
        start: u32,
        /// The token behind the last.
        end: u32,
    },
    /// Rows of o would be written over one another.
    #[error(
        "strides of o must keep rows of {value_dim} elements apart, \
         found batch {batch}, token {token}, head {head}"
    )]
    OutputStrides {
        /// Elements from one row of the batch to the next.
        batch: u32,
        /// From one token to the next.
        token: u32,
        /// From one head to the next.
        head: u32,
        /// V.
        value_dim: u32,
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
        /// The most workgroups that two dimensions of a dispatch and 32 bits can number.
        required: u64,
        /// The workgroups it would take.
        actual: u64,
    },
    /// The shape has no backward pass on a device.
    #[error("{what}: a backward pass must have lengths of its own and no pool")]
    Backward {
        /// `slots` or `packed_up_to`.
        what: &'static str,
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
