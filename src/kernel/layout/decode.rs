//! The layout of `decode_step`.

use super::{DIRECT_THREADS, Layout, RowSource, memory};
use crate::problem::config::Config;

/// The numbers of `decode_step`, whose threads go through their rows of mu a tile of four at a
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DecodeLayout {
    /// Tokens of a sequence at most.
    pub(crate) tokens: u32,
    /// Output heads that read a value head.
    pub(crate) heads: u32,
    /// Values of a thread.
    pub(crate) columns: u32,
    /// Threads along V of a work item.
    pub(crate) column_threads: u32,
    /// Threads that share a row of phi(k).
    pub(crate) lanes: u32,
    /// Tiles of four features that a thread goes through.
    pub(crate) lane_tiles: u32,
    /// Value heads of a workgroup.
    pub(crate) items: u32,
    /// True if each thread loads its own rows.
    pub(crate) is_direct: bool,
}

/// Query rows of a value head whose sums a thread of `decode_step` can hold.
const MAX_DECODE_ROWS: u32 = 32;
/// The same where rows are loaded directly.
const MAX_DIRECT_DECODE_ROWS: u32 = 16;
/// Tiles that a thread of `decode_step` loads at a time: 32 of its registers.
const TILES_AHEAD: u32 = 2;
/// Bytes of workgroup memory of a `decode_step` of which many run at once.
const DECODE_MEMORY: u32 = 16 << 10;

/// Tokens of a delta rule in `decode_step`, whose keys a thread multiplies with one another. Where
/// lanes share a row, `segment_output` corrects values and decodes as well.
const MAX_DELTA_TOKENS: u32 = 8;

impl DecodeLayout {
    /// For sequences of up to `tokens` tokens, `None` where there is no room for their query rows.
    pub(crate) fn new(
        config: &Config,
        layout: Layout,
        [tokens, heads]: [u32; 2],
        limits: &wgpu::Limits,
    ) -> Option<Self> {
        let corrects = config.update_rule.beta().is_some();
        if corrects && (layout.row_source != RowSource::Direct || tokens > MAX_DELTA_TOKENS) {
            return None;
        }
        let tokens = tokens.max(1).next_power_of_two();
        if tokens.checked_mul(heads)? > MAX_DECODE_ROWS || layout.feature_blocks(config) > 1 {
            return None;
        }
        let features_vec4 = config.features().div_ceil(4);
        if layout.row_source == RowSource::Direct {
            // Rows are unrolled, and every load compiles to a loop over lanes.
            if tokens * heads > MAX_DIRECT_DECODE_ROWS {
                return None;
            }
            let columns = if config.is_vec4() { 16 } else { 4 };
            let blocks = config.value_dim.div_ceil(columns);
            // CPU adapters run threads in eights or so.
            let items = (DIRECT_THREADS / blocks).max(1);
            let lane_tiles = features_vec4;
            let column_threads = 1;
            let found = Self {
                tokens,
                heads,
                columns,
                column_threads,
                lanes: 1,
                lane_tiles,
                items,
                is_direct: true,
            };
            let threads = limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x);
            return (found.threads(config) <= threads).then_some(found);
        }
        let column_threads = config.value_dim.div_ceil(4).next_power_of_two();
        let most = limits.max_compute_invocations_per_workgroup.min(256);
        let mut lanes =
            (most / column_threads).min(features_vec4).checked_ilog2().map(|n| 1 << n)?;
        loop {
            let lane_tiles = features_vec4.div_ceil(lanes);
            let found = Self {
                tokens,
                heads,
                columns: 4,
                column_threads,
                lanes,
                lane_tiles,
                items: 1,
                is_direct: false,
            };
            let memory = found.workgroup_memory(config);
            let limit = limits.max_compute_workgroup_storage_size;
            if memory <= u64::from(limit.min(DECODE_MEMORY)) {
                return Some(found);
            }
            if lanes == 1 {
                return (memory <= u64::from(limit)).then_some(found);
            }
            lanes /= 2;
        }
    }

    /// Query rows of a work item.
    pub(crate) fn rows(self) -> u32 {
        self.tokens * self.heads
    }

    /// Tiles whose loads a thread begins before the rows are there: all of them, unless they are
    /// many. None where a thread loads its own rows, in whose registers a CPU adapter has no room.
    pub(crate) fn tiles_ahead(self) -> u32 {
        if self.is_direct { 0 } else { self.lane_tiles.min(TILES_AHEAD) }
    }

    /// Value blocks of a value head, each a thread of its workgroup, where rows are loaded
    /// directly.
    pub(crate) fn value_blocks(self, config: &Config) -> u32 {
        config.value_dim.div_ceil(self.columns * self.column_threads)
    }

    /// Threads of a workgroup.
    pub(crate) fn threads(self, config: &Config) -> u32 {
        self.lanes * self.column_threads * self.items * self.value_blocks(config)
    }

    fn workgroup_memory(self, config: &Config) -> u64 {
        let features = 4 * self.lanes * self.lane_tiles;
        let columns = self.columns * self.column_threads;
        memory::of_chunk(config, [self.tokens, self.rows()], [self.lanes, features, columns], false)
    }
}
