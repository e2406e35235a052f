//! How many segments a sequence is cut into.

use crate::layout::feature_threads;
use crate::{Layout, Plan};

impl Plan {
    /// S: the fewest segments with which the last workgroup ends soonest, counting that
    /// workgroups run `Tuning::workgroups` at a time and that a token costs half as much
    /// in `segment_state` as in `segment_output`.
    pub(crate) fn choose_segments(&self) -> u32 {
        let t = self.tuning();
        let seq_len = self.shape().seq_len;
        let longest = t.max_segment_len.min(self.longest_segment());
        let least = seq_len.div_ceil(longest);
        let most = (seq_len / t.min_segment_len).max(least);
        let at_a_time = u64::from(t.workgroups) * u64::from(self.layout().places());
        let half_time = |segments: u32| {
            let len = u64::from(seq_len.div_ceil(segments));
            let waves = |places: u64, segments: u32| {
                places.saturating_mul(segments.into()).div_ceil(at_a_time)
            };
            let output = waves(self.output_places(), segments).saturating_mul(2);
            let state = waves(self.state_places(), segments - 1);
            output.saturating_add(state).saturating_mul(len)
        };
        // More segments pay only where they fill another whole wave.
        let full = (1..=4).map(|waves| waves * at_a_time / self.output_places());
        let full = full.map(|s| s.clamp(least.into(), most.into()) as u32);
        let best = std::iter::once(least).chain(full).min_by_key(|s| (half_time(*s), *s));
        best.unwrap_or(least)
    }

    /// Tokens of the longest segment within the tuning's loop iterations. Every loop is
    /// counted once more for its last test.
    fn longest_segment(&self) -> u32 {
        let Layout::Workgroup { .. } = self.layout() else {
            // A token is an iteration, and so is a row of the state that enters or leaves.
            let per_segment = 2 * self.config().key_dim + 2;
            return self.tuning().max_loop_iterations.saturating_sub(per_segment).max(1);
        };
        // In 64 bits, since the sizes are the caller's.
        let features = u64::from(feature_threads(self.config()));
        let threads = self.layout().threads(self.config());
        let feature_quads = features * 4;
        let value_quads = u64::from(self.layout().values() / 4);
        let (tokens, heads) = (u64::from(self.chunk_len()), u64::from(self.head_tile()));
        let rows = tokens * heads;
        let load = |count: u64| count.div_ceil(threads) + 1;
        let per_chunk = 1
            + load(tokens * feature_quads)
            + load(tokens * value_quads)
            + load(rows * feature_quads)
            + tokens * (heads + 2)
            + feature_quads.div_ceil(threads) * (tokens * (heads + 2) + 2)
            + rows.div_ceil(threads) * (feature_quads + 2)
            + (rows * value_quads).div_ceil(threads) * (features + 2)
            + 4;
        // nu enters and leaves.
        let per_segment = 2 * load(feature_quads);
        let iterations = u64::from(self.tuning().max_loop_iterations).saturating_sub(per_segment);
        let tokens = (iterations / per_chunk).max(1) * tokens;
        u32::try_from(tokens).unwrap_or(u32::MAX)
    }
}
