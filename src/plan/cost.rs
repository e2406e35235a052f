//! Bytes and operations of a plan, from which the roofline of a device follows.

use super::Plan;
use crate::kernel::stage::Stage;
use crate::problem::feature_map::FeatureMap;
use crate::problem::tensor::Tensor;

impl Plan {
    /// Bytes that the dispatches read and write. They count q and k once per value block and
    /// feature block, k and v once per block of query heads, o once, the recomputed tokens' k and v
    /// once more, the states of segments, and the partial sums of feature blocks. Threads of one
    /// workgroup that read the same row count once. The initial and final states, a pool and the
    /// weights do not count.
    #[must_use]
    pub fn bytes_moved(&self) -> u64 {
        let size = self.config.dtype.size();
        let lens = &self.lens;
        let gates = self.scratch.gates.end - self.scratch.gates.start;
        // Read and written by token_gates; a row for each token and value head by the rest.
        let of_gates = self.bytes(Tensor::Decay) + self.bytes(Tensor::Beta) + 2 * gates;
        if self.decode.is_some() {
            return (lens.q + lens.k + lens.v + lens.o) * size + of_gates;
        }
        let items = self.layout().items();
        let slices = u64::from(self.value_blocks().div_ceil(items));
        let features = u64::from(self.feature_blocks());
        let readers = self.head_blocks().saturating_mul(self.value_blocks());
        let blocks = u64::from(readers.div_ceil(items)).div_ceil(slices);
        let mut bytes =
            (features * slices * (lens.q + blocks * lens.k) + features * blocks * lens.v + lens.o)
                * size;
        if self.has_segment_states() {
            let per_token = u64::from(self.shape.value_heads)
                * features
                * (slices * u64::from(self.config.key_dim) + u64::from(self.config.value_dim));
            bytes += self.segmentation.recomputed * per_token * size;
            // Written by segment_state, read and written by state_scan, read by segment_output.
            let states = 4 * self.segmentation.count - 2 * u64::from(self.shape.sequences());
            bytes += states * self.state_size();
        }
        // Written by segment_transition, read by transition_scan.
        let transitions = 2 * (self.scratch.transitions.end - self.scratch.transitions.start);
        bytes
            + transitions
            + of_gates
            + 2 * (self.scratch.partials.end - self.scratch.partials.start)
    }

    /// Floating-point operations; a multiply-add counts as two. Of φ only the projections count,
    /// once per value block, and those that a row keeps once per feature block.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let stages = self.dispatches.iter().map(|dispatch| self.stage_flops(dispatch.stage));
        stages.fold(0, u64::saturating_add)
    }

    /// The same of one stage.
    pub(super) fn stage_flops(&self, stage: Stage) -> u64 {
        let f = u64::from(self.config.features());
        let recomputed = self.segmentation.recomputed;
        let states = u64::from(self.state_len).saturating_mul(self.segmentation.count);
        match stage {
            Stage::SegmentOutput | Stage::DecodeStep => {
                self.total_tokens().saturating_mul(self.token_operations(stage))
            }
            Stage::SegmentState | Stage::SegmentTransition => {
                recomputed.saturating_mul(self.token_operations(stage))
            }
            Stage::StateScan if self.segmentation.max_segments > 1 => states,
            // A product of each segment's matrix with the state before, and the sum.
            Stage::TransitionScan => states.saturating_mul(2 * f + 1),
            _ => 0,
        }
    }

    /// Operations of a token in all work items of a stage that goes through tokens.
    pub(super) fn token_operations(&self, stage: Stage) -> u64 {
        let config = &self.config;
        let (f, v) = (u64::from(config.features()), u64::from(config.value_dim));
        let kv_heads = u64::from(self.shape.value_heads);
        let blocks = if self.decode.is_some() { 1 } else { u64::from(self.head_blocks()) };
        let project = |map: &FeatureMap| {
            // Each feature block computes the projections that a row keeps; others belong to one
            // block.
            let keeps = map.kept_projections(config.key_dim) > 0;
            let blocks = if keeps { self.feature_blocks() } else { 1 };
            let projections = u64::from(map.projections(config.key_dim)) * u64::from(blocks);
            2 * u64::from(config.key_dim) * projections * u64::from(self.value_blocks())
        };
        // A decay multiplies every element of the state; a delta rule reads it for the key as well.
        let decays = if config.decay_rows() > 0 { f * v } else { 0 };
        let recalls = if config.update_rule.beta().is_some() { 2 * f * v + 2 * v } else { 0 };
        let add_token = 2 * f * v + f + decays + recalls + project(config.key_map());
        let read = 2 * f * v
            + if config.normalization.eps().is_some() { 2 * f } else { 0 }
            + v
            + project(config.query_map());
        match stage {
            Stage::SegmentState => kv_heads * add_token,
            // The matrix of a segment, from its keys.
            Stage::SegmentTransition => kv_heads * (4 * f * f + decays * f / v.max(1)),
            Stage::SegmentOutput | Stage::DecodeStep => {
                blocks * kv_heads * add_token + u64::from(self.shape.heads) * read
            }
            _ => 0,
        }
    }
}
