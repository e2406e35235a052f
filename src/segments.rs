//! Where sequences are cut.

use std::ops::Range;

use crate::layout::feature_threads;
use crate::shape::Packing;
use crate::stage::is_mapped;
use crate::{FeatureMap, Layout, Plan};

/// Most iterations of the search for the sequence of a segment.
const SEARCH: u32 = 33;

/// How the sequences of a call are cut into segments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cut {
    /// Tokens of a segment.
    pub(crate) len: u32,
    /// Segments of the longest sequence.
    pub(crate) most: u32,
    /// Segments of all sequences.
    pub(crate) count: u64,
    /// Numbers that a segment can have: a few of them may be nobody's where lengths differ.
    pub(crate) places: u64,
    /// Tokens of all segments that another one follows.
    pub(crate) again: u64,
}

/// One segment of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    /// The sequence.
    pub(crate) n: usize,
    /// Its number among all segments, and its state's in scratch.
    pub(crate) number: usize,
    /// Its rows in q, k, v and o seen as `[B T,..]`.
    pub(crate) tokens: Range<usize>,
    /// Whether it is its sequence's last.
    pub(crate) is_last: bool,
}

impl Segment {
    /// All segments of sequences with these rows. With `stride` the segments of sequence n are
    /// numbered from n stride. Without, they are numbered from n + begin / len, which leaves
    /// each sequence as many numbers as it needs, and at most one more, without a sum over the
    /// sequences before it: ceil(x / len) <= floor((begin + x) / len) - floor(begin / len) + 1.
    pub(crate) fn list(ranges: &[Range<usize>], len: u32, stride: Option<u32>) -> Vec<Self> {
        let len = len.max(1) as usize;
        let mut all = Vec::new();
        for (n, range) in ranges.iter().enumerate() {
            let first = match stride {
                Some(stride) => n * stride as usize,
                None => n + range.start / len,
            };
            let count = range.len().div_ceil(len).max(1);
            for s in 0..count {
                let begin = range.start + s * len;
                let tokens = begin..range.end.min(begin + len);
                all.push(Self { n, number: first + s, tokens, is_last: s + 1 == count });
            }
        }
        all
    }
}

impl Plan {
    /// The cut with which the last workgroup ends soonest.
    pub(crate) fn choose_cut(&self) -> Cut {
        if self.is_decode() {
            return self.cut_at(self.shape().max_len());
        }
        if !self.shape().is_packed() {
            let segments = self.choose_segments();
            let len = self.shape().seq_len.div_ceil(segments);
            // Rounding the length up can leave the last segments empty: drop those.
            return self.cut_at(len);
        }
        // Of lengths that cut the longest sequence evenly, the one that costs least.
        let longest = self.shape().max_len();
        let (least, most) = self.segment_bounds(longest);
        // More of a device than this is filled by the sequences themselves.
        let most = most.min(least.saturating_add(256));
        let lens = (least..=most).map(|segments| longest.div_ceil(segments));
        let cost = |len: &u32| self.packed_cost(&self.cut_at(*len));
        // The first of equals is the longest.
        let best = lens.min_by_key(cost);
        self.cut_at(best.unwrap_or(longest))
    }

    /// Segments of `len` tokens.
    fn cut_at(&self, len: u32) -> Cut {
        let shape = self.shape();
        let most = shape.max_len().div_ceil(len).max(1);
        let sequences = u64::from(shape.sequences());
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let places = if self.has_table() {
            sequences + tokens / u64::from(len)
        } else {
            sequences * u64::from(most)
        };
        let segments = |tokens: u32| u64::from(tokens.div_ceil(len).max(1));
        let (count, cut) = match &shape.packing {
            Packing::Equal => (sequences * u64::from(most), sequences * u64::from(most - 1)),
            Packing::Lengths(lengths) => {
                let count: u64 = lengths.iter().map(|tokens| segments(*tokens)).sum();
                (count, count - sequences)
            }
            // As many of the longest as there are tokens for, and the others empty.
            Packing::AtMost { .. } => {
                let long = (tokens / u64::from(shape.max_len())).min(sequences);
                (sequences + long * u64::from(most - 1), long * u64::from(most - 1))
            }
        };
        Cut { len, most, count, places, again: cut * u64::from(len) }
    }

    /// Fewest and most segments that a sequence of `seq_len` tokens may have.
    fn segment_bounds(&self, seq_len: u32) -> (u32, u32) {
        let t = self.tuning();
        let mut longest = t.max_segment_len.min(self.longest_segment());
        if seq_len > t.max_segment_len {
            longest = longest.min(t.cut_segment_len);
        }
        let least = seq_len.div_ceil(longest);
        (least, (seq_len / t.min_segment_len).max(least))
    }

    /// Workgroups, or in [`Layout::Thread`] threads, that the device runs at a time.
    fn at_a_time(&self) -> u64 {
        u64::from(self.tuning().workgroups) * u64::from(self.layout().places())
    }

    /// When the last place would end, in half tokens: a schedule that starts them in any order
    /// ends at most the longest of them after an even one. A token costs half as much in
    /// `segment_state` as in `segment_output`.
    fn packed_cost(&self, cut: &Cut) -> u64 {
        let per_token = u64::from(self.shape().kv_heads)
            * u64::from(self.value_blocks())
            * u64::from(self.feature_blocks());
        let shared = |tokens: u64, places: u64| {
            (tokens.saturating_mul(places) / self.at_a_time()).saturating_add(cut.len.into())
        };
        let tokens = u64::from(self.shape().seq_len);
        let output = shared(tokens, per_token * u64::from(self.head_blocks()));
        let state = if cut.most > 1 { shared(cut.again, per_token) } else { 0 };
        output.saturating_mul(2).saturating_add(state)
    }

    /// S where all sequences have as many tokens: the fewest segments with which the last
    /// workgroup ends soonest, counting that workgroups run in rounds of
    /// [`at_a_time`](Plan::at_a_time).
    fn choose_segments(&self) -> u32 {
        let seq_len = self.shape().seq_len;
        let (least, most) = self.segment_bounds(seq_len);
        let at_a_time = self.at_a_time();
        let state_places = u64::from(self.shape().batch)
            * u64::from(self.shape().kv_heads)
            * u64::from(self.value_blocks())
            * u64::from(self.feature_blocks());
        let output_places = state_places * u64::from(self.head_blocks());
        let half_time = |segments: u32| {
            let len = u64::from(seq_len.div_ceil(segments));
            let waves = |places: u64, segments: u32| {
                places.saturating_mul(segments.into()).div_ceil(at_a_time)
            };
            let output = waves(output_places, segments).saturating_mul(2);
            let state = waves(state_places, segments - 1);
            output.saturating_add(state).saturating_mul(len)
        };
        // More segments pay only where they fill another whole wave.
        let full = (1..=4).map(|waves| waves * at_a_time / output_places);
        let full = full.map(|s| s.clamp(least.into(), most.into()) as u32);
        let best = std::iter::once(least).chain(full).min_by_key(|s| (half_time(*s), *s));
        best.unwrap_or(least)
    }

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
    fn longest_segment(&self) -> u32 {
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
