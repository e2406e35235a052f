//! From a shape to dispatches, scratch and traffic; arithmetic alone, no device.

use std::ops::Range;

use crate::layout::SCAN_THREADS;
use crate::{Config, Layout, Lens, PlanError, Shape, Stage, Tuning};

/// One dispatch of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Dispatch {
    /// What it computes.
    pub stage: Stage,
    /// Workgroups along x, y and z.
    pub workgroups: [u32; 3],
}

/// How a shape is computed. Pure data: making one touches no device.
///
/// ```
/// use linear_attention::{Config, Plan, Shape, wgpu};
///
/// let plan = Plan::new(&Config::new(64, 64), &Shape::new(1, 4096, 8), &wgpu::Limits::default())?;
/// for dispatch in plan.dispatches() {
///     println!("{} {:?}", dispatch.stage.name(), dispatch.workgroups);
/// }
/// println!("{} bytes of scratch", plan.scratch_size());
/// # Ok::<(), linear_attention::PlanError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    config: Config,
    shape: Shape,
    tuning: Tuning,
    layout: Layout,
    lens: Lens,
    segments: u32,
    segment_len: u32,
    scratch_mu: Range<u64>,
    scratch_nu: Range<u64>,
    dispatches: Vec<Dispatch>,
}

impl Plan {
    /// The plan for a device with `limits` of which nothing else is known.
    /// [`LinearAttention::plan`](crate::LinearAttention::plan) knows the device.
    ///
    /// # Errors
    ///
    /// A config or shape out of range, or tensors, scratch or workgroups beyond `limits`.
    pub fn new(config: &Config, shape: &Shape, limits: &wgpu::Limits) -> Result<Self, PlanError> {
        let tuning = Tuning::new(config, limits, wgpu::DeviceType::Other)?;
        Self::with_tuning(config, shape, limits, &tuning)
    }

    /// The plan with sizes chosen by the caller.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`]; and a tuning that does not fit.
    pub fn with_tuning(
        config: &Config,
        shape: &Shape,
        limits: &wgpu::Limits,
        tuning: &Tuning,
    ) -> Result<Self, PlanError> {
        tuning.check(config, limits)?;
        let lens = shape.lens(config)?;
        // A chunk or segment beyond the last token must not wrap its number to 0.
        let required = 1 << 31;
        if shape.seq_len > required {
            return Err(PlanError::SeqLen { required, actual: shape.seq_len });
        }

        let mut plan = Self {
            config: *config,
            shape: *shape,
            tuning: *tuning,
            layout: tuning.layout_for(shape.seq_len),
            lens,
            segments: 1,
            segment_len: shape.seq_len,
            scratch_mu: 0..0,
            scratch_nu: 0..0,
            dispatches: Vec::with_capacity(Stage::ALL.len()),
        };
        let segments = plan.choose_segments();
        plan.segment_len = shape.seq_len.div_ceil(segments);
        // Rounding the length up can leave the last segments empty: drop those.
        plan.segments = shape.seq_len.div_ceil(plan.segment_len);
        if plan.segments > 1 {
            let size = F32_SIZE * u64::from(plan.segments);
            let mu = scratch(size, lens.mu)?;
            let nu = scratch(size, lens.nu)?;
            let align = u64::from(limits.min_storage_buffer_offset_alignment).max(16);
            plan.scratch_mu = 0..mu;
            let nu_at = mu.next_multiple_of(align);
            plan.scratch_nu = nu_at..nu_at + nu;
        }
        plan.check_sizes(limits)?;
        plan.add_dispatches(limits)?;
        Ok(plan)
    }

