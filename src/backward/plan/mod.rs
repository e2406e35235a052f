//! Recipe, scratch and grids of a backward pass; arithmetic alone, no device.

mod corrections;
pub(crate) mod decays;
mod grid;
pub(crate) mod pass;
pub(crate) mod recurrence;
mod rows;
pub(crate) mod scratch;
pub(crate) mod sums;

use std::ops::Range;

use crate::backward::plan::corrections::Walk;
use crate::backward::plan::decays::DecayBlocks;
use crate::backward::plan::pass::{Pass, PassConfigs};
use crate::backward::plan::recurrence::Recurrence;
use crate::backward::plan::scratch::{Scratch, piece_len};
use crate::backward::plan::sums::Sums;
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
    /// The walks through the tokens of a delta rule, where sums are the recipe.
    pub(crate) walk: Walk,
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
        let (decays, walk, dispatches) = (DecayBlocks::default(), Walk::default(), Vec::new());
        let plan = Self { forward, ranges, recurrence, decays, walk, piece, scratch, dispatches };
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
        let (decays, walk) = (std::mem::take(&mut sums.decays), sums.walk);
        let plan = Self { forward, ranges, recurrence, decays, walk, piece, scratch, dispatches };
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
        let has_beta = config.update_rule.beta().is_some();
        let stages = GradientStage::ALL.into_iter().filter(|stage| stage.is_in(config));
        let stages = stages.filter(|stage| match stage {
            GradientStage::ColumnSums => self.recurrence.value_blocks > 1,
            GradientStage::GroupSums => is_sums && (group > 1 || has_beta),
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
                GradientStage::OutputRows | GradientStage::CorrectionRows
                    if has_beta == stage.is_of_corrections() =>
                {
                    dispatches.extend(gradients.take().into_iter().flatten().map(of_pass));
                }
                _ => {}
            }
        }
        Ok(dispatches)
    }

    /// The steps of each dispatch of a stage, which but for those that go from token to token has one
    /// without any.
    pub(crate) fn steps(&self, stage: GradientStage) -> Vec<Range<u32>> {
        match stage {
            GradientStage::Recurrence => self.recurrence.dispatches().collect(),
            GradientStage::Corrections | GradientStage::CorrectionsReversed => {
                self.walk.dispatches().collect()
            }
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
    ///   and at most 128 tokens; with betas instead of a row of V for each row of o one for each row
    ///   of v, two more rows of features for each of these, a state for each value head, and with
    ///   decays one more for each value head and at most 128 tokens;
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
        let has_beta = self.forward.config().update_rule.beta().is_some();
        let is_summed = self.shape().value_group() > 1 || has_beta;
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
mod tests;
