//! The bind groups of a backward pass, and what is recorded.

use std::num::NonZeroU64;

use wgpu::{BufferBinding, BufferUsages};

use crate::backward::passes::Passes;
use crate::backward::plan::recurrence::Recurrence;
use crate::backward::plan::{BackwardPlan, Dispatch};
use crate::backward::tensors::Checked;
use crate::bind::bound::{BoundStep, params};
use crate::bind::pipelines::Pipeline;
use crate::bind::tensors::Range;
use crate::device::buffers::{empty_buffer, init_buffer};
use crate::device::scope::scoped;
use crate::error::{BindError, DeviceError};
use crate::kernel::gradient::{GradientBinding, GradientStage};
use crate::kernel::params::Params;
use crate::kernel::stage::Stage;
use crate::plan::submissions::Piece;
use crate::problem::feature_map::weights::WeightHeads;

/// Tensors bound to a [`BackwardPlan`], ready to be recorded any number of times. It keeps the
/// buffers alive.
#[derive(Clone, Debug)]
pub struct BoundBackward {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    workgroups: [u32; 3],
}

impl Step {
    fn new(
        device: &wgpu::Device,
        stage: GradientStage,
        Pipeline { pipeline, bindings }: &Pipeline,
        (params, workgroups): (&Params, [u32; 3]),
        (plan, checked, own): (&BackwardPlan, &Checked<'_>, &Own),
    ) -> Result<Self, BindError> {
        let bytes = bytemuck::bytes_of(params);
        let params = init_buffer(device, "linear_attention.params", bytes, BufferUsages::UNIFORM)?;
        let entries: Vec<_> = stage
            .binds(plan.forward.config())
            .into_iter()
            .filter_map(|binding| entry((stage, binding), plan, checked, (&params, own)))
            .collect();
        let label = stage.label();
        let bind_group = scoped(device, label, || {
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(label),
                layout: bindings,
                entries: &entries,
            })
        })?;
        Ok(Self { pipeline: pipeline.clone(), bind_group, workgroups })
    }

    fn of_pass(step: BoundStep) -> Self {
        let BoundStep { pipeline, bind_group, workgroups, .. } = step;
        Self { pipeline, bind_group, workgroups }
    }
}

/// The buffers that all dispatches share.
struct Own {
    ranges: wgpu::Buffer,
    /// Those of decays.
    blocks: wgpu::Buffer,
    /// In the place of initial states that are not given: zero, as new buffers are.
    no_states: [wgpu::Buffer; 3],
}

impl Own {
    fn new(
        device: &wgpu::Device,
        plan: &BackwardPlan,
        checked: &Checked<'_>,
    ) -> Result<Self, BindError> {
        let usage = BufferUsages::STORAGE;
        let mut words: Vec<u32> = Vec::with_capacity(2 * plan.ranges.len());
        words.extend(plan.ranges.iter().flat_map(|range| [range.start as u32, range.end as u32]));
        let behind = plan.tokens_behind();
        words.extend([behind.start as u32, behind.end as u32]);
        let words = bytemuck::cast_slice(&words);
        let ranges = init_buffer(device, "linear_attention.ranges", words, usage)?;
        let blocks = match bytemuck::cast_slice(&plan.decays.blocks) {
            [] => ranges.clone(),
            blocks => init_buffer(device, "linear_attention.blocks", blocks, usage)?,
        };
        let has_all = GradientBinding::STATES.iter().all(|state| checked.get(*state).is_some());
        let size = if has_all { 4 } else { plan.states_size().max(4) };
        let no_states =
            [(); 3].map(|()| empty_buffer(device, "linear_attention.states", size, usage));
        let [a, b, c] = no_states;
        Ok(Self { ranges, blocks, no_states: [a?, b?, c?] })
    }
}

