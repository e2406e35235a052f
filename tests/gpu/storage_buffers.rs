//! Devices with few storage buffers to a stage: what `kernels` says runs does, with the same bits,
//! and what does not is refused by name before anything is compiled.

use libtest_mimic::Failed;
use linear_attention::error::BindError;
use linear_attention::feature_map::{Weights, WeightsBuffer};
use linear_attention::tuning::{Kernel, Tuning, kernels};
use linear_attention::update_rule::Decay;
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{
    Config, FeatureMap, LinearAttention, Plan, Readback, Shape, States, Tensors, UpdateRule,
};

use super::Test;
use super::properties::numbers;
use crate::adapters::{Gpu, same_adapter};
use crate::trust::Own;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("storage_buffers::what_kernels_says_runs", what_kernels_says_runs),
    ("storage_buffers::four_are_enough_for_a_prompt", four_are_enough),
];

const ALL_STATES: [States; 5] =
    [States::None, States::Initial, States::Final, States::InitialAndFinal, States::InPlace];

/// A device of the adapter with so many storage buffers to a stage.
fn device(gpu: &Gpu, storage_buffers: u32) -> Result<Own, Failed> {
    let (instance, adapter) = same_adapter(&gpu.adapter).ok_or("the adapter is gone")?;
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: wgpu::Limits {
            max_storage_buffers_per_shader_stage: storage_buffers,
            ..adapter.limits()
        },
        ..Default::default()
    };
    Own::on(instance, &adapter, &descriptor)
}

/// A call of a config, bound by hand.
struct Call<'a> {
    attention: &'a LinearAttention,
    plan: Plan,
    states: States,
    /// A refusal must come before anything is compiled, of which `prepare` does nothing else.
    prepared: Result<(), BindError>,
}

impl<'a> Call<'a> {
    fn new(
        own: &Own,
        attention: &'a LinearAttention,
        shape: &Shape,
        tuning: &Tuning,
        states: States,
    ) -> Result<Self, Failed> {
        let plan = Plan::new(attention.config(), shape, &own.device.limits(), tuning)?;
        let prepared = attention.prepare(&plan, states);
        Ok(Self { attention, plan, states, prepared })
    }

    /// o and the states, or the refusal of `bind`.
    fn run(&self, own: &Own) -> Result<Result<Vec<f32>, BindError>, Failed> {
        let (config, lens) = (self.attention.config(), self.plan.lens());
        let buffer = |len: u64, salt| {
            let buffer = own.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("test"),
                size: (4 * len).max(4),
                usage: BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            let data: Vec<f32> =
                numbers(len as usize, salt).iter().map(|x| x.abs() + 0.1).collect();
            own.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&data));
            buffer
        };
        let [q, k, v, o] = [(lens.q, 1), (lens.k, 2), (lens.v, 3), (lens.o, 4)]
            .map(|(len, salt)| buffer(len, salt));
        let [initial_state, final_state] = [5, 6].map(|salt| buffer(lens.state, salt));
        let scratch = buffer(self.plan.scratch_size() / 4, 7);
        let decay = buffer(lens.decay, 8);
        let weights = Weights::sample(config, 1)?;
        let weights = weights.map(|weights| WeightsBuffer::new(&own.device, config, &weights));
        let weights = weights.transpose()?;
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let mut tensors = Tensors::new(&q, &k, &v, &o);
        tensors.weights = weights.as_ref().map(WeightsBuffer::binding);
        tensors.decay = config.update_rule.decay().map(|_| whole(&decay));
        if matches!(self.states, States::Initial | States::InitialAndFinal) {
            tensors.initial_state = Some(whole(&initial_state));
        }
        if matches!(self.states, States::Final | States::InitialAndFinal | States::InPlace) {
            tensors.final_state = Some(whole(&final_state));
        }
        if self.states == States::InPlace {
            tensors.initial_state = Some(whole(&final_state));
        }
        let bound = match self.attention.bind(&self.plan, &tensors, Some(whole(&scratch))) {
            Ok(bound) => bound,
            Err(error) => return Ok(Err(error)),
        };
        let mut encoder = own.device.create_command_encoder(&Default::default());
        self.attention.record(&mut encoder, &bound);
        let readback = Readback::record(&own.device, &mut encoder, &[&o, &final_state])?;
        own.queue.submit([encoder.finish()]);
        Ok(Ok(readback.wait()?.concat()))
    }
}

