//! The bind group of each step of a plan.

use std::num::NonZeroU64;
use std::ops::Range;

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::tensors::{Checked, Range as BoundRange};
use crate::device::buffers::init_buffer;
use crate::device::scope::scoped;
use crate::error::DeviceError;
use crate::kernel::params::{Params, Rows};
use crate::kernel::stage::{Binding, Stage};
use crate::plan::Plan;
use crate::plan::steps::{Source, Step};
use crate::plan::submissions::Piece;
use crate::problem::entries::{NO_SLOT, cu_seqlens, of_entries};
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Packing;
use crate::problem::strides::Strides;
use crate::problem::tensor::Tensor;

/// Tensors bound to a plan, ready to be recorded any number of times. It keeps the
/// buffers alive.
#[derive(Clone, Debug)]
pub struct Bound {
    /// In order; most problems have one part.
    pub(crate) submissions: Vec<BoundSubmission>,
}

/// The work of one submission.
#[derive(Clone, Debug)]
pub(crate) struct BoundSubmission {
    pub(crate) steps: Vec<BoundStep>,
    pub(crate) operations: u64,
}

impl Bound {
    /// Submissions that the work is cut into, each of at most
    /// [`Tuning::max_operations`](crate::tuning::Tuning::max_operations): at least one. See
    /// [`LinearAttention::record_submission`](crate::LinearAttention::record_submission).
    #[must_use]
    pub fn submissions(&self) -> usize {
        self.submissions.len()
    }

    /// Operations of a submission, for a progress display; 0 beyond the last submission.
    #[must_use]
    pub fn operations(&self, submission: usize) -> u64 {
        self.submissions.get(submission).map_or(0, |submission| submission.operations)
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &BoundStep> {
        self.submissions.iter().flat_map(|submission| &submission.steps)
    }

    pub(crate) fn into_steps(self) -> impl Iterator<Item = BoundStep> {
        self.submissions.into_iter().flat_map(|submission| submission.steps)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct BoundStep {
    pub(crate) stage: Stage,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) workgroups: [u32; 3],
}

impl BoundStep {
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Bytes of the dummy buffer for one binding: a multiple of every device's offset alignment, and a
/// range each, since writable bindings must not overlap.
const DUMMY_STRIDE: u64 = 256;
/// Bytes of the dummy buffer.
pub(crate) const DUMMY_SIZE: u64 = DUMMY_STRIDE * (Binding::LAST as u64 + 1);

/// The inputs that the bind groups of a call share.
pub(crate) struct Binder<'a> {
    pub(crate) device: &'a wgpu::Device,
    pub(crate) plan: &'a Plan,
    pub(crate) checked: &'a Checked<'a>,
    /// Bound in place of tensors that a step does not have.
    pub(crate) dummy: &'a wgpu::Buffer,
    /// The entries that the host knows, once uploaded.
    pub(crate) entries: Option<wgpu::Buffer>,
}

impl Binder<'_> {
    fn entries(&mut self) -> Result<wgpu::Buffer, DeviceError> {
        if let Some(entries) = &self.entries {
            return Ok(entries.clone());
        }
        let (label, words) = ("linear_attention.sequences", entries(self.plan));
        let words = bytemuck::cast_slice(&words);
        let buffer = init_buffer(self.device, label, words, BufferUsages::STORAGE)?;
        Ok(self.entries.insert(buffer).clone())
    }
}

/// The buffer range behind a binding of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// The uniform.
    Params(Params),
    /// The entries that the host knows: [`entries`].
    Entries,
    /// A tensor, and the bytes of it that are bound.
    Tensor(Tensor, u64),
    /// A range of scratch.
    Scratch(Range<u64>),
    /// A tensor that the call does not have.
    Dummy,
}

/// The content of each binding of a piece of a step; `len` is the bytes of a tensor that is bound.
/// It needs no device, so that tests can look at it.
pub(crate) fn contents(
    plan: &Plan,
    (step, piece): (&Step, &Piece),
    weights: WeightHeads,
    len: impl Fn(Tensor) -> Option<u64>,
) -> Vec<(Binding, Content)> {
    let content = |source: &Source| match source {
        Source::Params => Content::Params(params(plan, weights, step.stage, piece)),
        Source::Entries => Content::Entries,
        Source::Tensor(tensor) => match len(*tensor) {
            Some(len) if len > 0 => Content::Tensor(*tensor, len),
            _ => Content::Dummy,
        },
        Source::Scratch(part) => Content::Scratch(part.clone()),
        Source::Dummy => Content::Dummy,
    };
    step.sources.iter().map(|(binding, source)| (*binding, content(source))).collect()
}