impl BoundBackward {
    pub(super) fn new(
        device: &wgpu::Device,
        plan: &BackwardPlan,
        checked: &Checked<'_>,
        pipeline_of: &dyn Fn(GradientStage) -> Result<Pipeline, DeviceError>,
        passes: Option<&Passes>,
    ) -> Result<Self, BindError> {
        let own = Own::new(device, plan, checked)?;
        let mut steps = Vec::with_capacity(plan.dispatches.len());
        let has_weights = checked.get(GradientBinding::OfWeights).is_some();
        for dispatch in &plan.dispatches {
            match dispatch {
                Dispatch::Pass(pass) => {
                    let passes = passes.ok_or(BindError::Plan { what: "recipe" })?;
                    let scratch = &checked.scratch.binding;
                    let bound = passes.bind(pass, scratch)?;
                    steps.extend(bound.into_steps().map(Step::of_pass));
                }
                // Weights that are not trained need no gradient.
                Dispatch::Stage(stage, _) if stage.is_of_weights() && !has_weights => {}
                Dispatch::Stage(stage, workgroups) => {
                    let pipeline = pipeline_of(*stage)?;
                    for of_dispatch in plan.steps(*stage) {
                        let params = params_of(plan, checked.weights, *workgroups, &of_dispatch);
                        let bindings = (plan, checked, &own);
                        let params = (&params, *workgroups);
                        steps.push(Step::new(device, *stage, &pipeline, params, bindings)?);
                    }
                }
            }
        }
        Ok(Self { steps })
    }

    pub(super) fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("linear_attention.backward"),
            timestamp_writes: None,
        });
        for Step { pipeline, bind_group, workgroups: [x, y, z] } in &self.steps {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

/// The uniform of a dispatch. Blocks of tokens are its segments, pieces its chunks, and value
/// blocks its own.
fn params_of(
    plan: &BackwardPlan,
    weights: WeightHeads,
    workgroups: [u32; 3],
    steps_of_dispatch: &std::ops::Range<u32>,
) -> Params {
    let piece = Piece { dispatch: 0, first_workgroup: 0, workgroups };
    let forward = params(&plan.forward, weights, Stage::SegmentOutput, &piece);
    let sequences = plan.ranges.len() as u32;
    let decays = plan.decays.blocks.len() as u32;
    let Recurrence { block, blocks, value_blocks, steps, .. } = plan.recurrence;
    Params {
        sequences,
        segments: if decays == 0 { blocks } else { decays },
        segment_len: block,
        chunk_len: plan.piece,
        value_blocks,
        first_step: steps_of_dispatch.start,
        end_step: steps_of_dispatch.end,
        steps,
        ..forward
    }
}

fn entry<'a>(
    (stage, binding): (GradientStage, GradientBinding),
    plan: &BackwardPlan,
    checked: &'a Checked<'_>,
    (params, own): (&'a wgpu::Buffer, &'a Own),
) -> Option<wgpu::BindGroupEntry<'a>> {
    let scratch = |part: &std::ops::Range<u64>| {
        let Range { binding, .. } = &checked.scratch;
        let size = NonZeroU64::new(part.end - part.start);
        BufferBinding { buffer: binding.buffer, offset: binding.offset + part.start, size }
    };
    let buffer = match binding {
        GradientBinding::Params => params.as_entire_buffer_binding(),
        GradientBinding::Ranges => own.ranges.as_entire_buffer_binding(),
        GradientBinding::Blocks => own.blocks.as_entire_buffer_binding(),
        GradientBinding::Keys if stage.reads_gradients() => scratch(plan.gradients_by_keys()),
        GradientBinding::Keys => scratch(&plan.scratch.keys),
        GradientBinding::Queries if stage.reads_gradients() => scratch(plan.gradients_by_queries()),
        GradientBinding::Queries => scratch(&plan.scratch.queries),
        GradientBinding::Projections => scratch(&plan.scratch.projections),
        GradientBinding::Partials => scratch(&plan.scratch.partials),
        GradientBinding::Gates => scratch(&plan.scratch.gates),
        GradientBinding::States => scratch(&plan.scratch.states),
        GradientBinding::PassValues => scratch(&plan.scratch.sums.values),
        GradientBinding::OutputRows => scratch(&plan.scratch.sums.outputs),
        GradientBinding::OfPassValues => scratch(&plan.scratch.sums.of_values),
        GradientBinding::OfPassKeys => scratch(&plan.scratch.sums.of_keys),
        GradientBinding::PassDecays => scratch(&plan.scratch.sums.decays),
        GradientBinding::SegmentStates => scratch(&plan.decays.states),
        GradientBinding::PassStates => scratch(&plan.scratch.sums.states),
        _ => match checked.get(binding) {
            Some(Range { binding, len, .. }) => {
                let size = NonZeroU64::new(*len);
                BufferBinding { buffer: binding.buffer, offset: binding.offset, size }
            }
            None => {
                let at = GradientBinding::STATES.iter().position(|state| *state == binding)?;
                own.no_states[at].as_entire_buffer_binding()
            }
        },
    };
    let resource = wgpu::BindingResource::Buffer(buffer);
    Some(wgpu::BindGroupEntry { binding: binding as u32, resource })
}
