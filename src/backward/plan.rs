//! Scratch and grids of a backward pass; arithmetic alone, no device.

use std::ops::Range;

use crate::error::PlanError;
use crate::kernel::gradient::{GradientStage, RowAccess, gradient_columns};
use crate::kernel::layout::SCAN_THREADS;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::shape::{Lens, Shape};

/// The dispatches and the scratch of the backward pass of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct BackwardPlan {
    /// That of the forward pass, which has checked config and shape.
    pub(crate) forward: Plan,
    /// The tokens of each sequence.
    pub(crate) ranges: Vec<Range<usize>>,
    /// Tokens of a block, and blocks of the longest sequence.
    pub(crate) block: u32,
    pub(crate) blocks: u32,
    /// Workgroups that share a value head of a sequence, each with some of its columns.
    pub(crate) value_blocks: u32,
    /// Tokens over which gradients by weights are summed at a time.
    pub(crate) piece: u32,
    pub(crate) scratch: Scratch,
    pub(crate) dispatches: Vec<(GradientStage, [u32; 3])>,
}

/// The ranges of scratch, in bytes; empty where the plan has no such tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scratch {
    /// k' `[T,E,F]`, and then the gradients by it; rows of whole vec4s. Where there are several
    /// value blocks, what each adds to them follows, and likewise behind queries and gates.
    pub(crate) keys: Range<u64>,
    /// q' `[T,max(H,E),F]` likewise, with the gains.
    pub(crate) queries: Range<u64>,
    /// The projections of keys and queries of the same heads, of maps with weights, and then the
    /// gradients by them; each row as wide as the wider of both, with a vec4 of norms.
    pub(crate) projections: Range<u64>,
    /// The gradients by weights of each piece of the tokens and each head of the same.
    pub(crate) partials: Range<u64>,
    /// Decays and betas of all tokens, and then the gradients by them.
    pub(crate) gates: Range<u64>,
    /// Initial states, gradients by states, and the memory of work items.
    pub(crate) states: Range<u64>,
    pub(crate) size: u64,
}

impl BackwardPlan {
    pub(super) fn new(forward: Plan, limits: &wgpu::Limits) -> Result<Self, PlanError> {
        let shape = forward.shape();
        let ranges = shape.token_ranges().filter(|_| shape.slots.is_none());
        let Some(ranges) = ranges else {
            let what = if shape.slots.is_some() { "slots" } else { "packed_up_to" };
            return Err(PlanError::Backward { what });
        };
        let longest = ranges.iter().map(Range::len).max().unwrap_or(0) as u32;
        let block = longest.isqrt().max(1);
        let blocks = longest.div_ceil(block);
        let tokens = forward.shape().batch * forward.shape().seq_len;
        let piece = piece_len(tokens, forward.config().key_dim);
        let (value_blocks, scratch) = split(&forward, [block, blocks], piece, limits)?;
        let has_tokens = tokens > 0;
        let dispatches = Vec::new();
        let mut plan =
            Self { forward, ranges, block, blocks, value_blocks, piece, scratch, dispatches };
        let config = plan.forward.config().clone();
        let stages = GradientStage::ALL.into_iter().filter(|_| has_tokens);
        let is_left_out = |stage| stage == GradientStage::ColumnSums && value_blocks == 1;
        for stage in stages.filter(|stage| stage.is_in(&config) && !is_left_out(*stage)) {
            plan.dispatches.push((stage, plan.grid(stage, limits)?));
        }
        Ok(plan)
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

    /// Bytes of scratch that [`Backward::bind`](crate::backward::Backward::bind) needs: features,
    /// states, and for each value head of each sequence `2 T^(1/2)` states; where several
    /// workgroups share a head, as many times the features and gates again, which at most double it
    /// or take 512 MiB. Where a map has weights, also a projection for each row of features, and
    /// for each piece of the tokens, of which there are `T / 256` and at most 64, the gradients by
    /// the weights of E heads of keys and max(H, E) of queries. Its contents need not be kept
    /// between calls.
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

    fn grid(&self, stage: GradientStage, limits: &wgpu::Limits) -> Result<[u32; 3], PlanError> {
        let (config, shape) = (self.forward.config(), self.shape());
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let [q, k, e, h] =
            [shape.heads, shape.key_heads, shape.value_heads, shape.output_heads()].map(u64::from);
        let (lens, rows) = (self.lens(), MapRows::new(config));
        let threads = match stage {
            GradientStage::TokenGates => tokens * e * u64::from(config.gate_row()),
            GradientStage::Projections => tokens * (e + h) * rows.projection_vec4s(),
            GradientStage::Features => tokens * (e + h) + lens.state,
            GradientStage::Maps => tokens * (e + h),
            GradientStage::Rows => tokens * (q + k) + lens.state,
            GradientStage::Gates => lens.decay + lens.beta + lens.gate_weights,
            GradientStage::Recurrence => {
                let items = u64::from(shape.sequences()) * e * u64::from(self.value_blocks);
                items * u64::from(SCAN_THREADS)
            }
            GradientStage::ColumnSums => {
                let features = u64::from(config.features());
                let gates = if config.gates().is_some() { config.gate_row() } else { 0 };
                let rows = (e + h) * features.div_ceil(4) + e * u64::from(gates);
                tokens * rows + lens.nu
            }
            // A thread has four rows of the weights of a head, or b.
            GradientStage::Weights => {
                let tiles = e * rows.weights[0] + h * rows.weights[1];
                let pieces = tokens.div_ceil(self.piece.into());
                pieces * tiles * (rows.elements + 1)
            }
            // As many heads as may have weights of their own.
            GradientStage::WeightSums => k * rows.head_vec4s(0) + q * rows.head_vec4s(1),
        };
        let workgroups = threads.div_ceil(SCAN_THREADS.into()).max(1);
        let widest = u64::from(limits.max_compute_workgroups_per_dimension).max(1);
        let x = workgroups.min(widest);
        let y = workgroups.div_ceil(x);
        let required = (widest * widest).min(u64::from(u32::MAX) / u64::from(SCAN_THREADS));
        if x * y > required {
            let (stage, actual) = (stage.name(), workgroups);
            return Err(PlanError::TooManyWorkgroups { stage, required, actual });
        }
        Ok([x as u32, y as u32, 1])
    }
}

/// Tokens over which gradients by weights are summed at a time: no more than 64 pieces, no shorter
/// than 256 tokens, and long enough for the sums of many pieces to take no more memory than
/// projections.
fn piece_len(tokens: u32, key_dim: u32) -> u32 {
    tokens.div_ceil(64).max(256).max(key_dim.next_multiple_of(4) + 1)
}

/// vec4s of a row of q or k on its way through the maps, as shaders/gradient/argument.wgsl and
/// shaders/gradient/weights.wgsl count them.
struct MapRows {
    elements: u64,
    /// Projections of keys and of queries; 0 where a map has no weights.
    weights: [u64; 2],
}

impl MapRows {
    fn new(config: &Config) -> Self {
        let weights = |map: &FeatureMap| {
            let rows = map.matrix_rows(config.key_dim).div_ceil(4);
            u64::from(map.matrices()) * u64::from(rows)
        };
        Self {
            elements: config.key_dim.div_ceil(4).into(),
            weights: [weights(config.key_map()), weights(config.query_map())],
        }
    }

