//! Where a call learns of its sequences.

use wgpu::BufferBinding;

use super::batch::Batch;

/// Who tells a call which sequences it has.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Sequences<'a> {
    /// The host, which has checked them.
    Host(&'a Batch),
    /// The caller's own work on the device, through a buffer of u32 with
    /// [`Plan::sequences_size`](crate::Plan::sequences_size) bytes that is written before each run:
    ///
    /// | elements | what | where |
    /// | --- | --- | --- |
    /// | 1 | status: to it the shaders add the entries that they had to ignore | always |
    /// | N + 1 | `cu_seqlens`: sequence n has the tokens `cu_seqlens[n] .. cu_seqlens[n+1]` | where the shape is packed |
    /// | N | the slot of each sequence, `u32::MAX` for one that takes no part | where it has slots |
    ///
    /// An entry that cannot be is ignored: a slot that the pool has not or that several
    /// sequences have, and lengths that do not begin at 0, decrease or go beyond T or `max_len`.
    /// Its sequence keeps its state and gets no output; where the final states are not the
    /// initial ones, its final state is not written. The last of `cu_seqlens` may be less than
    /// T: what is beyond it is not touched. See [`Status`](crate::serve::Status).
    Device(BufferBinding<'a>),
}
