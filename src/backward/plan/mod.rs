//! Recipe, scratch and grids of a backward pass; arithmetic alone, no device.

pub(crate) mod decays;
mod grid;
pub(crate) mod recurrence;
pub(crate) mod scratch;
pub(crate) mod sums;

use std::ops::Range;

use crate::backward::plan::decays::DecayBlocks;
use crate::backward::plan::recurrence::Recurrence;
use crate::backward::plan::scratch::{Scratch, piece_len};
use crate::backward::plan::sums::{Pass, PassConfigs, Sums};
use crate::error::PlanError;
use crate::kernel::gradient::{GradientStage, RowAccess};
use crate::plan::Plan;
use crate::problem::shape::{Lens, Shape};

/// The dispatches and the scratch of the backward pass of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct BackwardPlan {
    /// That of the forward pass, which has checked config and shape.
    pub(crate) forward: Plan,
    /// The tokens of each sequence.
    pub(crate) ranges: Vec<Range<usize>>,
    /// Those of the recurrence, where it is the recipe.
    pub(crate) recurrence: Recurrence,
    /// Blocks of tokens for gradients by decays, where sums have any.
    pub(crate) decays: DecayBlocks,
    /// Tokens over which gradients by weights are summed at a time.
    pub(crate) piece: u32,
    pub(crate) scratch: Scratch,
    pub(crate) dispatches: Vec<Dispatch>,
}

/// A dispatch of a backward pass, or several.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dispatch {
    Stage(GradientStage, [u32; 3]),
    /// A pass of the forward kernels.
    Pass(Box<Pass>),
}

impl BackwardPlan {
    /// By sums where there are configs of their passes and the device has room for them, else by
    /// the recurrence.
    pub(super) fn new(
        forward: Plan,
        passes: Option<&PassConfigs>,
        limits: &wgpu::Limits,
    ) -> Result<Self, PlanError> {
        let shape = forward.shape();
        let ranges = shape.token_ranges().filter(|_| shape.slots.is_none());
        let Some(ranges) = ranges else {
            let what = if shape.slots.is_some() { "slots" } else { "packed_up_to" };
            return Err(PlanError::Backward { what });
        };
        check_gate_sums(&forward)?;
        if let Some(plan) = passes
            .and_then(|passes| Self::of_sums(forward.clone(), ranges.clone(), passes, limits).ok())
        {
            return Ok(plan);
        }
        let longest = ranges.iter().map(Range::len).max().unwrap_or(0) as u32;
        let piece = piece_len(&forward);
        let (recurrence, scratch) = Recurrence::new(&forward, longest, piece, limits)?;
        let (decays, dispatches) = (DecayBlocks::default(), Vec::new());
        let plan = Self { forward, ranges, recurrence, decays, piece, scratch, dispatches };
        let dispatches = plan.dispatches(None, limits)?;
        Ok(Self { dispatches, ..plan })
    }

    fn of_sums(
        forward: Plan,
        ranges: Vec<Range<usize>>,
        passes: &PassConfigs,
        limits: &wgpu::Limits,
    ) -> Result<Self, PlanError> {
        let piece = piece_len(&forward);
        let (mut sums, scratch) = Sums::new(&forward, passes, piece, limits)?;
        let (recurrence, dispatches) = (Recurrence::default(), Vec::new());
        let decays = std::mem::take(&mut sums.decays);
        let plan = Self { forward, ranges, recurrence, decays, piece, scratch, dispatches };
        let dispatches = plan.dispatches(Some(sums), limits)?;
        Ok(Self { dispatches, ..plan })
    }

    fn dispatches(
        &self,
        sums: Option<Sums>,
        limits: &wgpu::Limits,
    ) -> Result<Vec<Dispatch>, PlanError> {
        if self.shape().batch * self.shape().seq_len == 0 {
            return Ok(Vec::new());
        }
        let is_sums = sums.is_some();
        let group = self.shape().value_group();
        let (mut of_rows, mut gradients) = match sums {
            Some(Sums { of_rows, gradients, .. }) => (of_rows, Some(gradients)),
            None => (None, None),
        };
        let config = self.forward.config();
        let stages = GradientStage::ALL.into_iter().filter(|stage| stage.is_in(config));
        let stages = stages.filter(|stage| match stage {
            GradientStage::ColumnSums => self.recurrence.value_blocks > 1,
            GradientStage::GroupSums => is_sums && group > 1,
            _ if stage.is_of_sums() => is_sums,
            _ => !is_sums || !stage.is_of_recurrence(),
        });
        let mut dispatches = Vec::new();
        for stage in stages {
            let grid = self.grid(stage, limits)?;
            dispatches.push(Dispatch::Stage(stage, grid));
            let of_pass = |pass| Dispatch::Pass(Box::new(pass));
            match stage {
                GradientStage::PassInputs => dispatches.extend(of_rows.take().map(of_pass)),
                GradientStage::OutputRows => {
                    dispatches.extend(gradients.take().into_iter().flatten().map(of_pass));
                }
                _ => {}
            }
        }
        Ok(dispatches)
    }

