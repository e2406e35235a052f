//! From a shape to dispatches, scratch and traffic; arithmetic alone, no device.

mod blocks;
mod check;
mod cost;
mod dispatches;
pub(crate) mod scratch;
pub(crate) mod segments;
pub(crate) mod split;
pub(crate) mod steps;
pub(crate) mod submissions;
pub(crate) mod support;
pub(crate) mod tuning;
pub(crate) mod workarounds;

pub use crate::kernel::stage::Stage;
pub use split::{Part, Split};
pub use steps::States;

use crate::error::PlanError;
use crate::kernel::layout::{BLOCK_ENTRIES, DecodeLayout, Layout};
use crate::plan::scratch::Scratch;
use crate::plan::segments::{Segment, Segmentation};
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::shape::{Lens, Packing, Shape};
use crate::problem::strides::{Strides, TensorStrides};
use crate::problem::tensor::{Tensor, state_len};

/// Most tokens of a sequence that one dispatch of `decode_step` computes alone. On a CPU adapter
/// a sequence of very many query rows has segments instead: see [`Plan::is_decode`].
pub const MAX_DECODE_LEN: u32 = 16;

/// Most tokens for each sequence in one dispatch of `decode_step`. A call with room for more has
/// few sequences for its tokens, and is no decode step.
const MAX_DECODE_SHARE: u64 = 256;

/// One dispatch of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Dispatch {
    /// The stage, which is also the name of the kernel.
    pub stage: Stage,
    /// Workgroups along x, y and z.
    pub workgroups: [u32; 3],
}

/// The dispatches, the segments and the scratch of a shape. It is pure data: making one touches
/// no device.
///
/// ```
/// use linear_attention::tuning::Tuning;
/// use linear_attention::{Config, Plan, Shape, wgpu};
///
/// let (config, limits) = (Config::new(64, 64), wgpu::Limits::default());
/// let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::DiscreteGpu)?;
/// let plan = Plan::new(&config, &Shape::new(1, 4096, 8), &limits, &tuning)?;
/// for dispatch in plan.dispatches() {
///     println!("{} {:?}", dispatch.stage.name(), dispatch.workgroups);
/// }
/// println!("{} bytes of scratch", plan.scratch_size());
/// # Ok::<(), linear_attention::error::PlanError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    config: Config,
    shape: Shape,
    tuning: Tuning,
    lens: Lens,
    decode: Option<DecodeLayout>,
    segmentation: Segmentation,
    /// Elements of the state of one sequence.
    state_len: u32,
    scratch: Scratch,
    /// The dispatches that check unchecked entries, before all others.
    checks: Vec<Dispatch>,
    dispatches: Vec<Dispatch>,
    /// True if token 0 of every sequence is the last one of its tensors.
    is_reversed: bool,
}

impl Plan {
    /// The plan for a device with these limits. A caller who has a
    /// [`LinearAttention`](crate::LinearAttention) asks it instead:
    /// [`plan`](crate::LinearAttention::plan) knows limits and tuning.
    ///
    /// # Errors
    ///
    /// A config or shape out of range, a tuning that does not fit, or tensors, scratch or
    /// workgroups beyond `limits`.
    pub fn new(
        config: &Config,
        shape: &Shape,
        limits: &wgpu::Limits,
        tuning: &Tuning,
    ) -> Result<Self, PlanError> {
        tuning.check(config, limits)?;
        let lens = shape.lens(config)?;
        let state_len = state_len(config, shape.value_heads)?;
        Tensor::Pool.len(config, shape)?;
        let mut plan = Self {
            config: config.clone(),
            shape: shape.clone(),
            tuning: *tuning,
            lens,
            decode: None,
            segmentation: Segmentation::default(),
            state_len,
            scratch: Scratch::default(),
            checks: Vec::new(),
            dispatches: Vec::with_capacity(Stage::ALL.len()),
            is_reversed: false,
        };
        plan.check_sequences()?;
        let is_short = shape.max_len() <= MAX_DECODE_LEN && shape.checkpoints == 0;
        // Tokens of no sequence are shared out among all.
        let of_each = plan.total_tokens() / (u64::from(shape.sequences()) + 1);
        let is_dense = of_each <= MAX_DECODE_SHARE;
        let [storage_buffers, _] = Stage::DecodeStep.storage_buffers(config, tuning.layout);
        let has_room = storage_buffers <= limits.max_storage_buffers_per_shader_stage;
        if is_short && is_dense && has_room && tuning.segment_len.is_none() {
            let rows = [shape.max_len(), shape.value_group()];
            plan.decode = DecodeLayout::new(config, tuning.layout, rows, limits);
        }
        plan.segmentation = plan.choose_segmentation();
        plan.scratch = Scratch::place(&plan, limits)?;
        plan.check_sizes(limits)?;
        plan.add_dispatches(limits)?;
        Ok(plan)
    }

