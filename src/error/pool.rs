//! Errors of pools, and of the sequences of a call.

use thiserror::Error;

use crate::error::{DeviceError, PlanError};

/// An error from a pool of states, or in the sequence metadata of a call. Neither the pool nor the
/// device has been changed.
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
    /// A handle does not name a state of this pool.
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
    /// A step has a source or a checkpoint, and its plan has none.
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
    /// A step has more than its plan has room for, or other tokens.
    #[error("{what} must be {required} as in the plan, found {actual}")]
    Entries {
        /// `sequences`, `tokens` or `tokens of a sequence`.
        what: &'static str,
        /// The plan's number; the most of it where the shape is packed.
        required: u64,
        /// The step's.
        actual: u64,
    },
    /// A plan and a pool, or a batch and a pool, do not belong together.
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
