//! The uniform that every stage reads.

use bytemuck::{Pod, Zeroable};

/// Mirror of `Params` in `shaders/params.wgsl`; a test compares the offsets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) q: Rows,
    pub(crate) k: Rows,
    pub(crate) v: Rows,
    pub(crate) o: Rows,
    pub(crate) sequences: u32,
    pub(crate) seq_len: u32,
    pub(crate) total_tokens: u32,
    pub(crate) max_len: u32,
    pub(crate) heads: u32,
    pub(crate) key_heads: u32,
    pub(crate) value_heads: u32,
    pub(crate) output_heads: u32,
    pub(crate) key_group: u32,
    pub(crate) query_group: u32,
    pub(crate) group: u32,
    pub(crate) head_tile: u32,
    pub(crate) head_blocks: u32,
    pub(crate) value_blocks: u32,
    pub(crate) segments: u32,
    pub(crate) segment_len: u32,
    pub(crate) chunk_len: u32,
    pub(crate) states: u32,
    pub(crate) key_weights: u32,
    pub(crate) query_weights_begin: u32,
    pub(crate) query_weights: u32,
    pub(crate) shares_key_weights: u32,
    pub(crate) grid_width: u32,
    pub(crate) first_workgroup: u32,
    pub(crate) first_step: u32,
    pub(crate) end_step: u32,
    pub(crate) steps: u32,
}

/// Mirror of `Rows`: see `shaders/heads.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Rows {
    pub(crate) offset: u32,
    pub(crate) batch: u32,
    pub(crate) token: u32,
    pub(crate) head: u32,
}