    fn check_sizes(&self, limits: &wgpu::Limits) -> Result<(), PlanError> {
        let size = self.config.dtype.size();
        let binding = limits.max_storage_buffer_binding_size;
        let required = binding.min(limits.max_buffer_size);
        for (what, actual, required) in [
            ("q", self.lens.q * size, required),
            ("k", self.lens.k * size, required),
            ("v", self.lens.v * size, required),
            ("o", self.lens.o * size, required),
            ("mu", self.lens.mu * F32_SIZE, required),
            ("scratch", self.scratch_mu.end, required),
            ("scratch", self.scratch_size(), limits.max_buffer_size),
        ] {
            if actual > required {
                let one = actual / u64::from(self.shape.batch);
                let largest_batch = required.checked_div(one).map(|b| b as u32);
                return Err(PlanError::TooLarge { what, required, actual, largest_batch });
            }
        }
        Ok(())
    }

    fn add_dispatches(&mut self, limits: &wgpu::Limits) -> Result<(), PlanError> {
        let places = self.layout.places();
        if self.segments > 1 {
            let adding = self.state_places().saturating_mul(u64::from(self.segments - 1));
            self.dispatches.push(fold(Stage::SegmentState, adding, places, limits)?);
            let elements =
                (self.lens.mu + self.lens.nu) / if self.config.is_quads() { 4 } else { 1 };
            self.dispatches.push(fold(Stage::StateScan, elements, SCAN_THREADS, limits)?);
        }
        let outputs = self.output_places().saturating_mul(self.segments.into());
        self.dispatches.push(fold(Stage::SegmentOutput, outputs, places, limits)?);
        Ok(())
    }

    /// Places (workgroups, or in [`Layout::Thread`] threads) of `segment_output` with one
    /// segment a sequence.
    pub(crate) fn output_places(&self) -> u64 {
        self.state_places() * u64::from(self.head_blocks())
    }

    /// Places of `segment_state` with one segment a sequence.
    pub(crate) fn state_places(&self) -> u64 {
        u64::from(self.shape.batch)
            * u64::from(self.shape.kv_heads)
            * u64::from(self.value_blocks())
    }

    /// The config it was made for.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The shape it computes.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The sizes it chose.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Who holds mu: the tuning's layout, or that for short sequences.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Elements of each tensor.
    #[must_use]
    pub fn lens(&self) -> &Lens {
        &self.lens
    }

    /// The dispatches, in order.
    #[must_use]
    pub fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// S, the segments each sequence is cut into.
    #[must_use]
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// Tokens of a segment; the last may have fewer.
    #[must_use]
    pub fn segment_len(&self) -> u32 {
        self.segment_len
    }

    /// Bytes of scratch that `bind` needs, 0 where S = 1. Its contents need not be kept
    /// between calls, so plans that run one after the other can share it.
    #[must_use]
    pub fn scratch_size(&self) -> wgpu::BufferAddress {
        self.scratch_nu.end
    }

    /// Whether one binding may be both the initial and the final state: each state is then
    /// read by the one place (a workgroup, or in [`Layout::Thread`] a thread) that writes it,
    /// or by `state_scan` before anything does.
    #[must_use]
    pub fn updates_in_place(&self) -> bool {
        self.segments > 1 || self.places_per_state() == 1
    }

    pub(crate) fn places_per_state(&self) -> u32 {
        self.head_blocks() * self.value_blocks()
    }

    /// Bytes the dispatches read and write, without those of an initial and final state:
    /// q and k once for each workgroup that has a slice of V, k and v once for each that has
    /// a block of query heads, o once, k and v of all segments but the last once more, and
    /// the segments' states. Threads of one workgroup that read the same row read it once.
    #[must_use]
    pub fn bytes_moved(&self) -> u64 {
        let size = self.config.dtype.size();
        let places = self.layout.places();
        let slices = u64::from(self.value_blocks().div_ceil(places));
        let blocks = u64::from(self.places_per_state().div_ceil(places)).div_ceil(slices);
        let lens = &self.lens;
        let mut bytes = (slices * (lens.q + blocks * lens.k) + blocks * lens.v + lens.o) * size;
        if self.segments > 1 {
            // Of a sequence, all but what the last segment has.
            let again = u64::from(self.segment_len) * u64::from(self.segments - 1);
            let per_token = (slices * lens.k + lens.v) / u64::from(self.shape.seq_len);
            bytes += again * per_token * size;
            // Written by segment_state, read and written by state_scan, read by segment_output.
            let states = u64::from(4 * self.segments.min(1 << 29) - 2);
            bytes += (lens.mu + lens.nu) * F32_SIZE * states;
        }
        bytes
    }

