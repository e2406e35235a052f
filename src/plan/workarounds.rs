//! Workarounds for drivers. llvmpipe counts the iterations of all loops of an invocation together
//! and, after 65,535 of them, exits every loop silently: on a CPU adapter no invocation may make
//! more.

use crate::kernel::layout::RowSource;
use crate::plan::Plan;
use crate::plan::tuning::Tuning;

/// Iterations that an invocation may make on a CPU adapter.
const CPU_ITERATIONS: u32 = 65_000;

/// Iterations that an invocation may make.
pub(crate) fn max_loop_iterations(device_type: wgpu::DeviceType) -> u32 {
    if device_type == wgpu::DeviceType::Cpu { CPU_ITERATIONS } else { u32::MAX }
}

impl Tuning {
    /// The same, held to what a device of this type takes: it may come from another.
    pub(crate) fn on(self, device_type: wgpu::DeviceType) -> Self {
        Self { max_loop_iterations: max_loop_iterations(device_type), ..self }
    }
}

impl Plan {
    /// Tokens of the longest segment within those iterations. Every loop is counted once more for
    /// its last test.
    pub(crate) fn longest_segment(&self) -> u32 {
        let features = u64::from(self.config().features());
        // The search for a sequence; a state is loaded and stored a row at a time.
        let checkpoints = u64::from(self.shape().checkpoints);
        let per_stop = (2 * checkpoints + 2 + features)
            .saturating_add(self.iterations_per_chunk().saturating_mul(2));
        let per_segment = checkpoints.saturating_mul(per_stop).saturating_add(40 + 2 * features);
        let iterations = u64::from(self.tuning().max_loop_iterations).saturating_sub(per_segment);
        let chunks = (iterations / self.iterations_per_chunk()).max(1);
        u32::try_from(chunks * u64::from(self.chunk_len())).unwrap_or(u32::MAX)
    }

    /// An upper bound of the iterations of an invocation for a chunk.
    fn iterations_per_chunk(&self) -> u64 {
        let (config, layout) = (self.config(), self.layout());
        let (tokens, heads) = (u64::from(self.chunk_len()), u64::from(self.head_tile()));
        if layout.row_source == RowSource::Direct {
            // The loop over one head is none.
            return if heads == 1 { 2 } else { 3 + heads };
        }
        let threads = layout.threads(config);
        if layout.subgroup_size().is_some() {
            return self.matrix_iterations_per_chunk();
        }
        let features = u64::from(layout.block_features(config) / 4);
        let columns = u64::from(layout.block_columns() / 4);
        let lanes = u64::from(layout.lanes(config));
        let rows = tokens * heads;
        let each = |count: u64, iterations: u64| {
            count.div_ceil(threads).saturating_mul(iterations.saturating_add(2)).saturating_add(1)
        };
        let mut iterations = 2 + tokens * (heads + 2);
        // Loads, the queries' map, the weights of rows, nu, the sums over lanes. Where a share is
        // small its loop is none.
        iterations += 2 * each(tokens * features, 0) + 2 * each(tokens * columns, 0);
        iterations += 3 * each(rows * features, 0) + each(rows, features);
        iterations += each(rows * features, tokens + 1) + each(features, tokens + 1);
        iterations += each(rows * columns, lanes + features + 1);
        if layout.subgroup_sums {
            // Sums of rows, and of what keys recall, where subgroups have other threads.
            let sums = (rows + tokens) * u64::from(layout.columns / 4);
            iterations += sums * (4 * (lanes + 2) + 1);
        }
        if config.update_rule.beta().is_some() && lanes > 1 {
            // The recalled values, the products of keys, and the corrected values.
            let pairs = tokens * tokens / 2;
            iterations += tokens + each(tokens * features, tokens) + each(pairs, features);
            iterations += each(columns, tokens * (lanes + tokens + 2));
        }
        if !config.is_element_wise() {
            let row = u64::from(config.key_dim.div_ceil(4)) + 1;
            let kept = [config.key_map(), config.query_map()]
                .map(|map| u64::from(map.kept_projections(config.key_dim)));
            let per_vec4 = match config.custom_maps().next() {
                // A loop over x and one over y, in each call for one of four features.
                Some(map) => 4 * (u64::from(config.key_dim) + u64::from(map.projections()) + 1),
                None => 2 * row,
            };
            let all = tokens + rows;
            iterations +=
                each(all * row, 0) + 2 * each(all, 2 * row) + each(all * kept[0].max(kept[1]), row);
            iterations +=
                each(all * features, per_vec4) + each(rows, features) + each(rows * features, 0);
        }
        iterations
    }

    /// The same on matrix units.
    fn matrix_iterations_per_chunk(&self) -> u64 {
        let (config, layout) = (self.config(), self.layout());
        let tokens = u64::from(layout.rows);
        let [features, columns, subgroups] =
            [layout.block_features(config), layout.block_columns(), layout.column_threads]
                .map(u64::from);
        let threads = layout.threads(config).max(1);
        let of_thread = |elements: u64| elements.div_ceil(threads);
        // Loops over elements, each with four of a vec4, and those within: over decays, tokens and
        // subgroups.
        let state = of_thread(features * columns) + of_thread(features) * (tokens + 2);
        let of_norms = if config.l2_norm { features } else { 0 };
        let of_tokens = 4 * of_thread(tokens * (features + columns)) + 16 * tokens + of_norms;
        let of_pairs = of_thread(tokens * tokens) * (tokens + subgroups + 2);
        let of_rows = of_thread(tokens) * (4 * tokens + threads) + features;
        let heads = u64::from(self.head_tile());
        state + 2 * of_tokens + (of_tokens + of_pairs + of_rows) * heads
    }
}