    /// A row of scratch, 0 where no map has weights.
    fn projection_vec4s(&self) -> u64 {
        let widths = self.weights.map(|weights| if weights > 0 { weights } else { self.elements });
        if self.weights == [0, 0] { 0 } else { widths[0].max(widths[1]) + 1 }
    }

    /// The weights of a head.
    fn head_vec4s(&self, of: usize) -> u64 {
        (4 * self.elements + 1) * self.weights[of]
    }
}

/// Scratch that sums over columns may take beside an equal share of the rest.
const COLUMN_SUMS_BYTES: u64 = 512 << 20;

/// Value blocks, and scratch with room for them: as many as bring the workgroups to those of the
/// tuning, where the device and [`BackwardPlan::scratch_size`] allow it.
fn split(
    forward: &Plan,
    tokens: [u32; 2],
    piece: u32,
    limits: &wgpu::Limits,
) -> Result<(u32, Scratch), PlanError> {
    let (config, shape) = (forward.config(), forward.shape());
    let whole = Scratch::place(forward, tokens, 1, piece, limits)?;
    let most = whole.size.saturating_add(whole.size.max(COLUMN_SUMS_BYTES));
    let items = u64::from(shape.sequences()) * u64::from(shape.value_heads);
    let chunks = config.value_dim.div_ceil(gradient_columns(config));
    let wanted = u64::from(forward.tuning().workgroups).div_ceil(items.max(1));
    let mut value_blocks = wanted.min(chunks.into()) as u32;
    while value_blocks > 1 {
        // As few as have no more columns each, so that none is empty.
        value_blocks = chunks.div_ceil(chunks.div_ceil(value_blocks));
        match Scratch::place(forward, tokens, value_blocks, piece, limits) {
            Ok(scratch) if scratch.size <= most => return Ok((value_blocks, scratch)),
            _ => value_blocks -= 1,
        }
    }
    Ok((1, whole))
}

impl Scratch {
    fn place(
        forward: &Plan,
        [block, blocks]: [u32; 2],
        value_blocks: u32,
        piece: u32,
        limits: &wgpu::Limits,
    ) -> Result<Self, PlanError> {
        let (config, shape) = (forward.config(), forward.shape());
        let align = u64::from(limits.min_storage_buffer_offset_alignment).max(16);
        let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let mut end = 0u64;
        let mut place = |what: &'static str, elements: Option<u64>| {
            let elements = elements.unwrap_or(u64::MAX);
            if elements > u64::from(u32::MAX) {
                return Err(PlanError::TooManyElements { what, actual: elements });
            }
            let actual = F32_SIZE * elements;
            if actual > largest {
                let (required, largest_batch) = (largest, None);
                return Err(PlanError::TooLarge { what, required, actual, largest_batch });
            }
            let begin = end.next_multiple_of(align);
            end = begin + actual;
            Ok(begin..end)
        };
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let row = u64::from(config.features().next_multiple_of(4));
        let (e, h) = (u64::from(shape.value_heads), u64::from(shape.output_heads()));
        let (f, v) = (u64::from(config.features()), u64::from(config.value_dim));
        let has_gates = config.gates().is_some();
        let gate_row = if has_gates { u64::from(config.gate_row()) } else { 0 };
        let nu = if config.is_normalized() { f } else { 0 };
        let (mu, state) = (f * v, f * v + nu);
        // As shaders/gradient/states.wgsl has it.
        let kept = u64::from(block) + u64::from(blocks);
        let of_block = (1 + kept) * nu + 2 * f;
        let of_head = kept
            .checked_mul(mu)
            .and_then(|states| states.checked_add((u64::from(block) + 1) * v))
            .and_then(|len| len.checked_add(u64::from(value_blocks) * of_block));
        // The features and gates, and what each value block adds to the gradients by them.
        let parts = if value_blocks > 1 { 1 + u64::from(value_blocks) } else { 1 };
        let items = u64::from(shape.sequences()) * e;
        let states = of_head
            .and_then(|len| items.checked_mul(len))
            .and_then(|len| len.checked_add(items.checked_mul(2 * state)?));
        let rows = MapRows::new(config);
        let pieces = tokens.div_ceil(piece.into());
        let of_piece = e * rows.head_vec4s(0) + h * rows.head_vec4s(1);
        let mut placed = Self {
            keys: place("keys", (tokens * e).checked_mul(parts * row))?,
            queries: place("queries", (tokens * h).checked_mul(parts * (row + 4)))?,
            projections: place(
                "projections",
                (tokens * (e + h)).checked_mul(4 * rows.projection_vec4s()),
            )?,
            partials: place("partials", pieces.checked_mul(4 * of_piece))?,
            gates: place("gates", (tokens * e).checked_mul(parts * gate_row))?,
            states: place("states", states)?,
            size: 0,
        };
        placed.size = end;
        if end > limits.max_buffer_size {
            let (what, required, actual) = ("scratch", limits.max_buffer_size, end);
            return Err(PlanError::TooLarge { what, required, actual, largest_batch: None });
        }
        Ok(placed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::plan::tuning::Tuning;
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
        BackwardPlan::new(forward, &limits).unwrap()
    }

