//! The bind group of each step of a plan.

use std::num::NonZeroU64;
use std::ops::Range;

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::tensors::{Checked, Range as BoundRange};
use crate::device::buffers::init_buffer;
use crate::device::scope::scoped;
use crate::error::DeviceError;
use crate::kernel::params::Params;
use crate::kernel::stage::{Binding, Stage};
use crate::plan::Plan;
use crate::plan::steps::{Source, Step};
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Packing;
use crate::problem::tensor::Tensor;

/// Tensors bound to a plan, ready to be recorded any number of times. It keeps the
/// buffers alive.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Of each part, one after the other; most problems have one.
    pub(crate) parts: Vec<Vec<BoundStep>>,
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

/// What stands behind a binding of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// The uniform.
    Params(Params),
    /// Words that the host uploads.
    Words(Vec<u32>),
    /// So many bytes of a tensor.
    Tensor(Tensor, u64),
    /// A range of scratch.
    Scratch(Range<u64>),
    /// A tensor that the call has not.
    Dummy,
}

/// What stands behind each binding of a step; `len` is the bytes of a tensor that is bound. It needs
/// no device, so that tests can look at it.
pub(crate) fn contents(
    plan: &Plan,
    step: &Step,
    weights: WeightHeads,
    len: impl Fn(Tensor) -> Option<u64>,
) -> Vec<(Binding, Content)> {
    let content = |source: &Source| match source {
        Source::Params => Content::Params(params(plan, weights, step)),
        Source::Lengths => Content::Words(cu_seqlens(plan)),
        Source::Tensor(tensor) => match len(*tensor) {
            Some(len) if len > 0 => Content::Tensor(*tensor, len),
            _ => Content::Dummy,
        },
        Source::Scratch(part) => Content::Scratch(part.clone()),
        Source::Dummy => Content::Dummy,
    };
    step.sources.iter().map(|(binding, source)| (*binding, content(source))).collect()
}

/// The bind group of one step. `dummy` stands for the tensors that it has not.
pub(crate) fn bind_group(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    plan: &Plan,
    step: &Step,
    checked: &Checked<'_>,
    dummy: &wgpu::Buffer,
) -> Result<wgpu::BindGroup, DeviceError> {
    let len = |tensor| checked.get(tensor).map(|range| range.len);
    let mut bound = Vec::with_capacity(step.sources.len());
    for (binding, content) in contents(plan, step, checked.weight_heads, len) {
        let of_dummy = || (dummy.clone(), binding as u64 * DUMMY_STRIDE, DUMMY_STRIDE);
        let of = |range: &BoundRange<'_>, offset: u64, len: u64| {
            (range.binding.buffer.clone(), range.binding.offset + offset, len)
        };
        let upload = |label, bytes: &[u8], usage| {
            let buffer = init_buffer(device, label, bytes, usage)?;
            let size = buffer.size();
            Ok((buffer, 0, size))
        };
        let buffer = match content {
            Content::Params(params) => {
                let (label, bytes) = ("linear_attention.params", bytemuck::bytes_of(&params));
                upload(label, bytes, BufferUsages::UNIFORM)?
            }
            Content::Words(words) => {
                let (label, bytes) = ("linear_attention.sequences", bytemuck::cast_slice(&words));
                upload(label, bytes, BufferUsages::STORAGE)?
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

/// The uniform of one step.
fn params(plan: &Plan, weights: WeightHeads, step: &Step) -> Params {
    let shape = plan.shape();
    let weights = weights.offsets(plan.config());
    Params {
        sequences: shape.sequences(),
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
        value_blocks: match step.stage {
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
        grid_width: step.workgroups[0],
    }
}

/// A status and `cu_seqlens`, as the shaders read them; nothing where the lengths are equal.
fn cu_seqlens(plan: &Plan) -> Vec<u32> {
    let mut words = vec![0, 0];
    if let Packing::Lengths(lengths) = &plan.shape().packing {
        words.extend(lengths.iter().scan(0u32, |end, len| {
            // Their sum is T, which `Plan` has checked.
            *end += len;
            Some(*end)
        }));
    }
    words
}