    /// True if `decode_step` alone computes the call: no sequence has more than
    /// [`MAX_DECODE_LEN`] tokens, and the tuning leaves segments to the plan.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        self.decode.is_some()
    }

    /// True if matrix units compute the call; those of [`Plan::is_decode`] never do.
    #[must_use]
    pub fn is_of_matrices(&self) -> bool {
        self.decode.is_none() && self.layout().subgroup_size().is_some()
    }

    /// The same in reversed time: token 0 is the last of q, k, v and o, whose rows are flat, and
    /// sequences are listed from the last to the first. The kernels do not know it.
    pub(crate) fn in_reversed_time(self) -> Self {
        Self { is_reversed: true, ..self }
    }

    pub(crate) fn is_reversed(&self) -> bool {
        self.is_reversed
    }

    pub(crate) fn decode(&self) -> Option<DecodeLayout> {
        self.decode
    }

    /// True if a buffer lists the tokens or the slot of each sequence.
    pub(crate) fn has_entries(&self) -> bool {
        self.shape.has_lengths() || self.shape.slots.is_some()
    }

    /// True if the caller binds that buffer. Lengths that the host knows are uploaded by `bind`.
    pub(crate) fn reads_sequences(&self) -> bool {
        self.shape.slots.is_some() || matches!(self.shape.packing, Packing::UpTo { .. })
    }

    /// True if `sequence_table` turns that buffer into a checked table.
    pub(crate) fn has_table(&self) -> bool {
        self.has_entries() && self.decode.is_none()
    }

    /// True if the state before each segment is in scratch. With one segment per sequence it is the
    /// initial state itself, unless several work items read a state that is updated in place.
    pub(crate) fn has_segment_states(&self) -> bool {
        self.decode.is_none()
            && (self.segmentation.max_segments > 1
                || (self.shape.slots.is_some() && self.readers_per_state() > 1))
    }

    /// True if the decays of segments are in scratch.
    fn has_segment_decays(&self) -> bool {
        self.has_segment_states() && self.config.has_segment_decays()
    }

    /// True if the matrices of segments are in scratch.
    pub(crate) fn has_transitions(&self) -> bool {
        self.decode.is_none()
            && self.segmentation.max_segments > 1
            && self.config.update_rule.beta().is_some()
    }

    fn total_tokens(&self) -> u64 {
        u64::from(self.shape.batch) * u64::from(self.shape.seq_len)
    }

    /// The config of the plan.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The shape of the plan.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The tuning of the plan.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The tile of mu that a work item holds.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.tuning.layout
    }

    /// Elements of each tensor.
    #[must_use]
    pub fn lens(&self) -> &Lens {
        &self.lens
    }

    /// The dispatches, in order. A call with
    /// [`Sequences::Device`](crate::serve::Sequences::Device) has two more before them, which check
    /// its entries: `sequence_claims` and `sequence_conflicts`.
    #[must_use]
    pub fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// S, the segments of a sequence; of the longest where lengths differ.
    #[must_use]
    pub fn segments(&self) -> u32 {
        self.segmentation.max_segments
    }

    /// Tokens of a segment; the last of a sequence may have fewer. A sequence of `len` tokens
    /// has `ceil(len / segment_len)` segments, and at least one.
    #[must_use]
    pub fn segment_len(&self) -> u32 {
        self.segmentation.len
    }

    /// Bytes of scratch that `bind` needs, which may be 0. Its contents need not be kept
    /// between calls, so plans that run one after the other can share it.
    #[must_use]
    pub fn scratch_size(&self) -> wgpu::BufferAddress {
        self.scratch.size
    }

    /// Bytes of [`Sequences::Device`](crate::serve::Sequences::Device), 0 where the plan needs
    /// none: the caller's words and, behind them, those in which the shaders check them.
    #[must_use]
    pub fn sequences_size(&self) -> wgpu::BufferAddress {
        let mut size = self.bytes(Tensor::Sequences);
        if self.reads_sequences() {
            let n = u64::from(self.shape.entries());
            let blocks = n / u64::from(BLOCK_ENTRIES) + 1;
            let slots = u64::from(self.shape.slots.unwrap_or(0));
            // Gaps, the latest begins, blocks of them, conflicts, and the owners of slots.
            size = size.saturating_add(F32_SIZE * (1 + n + 1 + blocks + n + slots));
        }
        size
    }

    fn strides(&self) -> impl Iterator<Item = Strides> {
        let strides = self.shape.strides;
        strides.into_iter().flat_map(TensorStrides::all).map(|(_, strides)| strides)
    }

    /// True if the tokens of the batch follow one another in every tensor.
    pub(crate) fn is_flat(&self) -> bool {
        self.strides().all(|strides| strides.is_flat(self.shape.batch, self.shape.seq_len))
    }

    /// True if rows are read and written four elements at a time.
    pub(crate) fn has_vec4_rows(&self) -> bool {
        self.config.is_vec4() && self.strides().all(Strides::is_vec4)
    }

    /// The tensor that final states are stored in.
    pub(crate) fn final_state(&self) -> Tensor {
        if self.shape.slots.is_some() { Tensor::Pool } else { Tensor::FinalState }
    }

    /// Bytes that the binding of a tensor must have, 0 where the call has no such tensor.
    pub(crate) fn bytes(&self, tensor: Tensor) -> u64 {
        // `Plan::new` has refused every tensor that has no size.
        tensor.bytes(&self.config, &self.shape).unwrap_or(u64::MAX)
    }

    /// Bytes of one token in q, k, v or o.
    pub(crate) fn row_size(&self, tensor: Tensor) -> u64 {
        // `Split` has refused rows that 32 bits cannot index.
        let len = tensor.row_len(&self.config, &self.shape).unwrap_or(u64::MAX);
        len.saturating_mul(tensor.dtype(&self.config).size())
    }

    /// Bytes of the state of one sequence: mu `[E,F,V]`, then nu `[E,F]` where o is normalised, in
    /// f32.
    #[must_use]
    pub fn state_size(&self) -> wgpu::BufferAddress {
        F32_SIZE * u64::from(self.state_len)
    }

    /// True if both plans have the same segments.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn same_segmentation(&self, other: &Self) -> bool {
        self.segmentation == other.segmentation
    }

    /// Every segment, or `None` where only a buffer has the lengths.
    pub(crate) fn segment_list(&self) -> Option<Vec<Segment>> {
        let stride = (!self.has_table()).then_some(self.segmentation.max_segments);
        let entry = |n: usize| self.shape.entry(n);
        let ranges = self.shape.token_ranges()?;
        Some(Segment::list(&ranges, self.segment_len(), stride, &entry))
    }

    /// States of segments that scratch has room for.
    pub(crate) fn segment_capacity(&self) -> u64 {
        self.segmentation.capacity
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Rows of q and o, seen as `[rows, width]`.
    fn o_rows(&self) -> u64 {
        self.total_tokens() * u64::from(self.shape.output_heads())
    }
}

/// Bytes of an f32, which every state is made of.
pub(crate) const F32_SIZE: u64 = 4;
