//! Errors of binding tensors.

use thiserror::Error;

use crate::error::{DeviceError, WeightsError};

/// An error from binding tensors to a plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The plan was made for another config or tuning, or a backward pass by another recipe.
    #[error("plan: {what} must be that of this LinearAttention")]
    Plan {
        /// `config`, `tuning` or `recipe`.
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
    /// A tensor is bound that the plan's shape or config does not use.
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
    /// q, k and v overlap, for which their buffers must be bound to be read alone.
    #[error("{second} must be in another buffer than {first}, since q, k and v overlap")]
    SharedBuffer {
        /// q, k or v.
        first: &'static str,
        /// The other tensor in its buffer.
        second: &'static str,
    },
    /// A stage of this call binds more storage buffers than the device has. Calls with fewer
    /// states, or with sequences of equal lengths, bind fewer: see
    /// [`kernels`](crate::tuning::kernels).
    #[error(
        "{stage} must have {required} storage buffers for this call \
         (max_storage_buffers_per_shader_stage), found {actual}"
    )]
    StorageBuffers {
        /// The stage's name.
        stage: &'static str,
        /// The storage buffers that it binds.
        required: u32,
        /// The device's limit.
        actual: u32,
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
        /// Work items that read each state.
        actual: u32,
    },
    /// wgpu or the driver refused an object, or the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
