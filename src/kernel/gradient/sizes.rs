//! The sizes of kernels of the backward pass.

use crate::kernel::layout::SCAN_THREADS;
use crate::problem::config::Config;
use crate::problem::update_rule::{DecayDims, UpdateRule};

/// Threads of a workgroup of `gradient_recurrence`: one for a feature, up to as many as every
/// device has.
pub(crate) fn gradient_threads(config: &Config) -> u32 {
    if config.features() <= 64 { 64 } else { 128 }
}

/// Columns of mu that they have at a time; a value block is a multiple of it. Fewer where rows are
/// many, so that a compiler need not keep more of them than there are registers; and half of V at
/// most, so that there is something to share.
pub(crate) fn gradient_columns(config: &Config) -> u32 {
    let most = if config.features() <= 128 { 16 } else { 8 };
    config.value_dim.div_ceil(2).next_power_of_two().min(most)
}

/// Most tokens of a block of `gradient_decays`, so that those of a block and of as many behind it
/// fit into the workgroup memory that every device has.
pub(crate) const DECAY_BLOCK: u32 = 128;

/// Tokens of a block that a workgroup of it takes at a time: with twice as many, the rows that all
/// its lanes load are more than a GPU's scalar registers.
pub(crate) const DECAY_STRIP: u32 = 4;

/// Threads of that workgroup that share a row of features; others have other columns.
pub(crate) fn decay_lanes(config: &Config) -> u32 {
    config.features().div_ceil(4).next_power_of_two().min(SCAN_THREADS)
}

/// True where the gradients of a rule are sums of passes of the forward kernels.
pub(crate) fn has_sums(config: &Config) -> bool {
    match config.update_rule {
        UpdateRule::Linear => true,
        UpdateRule::Delta(_) => true,
        UpdateRule::Gated(decay) | UpdateRule::GatedDelta(decay, _) => {
            decay.dims != DecayDims::PerRow
        }
    }
}

/// The workgroups of `gradient_corrections` and `gradient_corrections_reversed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CorrectionSizes {
    /// Columns of a state, of which each thread has one.
    pub(crate) columns: u32,
    /// Threads that share a column: one has at most 64 of its rows in registers.
    pub(crate) lanes: u32,
    /// Rows that are in workgroup memory at a time, no more than the least that devices have.
    pub(crate) rows: u32,
}

impl CorrectionSizes {
    pub(crate) fn new(config: &Config) -> Self {
        let features = config.features().div_ceil(4);
        let lanes = features.div_ceil(16).next_power_of_two();
        let columns = config.value_dim.next_power_of_two().clamp(4, 32);
        let row = 16 * features.next_multiple_of(lanes) + 4 * columns + 8;
        Self { columns, lanes, rows: (12_288 / row).clamp(1, 16) }
    }

    /// vec4s of rows of a column that a thread has.
    pub(crate) fn vec4s(self, config: &Config) -> u32 {
        config.features().div_ceil(4).div_ceil(self.lanes)
    }

    /// Workgroups of a value head of a sequence.
    pub(crate) fn blocks(self, config: &Config) -> u32 {
        config.value_dim.next_multiple_of(4).div_ceil(self.columns)
    }
}