    /// The steps of each dispatch of a stage, which but for the recurrence has one without any.
    pub(crate) fn steps(&self, stage: GradientStage) -> Vec<Range<u32>> {
        match stage {
            GradientStage::Recurrence => self.recurrence.dispatches().collect(),
            _ => std::iter::once(0..0).collect(),
        }
    }

    /// The shape of the plan.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        self.forward.shape()
    }

    /// Elements of each tensor, and so of the gradient by it.
    #[must_use]
    pub fn lens(&self) -> &Lens {
        self.forward.lens()
    }

    /// Bytes of scratch that [`Backward::bind`](crate::backward::Backward::bind) needs: the
    /// features of all rows and the states of all sequences, and
    ///
    /// - by sums, as many rows of features again, a row of V for each row of v and two for each row
    ///   of o, up to six states for each head of each sequence, and the scratch of the largest pass,
    ///   a state for each of its segments; with decays one more row of features for each query and
    ///   eight numbers for each head, and the scratch of two passes, with two states for each head
    ///   and at most 128 tokens;
    /// - by the recurrence, for each value head of each sequence `2 T^(1/2)` states; where several
    ///   workgroups share a head, as many times the features and gates, which at most double it or
    ///   take 512 MiB.
    ///
    /// Where a map has weights, also a projection for each row of features, and for each piece of
    /// the tokens, of which there are `T / 256` and at most 64, the gradients by the weights of E
    /// heads of keys and max(H, E) of queries. Its contents need not be kept between calls.
    #[must_use]
    pub fn scratch_size(&self) -> wgpu::BufferAddress {
        self.scratch.size
    }

    /// The way in which the shaders reach rows, but for whether q, k and v share memory.
    pub(crate) fn row_access(&self) -> RowAccess {
        let has_unaligned_rows = self.forward.config().is_vec4() && !self.forward.has_vec4_rows();
        let has_batch_strides = !self.forward.is_flat();
        RowAccess { has_batch_strides, has_unaligned_rows, reads_only: false }
    }

    /// Bytes of the states of all sequences, and of the gradients by them.
    pub(crate) fn states_size(&self) -> u64 {
        self.forward.state_size() * u64::from(self.shape().sequences())
    }

    /// The range of scratch with the gradients by features of queries.
    pub(crate) fn gradients_by_queries(&self) -> &Range<u64> {
        match &self.scratch.sums.of_queries {
            of_queries if of_queries.is_empty() => &self.scratch.queries,
            of_queries => of_queries,
        }
    }

    /// The range of scratch with the gradients by features of keys.
    pub(crate) fn gradients_by_keys(&self) -> &Range<u64> {
        let is_summed = self.shape().value_group() > 1;
        match &self.scratch.sums.of_keys {
            of_keys if of_keys.is_empty() || is_summed => &self.scratch.keys,
            of_keys => of_keys,
        }
    }
}

