//! Which buffer is bound where, for each dispatch of a plan.

use std::num::NonZeroU64;

use wgpu::{BufferBinding, BufferUsages};

use crate::params::Params;
use crate::stage::{Binding, Start, Variant};
use crate::tensors::{self, Checked};
use crate::{Dispatch, Plan, Stage};

/// Tensors bound to a plan, ready to be recorded any number of times. It keeps the
/// buffers alive.
#[derive(Clone, Debug)]
pub struct Bound {
    pub(crate) dispatches: Vec<BoundDispatch>,
}

#[derive(Clone, Debug)]
pub(crate) struct BoundDispatch {
    pub(crate) stage: Stage,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) workgroups: [u32; 3],
}

/// The bind group of one dispatch. `absent` stands for the states that it has not.
pub(crate) fn bind_group(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    plan: &Plan,
    dispatch: &Dispatch,
    variant: Variant,
    checked: &Checked<'_>,
    absent: &wgpu::Buffer,
) -> Result<wgpu::BindGroup, String> {
    let stage = dispatch.stage;
    let whole = |range: &tensors::Range<'_>| {
        (range.binding.buffer.clone(), range.binding.offset, range.len)
    };
    let absent = |slot: u64| (absent.clone(), slot * ABSENT_STRIDE, ABSENT_STRIDE);
    // With more than one segment the segments' states lie in scratch: the first stage
    // leaves them there, the second starts from the initial state, the third from them.
    let scratch = |part: std::ops::Range<u64>, slot| match &checked.scratch {
        Some(range) => {
            (range.binding.buffer.clone(), range.binding.offset + part.start, part.end - part.start)
        }
        None => absent(slot),
    };
    let of_state = |state: &Option<[tensors::Range<'_>; 2]>, index: usize, slot| match state {
        Some(pair) => whole(&pair[index]),
        None => absent(slot),
    };
    let is_output = stage == Stage::SegmentOutput;
    let start_state = |index: usize, part, slot| {
        if is_output && plan.segments() > 1 {
            scratch(part, slot)
        } else if variant.start == Start::Given {
            of_state(&checked.initial, index, slot)
        } else {
            absent(slot)
        }
    };
    let end_state = |index: usize, part, slot| {
        if is_output { of_state(&checked.final_, index, slot) } else { scratch(part, slot) }
    };
    let params = Params::new(plan, dispatch.workgroups[0]);
    let uniform = uniform_buffer(device, bytemuck::bytes_of(&params))?;
    let bound: Vec<_> = stage
        .bindings()
        .iter()
        .map(|binding| match binding {
            Binding::Params => (uniform.clone(), 0, size_of::<Params>() as u64),
            Binding::Q => whole(&checked.q),
            Binding::K => whole(&checked.k),
            Binding::V => whole(&checked.v),
            Binding::O => whole(&checked.out),
            Binding::StartMu => start_state(0, plan.scratch_mu(), 0),
            Binding::StartNu => start_state(1, plan.scratch_nu(), 1),
            Binding::EndMu => end_state(0, plan.scratch_mu(), 2),
            Binding::EndNu => end_state(1, plan.scratch_nu(), 3),
        })
        .collect();
    let entries: Vec<_> = stage
        .bindings()
        .iter()
        .zip(&bound)
        .map(|(binding, (buffer, offset, len))| wgpu::BindGroupEntry {
            binding: *binding as u32,
            resource: wgpu::BindingResource::Buffer(BufferBinding {
                buffer,
                offset: *offset,
                size: NonZeroU64::new(*len),
            }),
        })
        .collect();
    Ok(device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(stage.label()),
        layout,
        entries: &entries,
    }))
}

/// What a stage of this plan is compiled for, with these states bound.
pub(crate) fn variant(
    plan: &Plan,
    stage: Stage,
    initial: bool,
    in_place: bool,
    final_: bool,
) -> Variant {
    let is_output = stage == Stage::SegmentOutput;
    let start = match stage {
        // It adds up from zero.
        Stage::SegmentState => Start::Zero,
        // With more than one segment, what each starts from is in scratch.
        Stage::SegmentOutput if plan.segments() > 1 => Start::Given,
        _ if !initial => Start::Zero,
        Stage::SegmentOutput if in_place => Start::InPlace,
        _ => Start::Given,
    };
    Variant { start, write_end: is_output && final_ }
}

/// Bytes of the absent buffer that stand for one tensor: no smaller than any device's
/// offset alignment, and a range each, since writable bindings must not overlap.
pub(crate) const ABSENT_STRIDE: u64 = 256;
pub(crate) const ABSENT_SLOTS: u64 = 4;

fn uniform_buffer(device: &wgpu::Device, bytes: &[u8]) -> Result<wgpu::Buffer, String> {
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("linear_attention.params"),
        size: bytes.len() as u64,
        usage: BufferUsages::UNIFORM,
        mapped_at_creation: true,
    });
    buffer.get_mapped_range_mut(..).map_err(|error| error.to_string())?.copy_from_slice(bytes);
    buffer.unmap();
    Ok(buffer)
}
