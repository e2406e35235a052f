//! The bind group of each step of a plan.

use std::num::NonZeroU64;

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::tensors::Checked;
use crate::device::buffers::init_buffer;
use crate::device::scope::scoped;
use crate::error::DeviceError;
use crate::kernel::params::{Params, Rows};
use crate::kernel::stage::{Binding, Stage};
use crate::plan::Plan;
use crate::plan::steps::{Source, Step};
use crate::problem::entries::{NO_SLOT, cu_seqlens, of_entries};
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Packing;
use crate::problem::strides::Strides;
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

/// The bind group of one step. `dummy` stands for the tensors that it has not.
pub(crate) fn bind_group(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    plan: &Plan,
    step: &Step,
    checked: &Checked<'_>,
    dummy: &wgpu::Buffer,
) -> Result<wgpu::BindGroup, DeviceError> {
    let mut bound = Vec::with_capacity(step.sources.len());
    for (binding, source) in &step.sources {
        let of_dummy = || (dummy.clone(), *binding as u64 * DUMMY_STRIDE, DUMMY_STRIDE);
        let buffer = match source {
            Source::Params => {
                let params = params(plan, checked.weight_heads, step);
                let (label, bytes) = ("linear_attention.params", bytemuck::bytes_of(&params));
                let buffer = init_buffer(device, label, bytes, BufferUsages::UNIFORM)?;
                (buffer, 0, size_of::<Params>() as u64)
            }
            Source::Entries => {
                let (label, words) = ("linear_attention.sequences", entries(plan));
                let words = bytemuck::cast_slice(&words);
                let buffer = init_buffer(device, label, words, BufferUsages::STORAGE)?;
                let size = buffer.size();
                (buffer, 0, size)
            }
            Source::Tensor(tensor) => match checked.get(*tensor) {
                Some(range) if range.len > 0 => {
                    (range.binding.buffer.clone(), range.binding.offset, range.len)
                }
                _ => of_dummy(),
            },
            Source::Scratch(part) => match &checked.scratch {
                Some(range) => {
                    let offset = range.binding.offset + part.start;
                    (range.binding.buffer.clone(), offset, part.end - part.start)
                }
                None => of_dummy(),
            },
            Source::Dummy => of_dummy(),
        };
        bound.push((*binding, buffer));
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

/// Where the rows of a tensor begin, in accesses.
fn rows(plan: &Plan, tensor: Tensor) -> Rows {
    let shape = plan.shape();
    let Strides { offset, batch, token, head } = shape.strides_of(plan.config(), tensor);
    let width = if plan.has_vec4_rows() { 4 } else { 1 };
    let [offset, batch, token, head] = [offset, batch, token, head].map(|n| n / width);
    // The shader counts tokens through all rows of the batch: what is left is what lies between.
    let batch = batch.wrapping_sub(token.wrapping_mul(shape.seq_len));
    Rows { offset, batch, token, head }
}

/// A status and the entries that the host knows, as the shaders read them.
fn entries(plan: &Plan) -> Vec<u32> {
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