    /// Floating-point operations, a multiply-add counted as two.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let (k, v) = (u64::from(self.config.key_dim), u64::from(self.config.value_dim));
        let tokens = u64::from(self.shape.batch) * u64::from(self.shape.seq_len);
        let kv_rows = tokens * u64::from(self.shape.kv_heads);
        let o_rows = tokens * u64::from(self.shape.heads);
        let blocks = u64::from(self.head_blocks());
        let add_token = 2 * k * v + k;
        let read =
            2 * k * v + if self.config.normalization.eps().is_some() { 2 * k } else { 0 } + v;
        let mut flops = blocks * kv_rows * add_token + o_rows * read;
        if self.segments > 1 {
            let again = u64::from(self.segment_len) * u64::from(self.segments - 1);
            flops += again * (kv_rows / u64::from(self.shape.seq_len)) * add_token;
            flops += (self.lens.mu + self.lens.nu) * u64::from(self.segments);
        }
        flops
    }

    /// Whether the other cuts sequences at the same places.
    pub(crate) fn same_cut(&self, other: &Self) -> bool {
        self.segment_len == other.segment_len && self.segments == other.segments
    }

    pub(crate) fn scratch_mu(&self) -> Range<u64> {
        self.scratch_mu.clone()
    }

    pub(crate) fn scratch_nu(&self) -> Range<u64> {
        self.scratch_nu.clone()
    }

    /// Query heads that one place serves.
    pub(crate) fn head_tile(&self) -> u32 {
        match self.layout {
            Layout::Workgroup { chunk_queries, .. } => {
                (self.shape.heads / self.shape.kv_heads).min(chunk_queries)
            }
            Layout::Thread { .. } => 1,
        }
    }

    pub(crate) fn head_blocks(&self) -> u32 {
        (self.shape.heads / self.shape.kv_heads).div_ceil(self.head_tile())
    }

    pub(crate) fn value_blocks(&self) -> u32 {
        self.config.value_dim.div_ceil(self.layout.values())
    }

    /// Tokens of a chunk: as many as leave room for their query rows. A thread without
    /// workgroup memory has no chunks.
    pub(crate) fn chunk_len(&self) -> u32 {
        match self.layout {
            Layout::Workgroup { chunk_tokens, chunk_queries, .. } => {
                (chunk_queries / self.head_tile()).clamp(1, chunk_tokens)
            }
            Layout::Thread { .. } => 1,
        }
    }
}

/// Bytes of an f32, which every state is made of.
pub(crate) const F32_SIZE: u64 = 4;

/// A dispatch of as many workgroups as `items` take, `per_workgroup` numbered items to
/// each, laid along x and, where x is full, folded into y.
fn fold(
    stage: Stage,
    items: u64,
    per_workgroup: u32,
    limits: &wgpu::Limits,
) -> Result<Dispatch, PlanError> {
    let workgroups = items.div_ceil(per_workgroup.into());
    let widest = u64::from(limits.max_compute_workgroups_per_dimension).max(1);
    let x = workgroups.min(widest);
    let y = workgroups.div_ceil(x);
    let required = (widest * widest).min(u64::from(u32::MAX) / u64::from(per_workgroup));
    if y > widest || x * y > required {
        return Err(PlanError::TooManyWorkgroups {
            stage: stage.name(),
            required,
            actual: workgroups,
        });
    }
    Ok(Dispatch { stage, workgroups: [x as u32, y as u32, 1] })
}

fn scratch(size: u64, len: u64) -> Result<u64, PlanError> {
    let bytes = size.checked_mul(len).filter(|bytes| bytes / F32_SIZE <= u64::from(u32::MAX));
    bytes.ok_or(PlanError::TooManyElements {
        what: "scratch",
        actual: len.saturating_mul(size) / F32_SIZE,
    })
}
