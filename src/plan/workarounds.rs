//! How many loop iterations an invocation makes: some devices leave all loops, silently, when there
//! are too many.

use crate::kernel::layout::Layout;
use crate::kernel::layout::feature_threads;
use crate::kernel::stage::is_mapped;
use crate::plan::Plan;
use crate::problem::feature_map::FeatureMap;

/// Most iterations of the search for the sequence of a segment.
const SEARCH: u32 = 33;

impl Plan {
    /// An upper bound of the loop iterations of an invocation of `decode_step`.
    pub(crate) fn decode_iterations(&self) -> u64 {
        let config = self.config();
        let shape = self.shape();
        let tokens = u64::from(shape.max_len());
        let group = u64::from(shape.heads / shape.kv_heads);
        let entries = u64::from(shape.sequences()) + 2;
        if let Layout::Thread { .. } = self.layout() {
            // As many rows at a time as there is room for, four features at a time, for which
            // all tokens up to those rows enter nu; then what is left of nu.
            let quads = u64::from(config.features().div_ceil(4));
            let heads = group.min(16);
            let at_a_time = (16 / group).max(1);
            let walks = tokens.div_ceil(at_a_time) * group.div_ceil(16);
            let outputs = at_a_time * (heads + 2);
            // EXP looks for the largest number of each query first.
            let looks = if *config.query_map() == FeatureMap::Exp { 16 * (quads + 1) } else { 0 };
            let per_walk = 20 + looks + quads * (tokens + outputs + 3) + outputs;
            return entries + walks * (per_walk + 2) + quads * (tokens + 3);
        }
        let chunks = tokens.div_ceil(self.chunk_len().into()) * u64::from(self.head_blocks());
        let per_chunk = self.iterations_per_chunk().saturating_add(2);
        let per_slice = chunks.saturating_mul(per_chunk).saturating_add(64);
        entries.saturating_add(per_slice.saturating_mul(self.value_blocks().into()))
    }

    /// Tokens of the longest segment within the tuning's loop iterations. Every loop is
    /// counted once more for its last test.
    pub(crate) fn longest_segment(&self) -> u32 {
        let Layout::Workgroup { .. } = self.layout() else {
            // A token is an iteration, and so is a row of the state that enters or leaves.
            let per_segment = 2 * self.config().features() + 2 + SEARCH;
            return self.tuning().max_loop_iterations.saturating_sub(per_segment).max(1);
        };
        // nu enters and leaves.
        let threads = self.layout().threads(self.config());
        let feature_quads = u64::from(feature_threads(self.config())) * 4;
        let per_segment = 2 * (feature_quads.div_ceil(threads) + 1) + u64::from(SEARCH);
        let iterations = u64::from(self.tuning().max_loop_iterations).saturating_sub(per_segment);
        // `Plan` refuses what has no room for a chunk.
        let tokens =
            (iterations / self.iterations_per_chunk()).max(1) * u64::from(self.chunk_len());
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }

    /// Loop iterations of an invocation for a chunk, in the layout `Workgroup`.
    pub(crate) fn iterations_per_chunk(&self) -> u64 {
        // In 64 bits, since the sizes are the caller's.
        let features = u64::from(feature_threads(self.config()));
        let threads = self.layout().threads(self.config());
        let feature_quads = features * 4;
        let value_quads = u64::from(self.layout().values() / 4);
        let (tokens, heads) = (u64::from(self.chunk_len()), u64::from(self.head_tile()));
        let rows = tokens * heads;
        let load = |count: u64| count.div_ceil(threads) + 1;
        1 + load(tokens * feature_quads)
            + load(tokens * value_quads)
            + load(rows * feature_quads)
            + tokens * (heads + 2)
            + feature_quads.div_ceil(threads) * (tokens * (heads + 2) + 2)
            + rows.div_ceil(threads) * (feature_quads + 2)
            + (rows * value_quads).div_ceil(threads) * (features + 2)
            + 4
            // Last, as it may be as much as there is.
            + self.iterations_to_map(tokens + rows).min(u64::MAX / 4)
    }

    /// Those of `rows` rows in `map_chunk`, where rows are mapped in workgroup memory.
    fn iterations_to_map(&self, rows: u64) -> u64 {
        let config = self.config();
        if !is_mapped(config) {
            return 0;
        }
        let maps = [config.key_map(), config.query_map()];
        let threads = self.layout().threads(config);
        let feature_quads = u64::from(feature_threads(config)) * 4;
        let row_quads = u64::from(config.key_dim.div_ceil(4));
        let kept = maps.map(|map| u64::from(map.kept_projections(config.key_dim)));
        let kept = kept[0].max(kept[1]);
        let per_feature_quad = match config.custom_maps().next() {
            Some(map) => map.iterations(config.key_dim).saturating_add(1).saturating_mul(4),
            None => 2 * (row_quads + 1),
        };
        let each = |count: u64, iterations: u64| {
            count.div_ceil(threads).saturating_mul(iterations.saturating_add(2)).saturating_add(1)
        };
        each(rows * row_quads, 0)
            + each(rows, 2 * (row_quads + 1))
            + each(rows * kept, row_quads + 1)
            + each(rows, 2 * (row_quads + 1))
            + each(rows * feature_quads, per_feature_quad)
    }
}
