//! Which buffer is bound where, for each dispatch of a plan.

use std::num::NonZeroU64;

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::tensors::{self, Checked};
use crate::device::buffers::init_buffer;
use crate::kernel::params::Params;
use crate::kernel::stage::{Binding, Stage, Start, Variant};
use crate::plan::{Dispatch, Plan};
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Packing;

/// Tensors bound to a plan, ready to be recorded any number of times. It keeps the
/// buffers alive.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Of each part, one after the other; most problems have one.
    pub(crate) parts: Vec<Vec<BoundDispatch>>,
}

#[derive(Clone, Debug)]
pub(crate) struct BoundDispatch {
    pub(crate) stage: Stage,
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) workgroups: [u32; 3],
}

impl BoundDispatch {
    pub(crate) fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// The bind group of one dispatch. `absent` stands for the tensors that it has not.
pub(crate) fn bind_group(
    device: &wgpu::Device,
    layout: &wgpu::BindGroupLayout,
    plan: &Plan,
    dispatch: &Dispatch,
    checked: &Checked<'_>,
    absent: &wgpu::Buffer,
) -> Result<wgpu::BindGroup, String> {
    let stage = dispatch.stage;
    let bindings = stage.bindings(plan.config(), plan.layout());
    let whole = |range: &tensors::Range<'_>| {
        (range.binding.buffer.clone(), range.binding.offset, range.len)
    };
    let slot = |binding: Binding| binding as u64 - Binding::Start as u64;
    let absent = |binding| (absent.clone(), slot(binding) * ABSENT_STRIDE, ABSENT_STRIDE);
    let or_absent = |range: Option<&tensors::Range<'_>>, binding| match range {
        Some(range) => whole(range),
        None => absent(binding),
    };
    let scratch = |part: std::ops::Range<u64>, binding| match &checked.scratch {
        Some(range) if !part.is_empty() => {
            (range.binding.buffer.clone(), range.binding.offset + part.start, part.end - part.start)
        }
        _ => absent(binding),
    };
    // Where segments have states in scratch, the first stage leaves there what each adds, the
    // second starts from the initial state, the third from what the second left.
    let is_last = matches!(stage, Stage::SegmentOutput | Stage::DecodeStep);
    let start = |binding| {
        if stage == Stage::SegmentOutput && plan.has_scratch_states() {
            scratch(plan.scratch_states(), binding)
        } else if checked.in_place && is_last {
            // Read where it is written, through the other binding.
            absent(binding)
        } else {
            // The pool is both; state_scan reads it and writes scratch.
            let pool = checked.final_.as_ref().filter(|_| plan.shape().slots.is_some());
            or_absent(checked.initial.as_ref().or(pool), binding)
        }
    };
    let end = |binding| {
        if is_last {
            or_absent(checked.final_.as_ref(), binding)
        } else {
            scratch(plan.scratch_states(), binding)
        }
    };
    let params = params(plan, checked.weight_heads, dispatch.workgroups[0]);
    let label = "linear_attention.params";
    let params = bytemuck::bytes_of(&params);
    let uniform = init_buffer(device, label, params, BufferUsages::UNIFORM)?;
    // Lengths that only the host knows.
    let lengths = match (&checked.sequences, cu_seqlens(plan)) {
        (None, Some(words)) if bindings.contains(&Binding::Sequences) => {
            let (label, words) = ("linear_attention.sequences", bytemuck::cast_slice(&words));
            Some(init_buffer(device, label, words, BufferUsages::STORAGE)?)
        }
        _ => None,
    };
    let bound: Vec<_> = bindings
        .iter()
        .map(|binding| match *binding {
            Binding::Params => (uniform.clone(), 0, size_of::<Params>() as u64),
            Binding::Q => whole(&checked.q),
            Binding::K => whole(&checked.k),
            Binding::V => whole(&checked.v),
            Binding::O => whole(&checked.out),
            Binding::Start => start(*binding),
            Binding::End => end(*binding),
            Binding::Table => scratch(plan.scratch_table(), *binding),
            Binding::Sequences => match &lengths {
                Some(buffer) => (buffer.clone(), 0, buffer.size()),
                None => or_absent(checked.sequences.as_ref(), *binding),
            },
            Binding::Weights => or_absent(checked.weights.as_ref(), *binding),
            Binding::Shares => scratch(plan.scratch_shares(), *binding),
        })
        .collect();
    let entries: Vec<_> = bindings
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

/// The uniform of one dispatch.
fn params(plan: &Plan, weights: WeightHeads, grid_width: u32) -> Params {
    let shape = plan.shape();
    let group = shape.heads / shape.kv_heads;
    let weights = weights.places(plan.config(), group);
    Params {
        sequences: shape.sequences(),
        seq_len: shape.seq_len,
        // Fewer than 2^32, since q has no more elements.
        tokens: shape.batch * shape.seq_len,
        max_len: shape.max_len(),
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        group,
        head_tile: plan.head_tile(),
        head_blocks: plan.head_blocks(),
        value_blocks: plan.value_blocks(),
        segments: plan.segments(),
        segment_len: plan.segment_len(),
        chunk_len: plan.chunk_len(),
        states: shape.slots.unwrap_or(shape.sequences()),
        key_weights: weights.key_stride,
        query_begin: weights.query_begin,
        query_weights: weights.query_stride,
        query_group: weights.group,
        grid_width,
    }
}

/// A status and `cu_seqlens`, as the shaders read them.
fn cu_seqlens(plan: &Plan) -> Option<Vec<u32>> {
    let Packing::Lengths(lengths) = &plan.shape().packing else { return None };
    let mut words = vec![0, 0];
    words.extend(lengths.iter().scan(0u32, |end, len| {
        // Their sum is T, which `Plan` has checked.
        *end += len;
        Some(*end)
    }));
    Some(words)
}

/// What a stage of this plan is compiled for, with these states and sequences bound.
pub(crate) fn variant(
    plan: &Plan,
    stage: Stage,
    initial: bool,
    in_place: bool,
    final_: bool,
    may_clash: bool,
) -> Variant {
    let is_last = matches!(stage, Stage::SegmentOutput | Stage::DecodeStep);
    let starts_in_scratch = stage == Stage::SegmentOutput && plan.has_scratch_states();
    let start = match stage {
        // They read no state.
        Stage::SegmentState | Stage::SequenceTable | Stage::OutputSum => Start::Zero,
        _ if starts_in_scratch => Start::Given,
        _ if in_place && is_last => Start::InPlace,
        _ if initial || in_place => Start::Given,
        _ => Start::Zero,
    };
    let (packed, slots) = (plan.shape().is_packed(), plan.shape().slots.is_some());
    // Those that walk segments only ask whether there is a table.
    let reads_entries = matches!(stage, Stage::SequenceTable | Stage::DecodeStep);
    Variant {
        start,
        starts_in_scratch,
        write_end: is_last && final_,
        lengths_given: if reads_entries { packed } else { plan.has_table() },
        slots_given: if reads_entries { slots } else { plan.has_table() },
        may_clash: reads_entries && may_clash,
        run: stage == Stage::DecodeStep && plan.rows_per_state() > 1,
    }
}

/// Bytes of the absent buffer that stand for one tensor: no smaller than any device's
/// offset alignment, and a range each, since writable bindings must not overlap.
pub(crate) const ABSENT_STRIDE: u64 = 256;
pub(crate) const ABSENT_SLOTS: u64 = Binding::Weights as u64 - Binding::Start as u64 + 1;
