//! Why a shape cannot be planned.

use thiserror::Error;

use crate::error::ConfigError;

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