fn what_kernels_says_runs(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let limits = gpu.adapter.limits();
    let device_type = gpu.device.adapter_info().device_type;
    // A prompt, one that is cut in segments, a step of decoding, and packed sequences.
    let shapes = [
        (Shape::new(2, 40, 1), u32::MAX),
        (Shape::new(1, 40, 1), 10),
        (Shape::new(2, 3, 1), u32::MAX),
        (Shape::packed(&[30, 0, 21], 1), u32::MAX),
    ];
    let gated = UpdateRule::Gated(Decay::per_head());
    let configs = [
        (Config::new(8, 8), &shapes[..], &ALL_STATES[..]),
        (Config::of_rule(8, 8, gated), &shapes[1..2], &ALL_STATES[2..4]),
        (
            Config::new(8, 8).with_feature_map(FeatureMap::T2r { features: 8 }),
            &shapes[3..],
            &ALL_STATES[2..4],
        ),
    ];
    let full = device(gpu, limits.max_storage_buffers_per_shader_stage)?;
    let devices = (3..=8).map(|few| device(gpu, few)).collect::<Result<Vec<_>, _>>()?;
    let (mut ran, mut refused) = (0, 0);
    for (config, shapes, all_states) in configs {
        let attention = |own: &Own| LinearAttention::new(&own.device, config.clone());
        let of_full = attention(&full)?;
        let of_devices = devices.iter().map(attention).collect::<Result<Vec<_>, _>>()?;
        for (shape, max_segment_len) in shapes {
            for states in all_states.iter().copied() {
                let mut tuning = of_full.tuning().with_max_segment_len(*max_segment_len);
                tuning = tuning.with_min_segment_len(*max_segment_len);
                let call = |own, attention| Call::new(own, attention, shape, &tuning, states);
                let of_full = call(&full, &of_full)?;
                if states == States::InPlace && !of_full.plan.updates_in_place() {
                    continue;
                }
                let expected = of_full.run(&full)??;
                for (own, attention) in devices.iter().zip(&of_devices) {
                    let limits = own.device.limits();
                    let few = limits.max_storage_buffers_per_shader_stage;
                    let what = format!("{few} for {states:?} of {shape:?}, {}", config.key_map());
                    let call = call(own, attention)?;
                    let kernels = kernels(&config, &limits, device_type)?;
                    let stages: Vec<_> =
                        call.plan.dispatches().iter().map(|dispatch| dispatch.stage).collect();
                    let of_call =
                        |kernel: &&Kernel| kernel.is_chosen && stages.contains(&kernel.stage);
                    let of_call: Vec<_> = kernels.iter().filter(of_call).collect();
                    let must_fail = of_call.iter().any(|kernel| kernel.obstacle.is_some());
                    let must_run = of_call.iter().all(|kernel| kernel.max_storage_buffers <= few);
                    let found = call.run(own)?;
                    own.expect_nothing_uncaught()?;
                    if call.prepared.as_ref().err() != found.as_ref().err() {
                        return Err(format!("{what}: {:?} and {found:?}", call.prepared).into());
                    }
                    match found {
                        Ok(found) if !must_fail => {
                            // The bits are others if decode_step gives way to segment_output.
                            let same = call.plan.is_decode() == of_full.plan.is_decode();
                            if same && found != expected {
                                return Err(format!("{what}: other bits").into());
                            }
                            ran += 1;
                            // A device with more runs it as well, and compiles it once more.
                            break;
                        }
                        Err(BindError::StorageBuffers { stage, required, actual })
                            if !must_run
                                && (actual, required > few) == (few, true)
                                && stages.iter().any(|of_call| of_call.name() == stage) =>
                        {
                            refused += 1;
                        }
                        other => return Err(format!("{what}: {other:?}").into()),
                    }
                }
            }
        }
    }
    println!("{ran} calls ran, {refused} were refused");
    if ran > 20 && refused > 50 { Ok(()) } else { Err("too few of either".into()) }
}

fn four_are_enough(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(8, 8);
    let required = |shape: &Shape, states| -> Result<u32, Failed> {
        for few in 1..=8 {
            let own = device(gpu, few)?;
            let attention = LinearAttention::new(&own.device, config.clone())?;
            let call = Call::new(&own, &attention, shape, attention.tuning(), states)?;
            if call.prepared.is_ok() {
                return call.run(&own)?.map(|_| few).map_err(Failed::from);
            }
        }
        Err("no device runs it".into())
    };
    let (prompt, packed) = (Shape::new(1, 40, 1), Shape::packed(&[30, 21], 1));
    for (shape, states, expected) in [
        (&prompt, States::None, 4),
        (&prompt, States::Final, 5),
        (&prompt, States::InPlace, 5),
        (&prompt, States::InitialAndFinal, 6),
        (&packed, States::None, 5),
        (&packed, States::InitialAndFinal, 7),
    ] {
        let found = required(shape, states)?;
        if found != expected {
            return Err(format!("{states:?} of {shape:?}: {expected} expected, {found}").into());
        }
    }
    Ok(())
}