    fn sums(plan: &BackwardPlan) -> bool {
        plan.dispatches.iter().any(|(stage, _)| *stage == GradientStage::ColumnSums)
    }

    #[test]
    fn heads_are_shared_where_they_are_few() {
        let large = 1 << 31;
        let few = plan(&Shape::new(1, 4096, 8), 128, large);
        assert_eq!((few.value_blocks, sums(&few)), (8, true));
        let many = plan(&Shape::new(20, 512, 8), 128, large);
        assert_eq!((many.value_blocks, sums(&many)), (1, false));
        // Three of 40 columns in chunks of 16, of which the tuning wants two.
        assert_eq!(plan(&Shape::new(10, 64, 8), 40, large).value_blocks, 2);
        // Nine parts of 16 MiB are more than a binding has, and of seven blocks some would be
        // empty.
        assert_eq!(plan(&Shape::new(1, 4096, 8), 128, 128 << 20).value_blocks, 4);
    }

    #[test]
    fn scratch_at_most_doubles_or_takes_half_a_gigabyte_more() {
        for (tokens, heads) in [(4096, 8), (4096, 16), (16_384, 4), (65_536, 1)] {
            let shape = Shape::new(1, tokens, heads);
            let split = plan(&shape, 128, 1 << 31);
            let (blocks, piece) = ([split.block, split.blocks], split.piece);
            let limits = wgpu::Limits {
                max_storage_buffer_binding_size: 1 << 31,
                max_buffer_size: 1 << 32,
                ..Default::default()
            };
            let whole = Scratch::place(&split.forward, blocks, 1, piece, &limits).unwrap();
            let most = whole.size + whole.size.max(COLUMN_SUMS_BYTES);
            assert!(split.scratch_size() <= most, "{tokens} tokens: {}", split.scratch_size());
            assert!(split.value_blocks > 1, "{tokens} tokens");
        }
    }
}
