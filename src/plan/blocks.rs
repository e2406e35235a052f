//! Blocks: the heads, features and values of a work item, and the work items that share a state.

use crate::kernel::layout::RowSource;
use crate::plan::Plan;

impl Plan {
    /// Output heads of a work item.
    pub(crate) fn head_tile(&self) -> u32 {
        match self.layout().row_source {
            RowSource::Workgroup if self.decode.is_none() => {
                self.shape.value_group().min(self.layout().chunk_queries)
            }
            _ => self.shape.value_group(),
        }
    }

    pub(crate) fn head_blocks(&self) -> u32 {
        self.shape.value_group().div_ceil(self.head_tile())
    }

    /// Feature blocks (split-F), each with its own work items. With more than one, each stores a
    /// partial sum of every row of o in scratch, and `output_sum` adds them up.
    #[must_use]
    pub fn feature_blocks(&self) -> u32 {
        self.layout().feature_blocks(&self.config)
    }

    pub(crate) fn value_blocks(&self) -> u32 {
        self.config.value_dim.div_ceil(self.layout().block_columns())
    }

    /// Tokens of a chunk, whose query rows fit into workgroup memory.
    pub(crate) fn chunk_len(&self) -> u32 {
        let layout = self.layout();
        match layout.row_source {
            RowSource::Workgroup => {
                (layout.chunk_queries / self.head_tile()).clamp(1, layout.chunk_tokens)
            }
            RowSource::Direct => 1,
            RowSource::Matrices { .. } => layout.chunk_tokens,
        }
    }

    /// Blocks of the F columns of a segment's matrix.
    pub(crate) fn transition_blocks(&self) -> u32 {
        self.config.features().div_ceil(self.layout().block_columns())
    }

    /// True if one binding may be both the initial and the final state: either the work item that
    /// writes a part of a state is the only one that reads it, or `state_scan` reads it before.
    #[must_use]
    pub fn updates_in_place(&self) -> bool {
        self.decode.is_some() || self.segmentation.max_segments > 1 || self.readers_per_state() == 1
    }

    /// Work items that read the same elements of a state: all of them nu, those of a value block
    /// mu.
    pub(crate) fn readers_per_state(&self) -> u32 {
        let of_nu = if self.config.is_normalized() { self.value_blocks() } else { 1 };
        self.head_blocks().saturating_mul(of_nu)
    }
}
