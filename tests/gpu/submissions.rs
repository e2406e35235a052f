//! Work without bound: calls in submissions of bounded work, their progress, and the end of one.

use std::ops::ControlFlow;

use libtest_mimic::Failed;
use linear_attention::tuning::Tuning;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{
    Config, Error, FeatureMap, Inputs, LinearAttention, Options, Output, Progress, Readback, Shape,
    Tensors,
};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("bounded_submissions::have_the_same_bits", same_bits),
    ("bounded_submissions::are_recorded_one_by_one", one_by_one),
    ("bounded_submissions::can_be_cancelled", cancelled),
    ("bounded_submissions::of_a_tuning_that_was_measured", measured),
];

/// The fewest operations that a tuning may allow.
const BUDGET: u64 = 1 << 20;

fn with_budget(gpu: &Gpu, config: &Config, budget: u64) -> Result<LinearAttention, Failed> {
    let device_type = gpu.device.adapter_info().device_type;
    let tuning = Tuning::new(config, &gpu.device.limits(), device_type)?;
    let tuning = tuning.with_max_operations(budget);
    let options = Options::default().with_tuning(tuning);
    Ok(LinearAttention::with_options(&gpu.device, config.clone(), &options)?)
}

/// The arguments of a call.
struct Sample {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
}

impl Sample {
    fn new(config: &Config, shape: &Shape) -> Result<Self, Failed> {
        let lens = shape.lens(config)?;
        let unit = |len: u64, salt| numbers(len as usize, salt).into_iter().map(|x| x.abs());
        Ok(Self {
            q: numbers(lens.q as usize, 1),
            k: numbers(lens.k as usize, 2).into_iter().map(|x| 0.25 * x).collect(),
            v: numbers(lens.v as usize, 3),
            decay: unit(lens.decay, 6).map(|x| -0.05 * x).collect(),
            beta: unit(lens.beta, 7).map(|x| 0.25 * x).collect(),
        })
    }

    fn inputs(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v);
        inputs.decay = Some(&self.decay[..]).filter(|decay| !decay.is_empty());
        inputs.beta = Some(&self.beta[..]).filter(|beta| !beta.is_empty());
        inputs
    }
}

fn run(
    gpu: &Gpu,
    a: &LinearAttention,
    shape: &Shape,
    inputs: Inputs<'_>,
) -> Result<(Output, Vec<Progress>), Failed> {
    let mut seen = Vec::new();
    let output = a.run_with_progress(&gpu.queue, shape, inputs, |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    })?;
    Ok((output, seen))
}

/// Every submission is within the budget, progress grows to its end, and the bits are those of one
/// submission: for prompts and steps, equal and packed, with segments and feature blocks, every
/// rule.
fn same_bits(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let linear = Config::new(16, 16);
    let delta = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let mut uneven = vec![1; 300];
    (uneven[7], uneven[200]) = (900, 333);
    for (config, shape) in [
        (linear.clone(), Shape::new(2, 1500, 4).with_kv_heads(2)),
        (linear.clone(), Shape::packed(&uneven, 4)),
        (linear.clone(), Shape::new(600, 3, 4)),
        (
            linear.clone().with_update_rule(UpdateRule::Gated(Decay::per_row())),
            Shape::new(1, 2000, 2),
        ),
        (linear.with_feature_map(FeatureMap::Taylor), Shape::new(1, 300, 4)),
        (Config::of_rule(16, 16, delta), Shape::new(2, 600, 4)),
    ] {
        let name = format!("{} {shape:?}", config.update_rule.name());
        let sample = Sample::new(&config, &shape)?;
        let [whole, bounded] = [u64::MAX, BUDGET].map(|budget| with_budget(gpu, &config, budget));
        let (expected, once) = run(gpu, &whole?, &shape, sample.inputs())?;
        let bounded = bounded?;
        let (found, seen) = run(gpu, &bounded, &shape, sample.inputs())?;
        if once.len() != 1 || seen.len() < 2 {
            return Err(format!("{name}: {} and {} submissions", once.len(), seen.len()).into());
        }
        let mut before = 0;
        for (done, progress) in (1..).zip(&seen) {
            let operations = progress.operations_done - before;
            before = progress.operations_done;
            let is_right = progress.submissions_done == done && progress.submissions == seen.len();
            // A workgroup is never cut, and on a CPU adapter it has eight segments.
            if !is_right || operations > 8 * BUDGET {
                return Err(format!("{name}: {progress:?} after {operations}").into());
            }
        }
        if seen.last().is_none_or(|last| last.operations_done != last.operations) {
            return Err(format!("{name}: ends with {:?}", seen.last()).into());
        }
        let is_whole = bounded.split(&shape)?.parts().len() == 1;
        if is_whole && found != expected {
            return Err(format!("{name}: other bits in {} submissions", seen.len()).into());
        }
        if !is_whole {
            super::properties::close(&name, &expected.o, &found.o)?;
            super::properties::close(&name, &expected.mu, &found.mu)?;
        }
    }
    Ok(())
}

