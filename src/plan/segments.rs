//! Segmentation: the tokens of each segment of a sequence.

use std::ops::Range;

use crate::plan::Plan;
use crate::problem::shape::Packing;

/// The segmentation of the sequences of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segmentation {
    /// Tokens of a segment.
    pub(crate) len: u32,
    /// Segments of the longest sequence.
    pub(crate) max_segments: u32,
    /// Segments of all sequences.
    pub(crate) count: u64,
    /// Segment capacity: the work items and states that segments are numbered within. A few numbers
    /// have no segment where lengths differ.
    pub(crate) capacity: u64,
    /// Recomputed tokens: those of all segments but the last of each sequence.
    pub(crate) recomputed: u64,
}

/// One segment of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Segment {
    /// The sequence.
    pub(crate) n: usize,
    /// Its index among all segments, and that of its state in scratch.
    pub(crate) number: usize,
    /// Its rows in q, k, v and o seen as `[B T,..]`.
    pub(crate) tokens: Range<usize>,
    /// True for the last segment of its sequence.
    pub(crate) is_last: bool,
}

impl Segment {
    /// All segments of sequences with these rows. With `stride` the segments of sequence n are
    /// numbered from n stride. Without, they are numbered from n + begin / len, which leaves
    /// each sequence as many numbers as it needs, and at most one more, without a sum over the
    /// sequences before it: ceil(x / len) <= floor((begin + x) / len) - floor(begin / len) + 1.
    /// There n is the sequence's `entry`.
    pub(crate) fn list(
        ranges: &[Range<usize>],
        len: u32,
        stride: Option<u32>,
        entry: &dyn Fn(usize) -> usize,
    ) -> Vec<Self> {
        let len = len.max(1) as usize;
        let mut all = Vec::new();
        for (n, range) in ranges.iter().enumerate() {
            let first = match stride {
                Some(stride) => n * stride as usize,
                None => entry(n) + range.start / len,
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
    /// The segmentation with which the last workgroup ends soonest.
    pub(crate) fn choose_segmentation(&self) -> Segmentation {
        if self.is_decode() {
            return self.segmentation_of(self.shape().max_len());
        }
        if let Some(len) = self.tuning().segment_len {
            return self.segmentation_of(len.min(self.longest_of_any()));
        }
        if !self.shape().has_lengths() {
            let segments = self.choose_segments();
            let len = self.shape().seq_len.div_ceil(segments);
            // Rounding the length up can leave the last segments empty: drop those.
            return self.segmentation_of(len);
        }
        // The cheapest of the lengths that divide the longest sequence evenly.
        let longest = self.shape().max_len();
        let (min_segments, max_segments) = self.segment_bounds(longest);
        // The sequences themselves fill a device that more segments than this would fill.
        let max_segments = max_segments.min(min_segments.saturating_add(256));
        let lens = (min_segments..=max_segments).map(|segments| longest.div_ceil(segments));
        let cost = |len: &u32| self.packed_cost(&self.segmentation_of(*len));
        // The first of equals is the longest.
        let best = lens.min_by_key(cost);
        self.segmentation_of(best.unwrap_or(longest))
    }

    /// Segments of `len` tokens.
    fn segmentation_of(&self, len: u32) -> Segmentation {
        let shape = self.shape();
        let len = len.max(1);
        let max_segments = shape.max_len().div_ceil(len).max(1);
        let sequences = u64::from(shape.sequences());
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let capacity = if self.has_table() {
            // The tokens after the last sequence are one more.
            u64::from(shape.entries()) + 1 + tokens / u64::from(len)
        } else {
            sequences * u64::from(max_segments)
        };
        let segments = |tokens: u32| u64::from(tokens.div_ceil(len).max(1));
        let (count, followed) = match &shape.packing {
            Packing::Equal => {
                (sequences * u64::from(max_segments), sequences * u64::from(max_segments - 1))
            }
            Packing::Lengths(lengths) => {
                let count: u64 = lengths.iter().map(|tokens| segments(*tokens)).sum();
                (count, count - sequences)
            }
            Packing::Padded(valid) => {
                let count: u64 = valid.iter().map(|range| segments(range.len() as u32)).sum();
                (count, count - sequences)
            }
            // The worst case: as many of the longest as there are tokens for, the others empty.
            Packing::UpTo { .. } => {
                let long = (tokens / u64::from(shape.max_len().max(1))).min(sequences);
                let followed = long * u64::from(max_segments - 1);
                (sequences + followed, followed)
            }
        };
        Segmentation { len, max_segments, count, capacity, recomputed: followed * u64::from(len) }
    }

    /// Tokens that a segment of any sequence may have, however long it is.
    fn longest_of_any(&self) -> u32 {
        let t = self.tuning();
        let longest = match self.config().update_rule.beta() {
            Some(_) => t.max_delta_segment_len,
            None => t.max_segment_len.min(t.long_sequence_segment_len),
        };
        longest.min(self.longest_segment()).max(1)
    }

    /// Fewest and most segments that a sequence of `seq_len` tokens may have.
    fn segment_bounds(&self, seq_len: u32) -> (u32, u32) {
        let t = self.tuning();
        if self.config().update_rule.beta().is_some() {
            // The state of a delta rule is no running sum: what is corrected does not drift.
            let longest = t.max_delta_segment_len.min(self.longest_segment()).max(1);
            let min_segments = seq_len.div_ceil(longest).max(1);
            return (min_segments, (seq_len / t.min_segment_len).max(min_segments));
        }
        let mut longest = t.max_segment_len.min(self.longest_segment());
        if seq_len > t.max_segment_len {
            longest = longest.min(t.long_sequence_segment_len);
        }
        let min_segments = seq_len.div_ceil(longest.max(1)).max(1);
        (min_segments, (seq_len / t.min_segment_len).max(min_segments))
    }

    /// Work items in flight: those of one wave.
    fn occupancy(&self) -> u64 {
        u64::from(self.tuning().workgroups) * u64::from(self.layout().items())
    }

    /// The costs of a token in `segment_output` and in the stages before it, relative to one
    /// another: one pass over the tile enters a value, one reads it, and a delta rule reads it for
    /// the key too.
    fn token_costs(&self) -> [u64; 2] {
        if self.config().update_rule.beta().is_some() { [3, 2] } else { [2, 1] }
    }

    /// Work items of a token in `segment_transition`.
    fn transition_items_per_token(&self) -> u64 {
        match self.config().update_rule.beta() {
            Some(_) => u64::from(self.shape().value_heads) * u64::from(self.transition_blocks()),
            None => 0,
        }
    }

    /// An upper bound of the time at which the last work item ends, in half tokens: any greedy
    /// schedule ends at most one segment after a perfectly even one.
    fn packed_cost(&self, segmentation: &Segmentation) -> u64 {
        let per_token = u64::from(self.shape().value_heads)
            * u64::from(self.value_blocks())
            * u64::from(self.feature_blocks());
        let time = |tokens: u64, items: u64| {
            (tokens.saturating_mul(items) / self.occupancy())
                .saturating_add(segmentation.len.into())
        };
        let tokens = u64::from(self.shape().seq_len);
        let output = time(tokens, per_token * u64::from(self.head_blocks()));
        let state = if segmentation.max_segments > 1 {
            time(segmentation.recomputed, per_token + self.transition_items_per_token())
        } else {
            0
        };
        let [of_output, of_state] = self.token_costs();
        output.saturating_mul(of_output).saturating_add(state.saturating_mul(of_state))
    }

    /// S where all sequences have equal lengths: the fewest segments with which the last workgroup
    /// ends soonest, in waves of [`occupancy`](Plan::occupancy) work items.
    fn choose_segments(&self) -> u32 {
        let seq_len = self.shape().seq_len;
        let (min_segments, max_segments) = self.segment_bounds(seq_len);
        let occupancy = self.occupancy();
        let state_items = u64::from(self.shape().batch)
            * u64::from(self.shape().value_heads)
            * u64::from(self.value_blocks())
            * u64::from(self.feature_blocks());
        let output_items = state_items * u64::from(self.head_blocks());
        let transition_items = u64::from(self.shape().batch) * self.transition_items_per_token();
        let [of_output, of_state] = self.token_costs();
        let half_time = |segments: u32| {
            let len = u64::from(seq_len.div_ceil(segments));
            let waves = |items: u64, segments: u32| {
                items.saturating_mul(segments.into()).div_ceil(occupancy)
            };
            let output = waves(output_items, segments).saturating_mul(of_output);
            let state = waves(state_items + transition_items, segments - 1);
            output.saturating_add(state.saturating_mul(of_state)).saturating_mul(len)
        };
        // More segments pay only where they fill another whole wave.
        let full = (1..=4).map(|waves| waves * occupancy / output_items);
        let full = full.map(|s| s.clamp(min_segments.into(), max_segments.into()) as u32);
        let best = std::iter::once(min_segments).chain(full).min_by_key(|s| (half_time(*s), *s));
        best.unwrap_or(min_segments)
    }
}