/// Gradients by what all tokens share of their decays are sums over all tokens, each of one
/// invocation.
fn check_gate_sums(forward: &Plan) -> Result<(), PlanError> {
    let (config, shape) = (forward.config(), forward.shape());
    let of_token = match forward.lens().gate_weights {
        0 if config.has_constant_decay() => 1,
        0 => 0,
        _ => u64::from(config.decay_rows()) + 1,
    };
    let actual = (u64::from(shape.batch) * u64::from(shape.seq_len)).saturating_mul(of_token);
    let required = forward.tuning().max_loop_iterations;
    let what = "gradients by shared decays";
    if actual <= required.into() {
        Ok(())
    } else {
        Err(PlanError::Iterations { what, required, actual })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::backward::plan::recurrence::COLUMN_SUMS_BYTES;
    use crate::kernel::gradient::DECAY_BLOCK;
    use crate::plan::tuning::Tuning;
    use crate::problem::config::{Config, Normalization};
    use crate::problem::feature_map::FeatureMap;
    use crate::problem::update_rule::{Beta, Decay, UpdateRule};

    fn plan(shape: &Shape, width: u32, largest: u64) -> BackwardPlan {
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: largest,
            max_buffer_size: 1 << 32,
            ..Default::default()
        };
        let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
        let config = Config::of_rule(width, width, rule);
        let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::DiscreteGpu).unwrap();
        let tuning = tuning.with_workgroups(160);
        let forward = Plan::new(&config, shape, &limits, &tuning).unwrap();
        BackwardPlan::new(forward, None, &limits).unwrap()
    }

    fn has(plan: &BackwardPlan, stage: GradientStage) -> bool {
        plan.dispatches.iter().any(|of| matches!(of, Dispatch::Stage(of, _) if *of == stage))
    }

    fn sums(plan: &BackwardPlan) -> bool {
        has(plan, GradientStage::ColumnSums)
    }

    /// The plan of a config with sums, where they can be.
    fn with_sums(config: &Config, shape: &Shape, limits: &wgpu::Limits) -> BackwardPlan {
        let discrete = wgpu::DeviceType::DiscreteGpu;
        let tuned = |config: &Config| Tuning::new(config, limits, discrete);
        let forward = Plan::new(config, shape, limits, &tuned(config).unwrap()).unwrap();
        let passes = PassConfigs::new(config, None, &tuned);
        BackwardPlan::new(forward, passes.as_ref(), limits).unwrap()
    }

    fn passes(plan: &BackwardPlan) -> Vec<&Plan> {
        let dispatches = plan.dispatches.iter();
        let pass = dispatches.filter_map(|dispatch| match dispatch {
            Dispatch::Pass(pass) => Some(&pass.plan),
            Dispatch::Stage(..) => None,
        });
        pass.collect()
    }

    #[test]
    fn rules_without_corrections_have_sums() {
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 30,
            max_buffer_size: 1 << 32,
            ..Default::default()
        };
        let (config, shape) = (Config::new(64, 64), Shape::new(1, 4096, 8));
        let sums = with_sums(&config, &shape, &limits);
        let found = passes(&sums);
        assert_eq!(found.len(), 4);
        // Few heads have segments.
        assert!(found.iter().all(|plan| plan.segments() > 8));
        // Rows of 64 and 1 in one block of 17 threads, or of 16.
        assert_eq!(found[0].layout().block_columns(), 68);
        assert_eq!(found[2].layout().block_columns(), 64);
        assert!(!has(&sums, GradientStage::Recurrence) && !has(&sums, GradientStage::GroupSums));

        let plain = config.clone().with_normalization(Normalization::None);
        let grouped = Shape::new(1, 4096, 8).with_kv_heads(2);
        let sums = with_sums(&plain, &grouped, &limits);
        assert_eq!(passes(&sums).len(), 3);
        assert!(has(&sums, GradientStage::GroupSums));
        assert!(passes(&with_sums(&config, &Shape::new(1, 0, 8), &limits)).is_empty());

        // Two keep states at the ends of blocks.
        let gated = config.clone().with_update_rule(UpdateRule::Gated(Decay::per_head()));
        let sums = with_sums(&gated, &shape, &limits);
        let found = passes(&sums);
        assert_eq!((found.len(), sums.decays.blocks.len()), (4, 32));
        assert!(found[2..].iter().all(|plan| plan.segment_len() == DECAY_BLOCK));
        assert!(has(&sums, GradientStage::Decays) && !has(&sums, GradientStage::TokenGates));

        // No row of k is as wide as these features and this row of v, and decays of rows are the
        // recurrence's.
        let wide = Config::new(600, 8).with_feature_map(FeatureMap::Dpfp { nu: 2 });
        let values = Config::new(8, 1024);
        let rows = config.clone().with_update_rule(UpdateRule::Gated(Decay::per_row()));
        for config in [wide, values, rows] {
            let plan = with_sums(&config, &Shape::new(1, 40, 2), &limits);
            assert!(passes(&plan).is_empty() && has(&plan, GradientStage::Recurrence));
        }
    }

    #[test]
    fn steps_are_in_dispatches_that_a_driver_takes() {
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 30,
            max_buffer_size: 1 << 32,
            ..Default::default()
        };
        let plan = |widths: [u32; 2], device_type: wgpu::DeviceType| {
            let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
            let config = Config::of_rule(widths[0], widths[1], rule);
            let tuning = Tuning::new(&config, &limits, device_type).unwrap();
            let forward = Plan::new(&config, &Shape::new(1, 4096, 1), &limits, &tuning).unwrap();
            BackwardPlan::new(forward, None, &limits)
        };
        let (cpu, gpu) = (wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu);
        let steps = plan([64, 64], gpu).unwrap().steps(GradientStage::Recurrence);
        assert!(steps.len() == 1 && steps[0] == (0..128), "{steps:?}");
        let steps = plan([64, 64], cpu).unwrap().steps(GradientStage::Recurrence);
        assert!(steps.len() > 1 && steps[0].start == 0 && steps[steps.len() - 1].end >= 128);
        assert!(steps.windows(2).all(|pair| pair[0].end == pair[1].start));
        // A block is shorter where fewer tokens fit.
        let wide = plan([128, 256], cpu).unwrap().recurrence;
        assert!(wide.block < 64 && wide.block * wide.blocks >= 4096);
        let error = plan([256, 4096], cpu).unwrap_err();
        assert!(matches!(error, PlanError::Iterations { .. }), "{error}");
        assert!(plan([256, 4096], gpu).is_ok());
    }

    #[test]
    fn sums_over_tokens_are_as_long_as_a_driver_takes() {
        let limits = wgpu::Limits { max_buffer_size: 1 << 32, ..Default::default() };
        let plan = |decay: Decay, tokens: u32, device_type: wgpu::DeviceType| {
            let config = Config::new(4, 4).with_update_rule(UpdateRule::Gated(decay));
            let tuning = Tuning::new(&config, &limits, device_type).unwrap();
            let shape = Shape::new(1, tokens, 1);
            let forward = Plan::new(&config, &shape, &limits, &tuning).unwrap();
            BackwardPlan::new(forward, None, &limits)
        };
        let (cpu, gpu) = (wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu);
        let constant = Decay::constant();
        assert!(plan(constant, 65_000, cpu).is_ok() && plan(constant, 65_001, gpu).is_ok());
        let error = plan(constant, 65_001, cpu).unwrap_err();
        assert!(matches!(error, PlanError::Iterations { actual: 65_001, .. }), "{error}");
        // The gradient by a decay of one token is no sum over tokens.
        assert!(plan(Decay::per_head(), 65_001, cpu).is_ok());
    }

    /// Sums take more rows, and the recurrence more states.
    #[test]
    fn sums_that_have_no_room_leave_it_to_the_recurrence() {
        let config = Config::new(8, 64);
        let limits = wgpu::Limits { max_buffer_size: 40 << 20, ..Default::default() };
        let plan = with_sums(&config, &Shape::new(1, 16_384, 4), &limits);
        assert!(has(&plan, GradientStage::Recurrence), "{}", plan.scratch_size());
    }

    #[test]
    fn heads_are_shared_where_they_are_few() {
        let large = 1 << 31;
        let few = plan(&Shape::new(1, 4096, 8), 128, large);
        assert_eq!((few.recurrence.value_blocks, sums(&few)), (8, true));
        let many = plan(&Shape::new(20, 512, 8), 128, large);
        assert_eq!((many.recurrence.value_blocks, sums(&many)), (1, false));
        // Three of 40 columns in chunks of 16, of which the tuning wants two.
        assert_eq!(plan(&Shape::new(10, 64, 8), 40, large).recurrence.value_blocks, 2);
        // Nine parts of 16 MiB are more than a binding has, and of seven blocks some would be
        // empty.
        assert_eq!(plan(&Shape::new(1, 4096, 8), 128, 128 << 20).recurrence.value_blocks, 4);
    }

    #[test]
    fn scratch_at_most_doubles_or_takes_half_a_gigabyte_more() {
        for (tokens, heads) in [(4096, 8), (4096, 16), (16_384, 4), (65_536, 1)] {
            let shape = Shape::new(1, tokens, heads);
            let split = plan(&shape, 128, 1 << 31);
            let limits = wgpu::Limits {
                max_storage_buffer_binding_size: 1 << 31,
                max_buffer_size: 1 << 32,
                ..Default::default()
            };
            let whole = Recurrence { value_blocks: 1, ..split.recurrence };
            let whole = whole.place(&split.forward, split.piece, &limits).unwrap();
            let most = whole.size + whole.size.max(COLUMN_SUMS_BYTES);
            assert!(split.scratch_size() <= most, "{tokens} tokens: {}", split.scratch_size());
            assert!(split.recurrence.value_blocks > 1, "{tokens} tokens");
        }
    }
}