/// The caller's own encoder and submissions, with another between them; a state updated in place.
fn one_by_one(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(16, 16);
    let (shape, device) = (Shape::new(300, 4, 8), &gpu.device);
    let lens = shape.lens(&config)?;
    let buffer = |data: &[f32]| {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: 4 * data.len().max(1) as u64,
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
        buffer
    };
    let [q, k, v] = [(lens.q, 1), (lens.k, 2), (lens.v, 3)]
        .map(|(len, salt)| buffer(&numbers(len as usize, salt)));
    let state: Vec<f32> = numbers(lens.state as usize, 4).iter().map(|x| x.abs() + 0.5).collect();
    let mut found = Vec::new();
    for budget in [u64::MAX, BUDGET] {
        let a = with_budget(gpu, &config, budget)?;
        let plan = a.plan(&shape)?;
        let (o, states) = (buffer(&vec![f32::NAN; lens.o as usize]), buffer(&state));
        let scratch = buffer(&vec![0.0; plan.scratch_size().max(4) as usize / 4]);
        let tensors = Tensors::new(&q, &k, &v, &o)
            .with_initial_state(states.as_entire_buffer_binding())
            .with_final_state(states.as_entire_buffer_binding());
        let bound = a.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
        let operations: u64 = (0..bound.submissions()).map(|i| bound.operations(i)).sum();
        let is_cut = bound.submissions() == plan.submission_count()
            && operations == plan.operations()
            && (bound.submissions() > 1) == (budget == BUDGET);
        if !is_cut || bound.operations(bound.submissions()) != 0 {
            return Err(format!("{} submissions", bound.submissions()).into());
        }
        // One beyond the last is nothing.
        for i in 0..=bound.submissions() {
            let mut encoder = device.create_command_encoder(&Default::default());
            a.record_submission(&mut encoder, &bound, i);
            gpu.queue.submit([encoder.finish()]);
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        let readback = Readback::record(device, &mut encoder, &[&o, &states])?;
        gpu.queue.submit([encoder.finish()]);
        found.push(readback.wait::<u32>()?);
    }
    match found.first() == found.last() {
        true => Ok(()),
        false => Err("other bits".into()),
    }
}

/// Between two submissions, on the way and at the end, blocking and not; the next call is right.
fn cancelled(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(16, 16);
    let shape = Shape::new(2, 1500, 4);
    let a = with_budget(gpu, &config, BUDGET)?;
    let sample = Sample::new(&config, &shape)?;
    let (expected, seen) = run(gpu, &a, &shape, sample.inputs())?;
    for stop in [1, 2, seen.len()] {
        let mut calls = 0;
        let mut on_progress = |progress: Progress| {
            calls += 1;
            match progress.submissions_done == stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let inputs = sample.inputs();
        let ended = match stop {
            2 => pollster::block_on(a.run_async_with_progress(
                &gpu.queue,
                &shape,
                inputs,
                &mut on_progress,
            )),
            _ => a.run_with_progress(&gpu.queue, &shape, inputs, &mut on_progress),
        };
        let at = seen[stop - 1];
        let error = Error::Cancelled { done: at.operations_done, operations: at.operations };
        if ended != Err(error) || calls != stop {
            return Err(format!("stopped at {stop}: {ended:?} after {calls}").into());
        }
        let (found, _) = run(gpu, &a, &shape, sample.inputs())?;
        if found != expected {
            return Err(format!("other bits after a call that stopped at {stop}").into());
        }
    }
    Ok(())
}

/// `tune` gives a submission a quarter of a second, at the speed that it measured.
fn measured(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let (config, shape) = (Config::new(16, 16), Shape::new(1, 200, 2));
    let tuning = linear_attention::tuning::tune(&gpu.device, &gpu.queue, &config, &shape, None)?;
    match tuning.max_operations.is_power_of_two() && tuning.max_operations >= 1 << 30 {
        true => Ok(()),
        false => Err(format!("{} operations", tuning.max_operations).into()),
    }
}