/// The bind group of a piece of a step.
pub(crate) fn bind_group(
    binder: &mut Binder<'_>,
    layout: &wgpu::BindGroupLayout,
    step: &Step,
    piece: &Piece,
) -> Result<wgpu::BindGroup, DeviceError> {
    let (device, plan, checked, dummy) = (binder.device, binder.plan, binder.checked, binder.dummy);
    let len = |tensor| checked.get(tensor).map(|range| range.len);
    let mut bound = Vec::with_capacity(step.sources.len());
    for (binding, content) in contents(plan, (step, piece), checked.weight_heads, len) {
        let of_dummy = || (dummy.clone(), binding as u64 * DUMMY_STRIDE, DUMMY_STRIDE);
        let of = |range: &BoundRange<'_>, offset: u64, len: u64| {
            (range.binding.buffer.clone(), range.binding.offset + offset, len)
        };
        let buffer = match content {
            Content::Params(params) => {
                let (label, bytes) = ("linear_attention.params", bytemuck::bytes_of(&params));
                let buffer = init_buffer(device, label, bytes, BufferUsages::UNIFORM)?;
                (buffer, 0, size_of::<Params>() as u64)
            }
            Content::Entries => {
                let buffer = binder.entries()?;
                let size = buffer.size();
                (buffer, 0, size)
            }
            Content::Tensor(tensor, len) => {
                checked.get(tensor).map_or_else(of_dummy, |range| of(range, 0, len))
            }
            Content::Scratch(part) => match &checked.scratch {
                Some(range) => of(range, part.start, part.end - part.start),
                None => of_dummy(),
            },
            Content::Dummy => of_dummy(),
        };
        bound.push((binding, buffer));
    }
    let entries: Vec<_> = bound
        .iter()
        .map(|(binding, (buffer, offset, len))| wgpu::BindGroupEntry {
            binding: *binding as u32,
            resource: wgpu::BindingResource::Buffer(BufferBinding {
                buffer,
                offset: *offset,
                size: NonZeroU64::new(*len),
            }),
        })
        .collect();
    let label = step.stage.kernel().label;
    scoped(device, label, || {
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout,
            entries: &entries,
        })
    })
}

/// The uniform of a piece.
pub(crate) fn params(plan: &Plan, weights: WeightHeads, stage: Stage, piece: &Piece) -> Params {
    let shape = plan.shape();
    let weights = weights.offsets(plan.config());
    let rows = |tensor: Tensor| rows(plan, tensor);
    Params {
        q: rows(Tensor::Q),
        k: rows(Tensor::K),
        v: rows(Tensor::V),
        o: rows(Tensor::O),
        sequences: shape.entries(),
        seq_len: shape.seq_len,
        // Fewer than 2^32, since q has no more elements.
        total_tokens: shape.batch * shape.seq_len,
        max_len: shape.max_len(),
        heads: shape.heads,
        key_heads: shape.key_heads,
        value_heads: shape.value_heads,
        output_heads: shape.output_heads(),
        key_group: shape.key_group(),
        query_group: shape.query_group(),
        group: shape.value_group(),
        head_tile: plan.head_tile(),
        head_blocks: plan.head_blocks(),
        value_blocks: match stage {
            Stage::SegmentTransition => plan.transition_blocks(),
            _ => plan.value_blocks(),
        },
        segments: plan.segments(),
        segment_len: plan.segment_len(),
        chunk_len: plan.chunk_len(),
        states: shape.slots.unwrap_or(shape.sequences()),
        key_weights: weights.key_stride,
        query_weights_begin: weights.query_begin,
        query_weights: weights.query_stride,
        shares_key_weights: u32::from(weights.is_shared),
        grid_width: piece.workgroups[0],
        first_workgroup: piece.first_workgroup,
        first_step: 0,
        end_step: 0,
        steps: 0,
    }
}

/// The first accesses of the rows of a tensor.
fn rows(plan: &Plan, tensor: Tensor) -> Rows {
    let shape = plan.shape();
    let Strides { offset, batch, token, head } = shape.strides_of(plan.config(), tensor);
    let width = if plan.has_vec4_rows() { 4 } else { 1 };
    let [offset, batch, token, head] = [offset, batch, token, head].map(|n| n / width);
    // Tokens count through all rows of the batch, so only the gap between two rows is left.
    let batch = batch.wrapping_sub(token.wrapping_mul(shape.seq_len));
    if plan.is_reversed() {
        // The shaders' arithmetic wraps as well, so that a stride may be less than 0.
        let last = shape.batch.wrapping_mul(shape.seq_len).wrapping_sub(1);
        let offset = offset.wrapping_add(last.wrapping_mul(token));
        return Rows { offset, batch, token: token.wrapping_neg(), head };
    }
    Rows { offset, batch, token, head }
}

/// A status and the entries that the host knows, as the shaders read them.
pub(crate) fn entries(plan: &Plan) -> Vec<u32> {
    let shape = plan.shape();
    let lengths = match &shape.packing {
        Packing::Lengths(lengths) => &lengths[..],
        _ => &[],
    };
    let mut words = vec![0];
    words.extend(cu_seqlens(shape, lengths));
    if shape.is_padded() {
        words.extend(of_entries(shape, 0..shape.batch, &NO_SLOT));
    }
    words
}
