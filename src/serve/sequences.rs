//! The source of a call's sequence metadata.

use wgpu::BufferBinding;

use super::batch::Batch;

/// The source of a call's sequence metadata.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Sequences<'a> {
    /// The host, through a [`Batch`] that has checked the entries.
    Host(&'a Batch),
    /// The caller's own work on the device, through a buffer of u32 with
    /// [`Plan::sequences_size`](crate::Plan::sequences_size) bytes that is written before each run:
    ///
    /// | elements | contents | present |
    /// | --- | --- | --- |
    /// | 1 | status: the shaders add the number of entries that they ignored | always |
    /// | N + 1 | `cu_seqlens`: sequence n has the tokens `cu_seqlens[n] .. cu_seqlens[n+1]` | where lengths differ |
    /// | N | the slot of each sequence, `u32::MAX` for one that takes no part | where it has slots |
    /// | N | the slot that each sequence reads | where it has sources |
    /// | the rest | the shaders' own notes on the entries; may hold anything before a run | always
    /// |
    ///
    /// N is the number of sequences or, where rows are padded, of the two entries that each row
    /// has: the padding since the last row's valid tokens, which has no slot, and its valid tokens.
    ///
    /// Checkpoints are the host's alone: a shape that has them wants a [`Batch`].
    /// The shaders ignore an invalid entry: a slot that the pool does not have, that several
    /// sequences write, or that one reads and another writes, and lengths that do not begin at 0,
    /// decrease or go beyond T or `max_len`. Its sequence keeps its state, and its rows of o are
    /// zero; where the final states are not the initial ones, its final state is not written. The
    /// last of `cu_seqlens` may be less than T: the rows of o beyond it are zero. See
    /// [`Status`](crate::serve::Status).
    /// the rows of o beyond it are zero. See [`Status`](crate::serve::Status).
    Device(BufferBinding<'a>),
}
