//! A device without memory: each object that a call asks for is refused in turn, and real memory
//! ends. The refused object is named, the pool and its slots stay as they were, no buffer is left,
//! and the same call succeeds once there is memory.

mod limited;

use libtest_mimic::Failed;
use linear_attention::error::{BindError, ConfigError, DeviceError, PoolError, WeightsError};
use linear_attention::feature_map::{Weights, WeightsBuffer};
use linear_attention::serve::{Batch, Checkpoint, Entry, Sequences, Slot, StatePool, Status};
use linear_attention::shape::PackedLimits;
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::verify::refuse_object;
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{
    Config, Error, FeatureMap, Inputs, LinearAttention, Output, Readback, Shape, States, Tensors,
    UpdateRule,
};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;
use crate::trust::Own;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("memory::each_object_of_a_run_is_refused", each_object_of_a_run),
    ("memory::each_object_of_serving_is_refused", each_object_of_serving),
    ("memory::memory_ends", limited::memory_ends),
];

const D: usize = 8;

/// The device's refusal within an error, whatever step it belongs to.
fn refusal(error: &Error) -> Option<&DeviceError> {
    match error {
        Error::Device(refusal)
        | Error::Config(ConfigError::Device(refusal))
        | Error::Pool(PoolError::Device(refusal))
        | Error::Weights(WeightsError::Device(refusal))
        | Error::Bind(BindError::Device(refusal)) => Some(refusal),
        _ => None,
    }
}

type Step<'a> = &'a dyn Fn() -> Result<(), Error>;

fn done<T>(result: Result<T, impl Into<Error>>) -> Result<(), Error> {
    result.map(drop).map_err(Into::into)
}

/// Refuses each object of `call` in turn; `check` looks at what must not have changed. The number
/// of objects.
fn refuse_each(
    own: &Own,
    what: &str,
    call: Step<'_>,
    check: &dyn Fn() -> Result<(), Failed>,
) -> Result<u32, Failed> {
    let failed = |why: String| Failed::from(format!("{what}: {why}"));
    call()?;
    let before = own.buffers()?;
    for number in 0.. {
        let (result, was_refused) = refuse_object(number, call);
        if !was_refused {
            result?;
            println!("{what}: {number} objects refused");
            return if number > 0 { Ok(number) } else { Err(failed("asked for nothing".into())) };
        }
        match result.as_ref().map_err(refusal) {
            Err(Some(refusal)) if !refusal.what.is_empty() => {}
            _ => return Err(failed(format!("object {number} refused, and {result:?}"))),
        }
        own.expect_buffers(before, &format!("{what}, object {number}"))?;
        check().map_err(|error| failed(format!("object {number}: {error:?}")))?;
        call()?;
        check().map_err(|error| failed(format!("after object {number}: {error:?}")))?;
    }
    Ok(0)
}

/// A call on host slices that has what a call can have.
struct Call {
    attention: LinearAttention,
    shape: Shape,
    tensors: [Vec<f32>; 3],
    gates: Option<[Vec<f32>; 2]>,
    state: [Vec<f32>; 2],
    weights: Option<Weights>,
}

impl Call {
    fn new(own: &Own, config: Config, shape: Shape) -> Result<Self, Failed> {
        let lens = shape.lens(&config)?;
        let some = |len: u64, salt| numbers(len as usize, salt);
        let gates = config.update_rule.beta().is_some().then(|| {
            let decay = some(lens.decay, 4).iter().map(|x| -0.1 * x.abs()).collect();
            [decay, some(lens.beta, 5).iter().map(|x| 0.1 * x.abs()).collect()]
        });
        Ok(Self {
            weights: Weights::sample(&config, 1)?,
            attention: LinearAttention::new(&own.device, config)?,
            shape,
            tensors: [some(lens.q, 1), some(lens.k, 2), some(lens.v, 3)],
            gates,
            state: [some(lens.mu, 6), some(lens.nu, 7).iter().map(|x| x.abs() + 1.0).collect()],
        })
    }

    fn inputs(&self) -> Inputs<'_> {
        let ([q, k, v], [mu, nu]) = (&self.tensors, &self.state);
        let inputs = Inputs::new(q, k, v).with_initial_state(mu, nu).with_weights(&self.weights);
        match &self.gates {
            Some([decay, beta]) => inputs.with_decay(decay).with_beta(beta),
            None => inputs,
        }
    }

    fn run(&self, own: &Own) -> Result<Output, Error> {
        self.attention.run(&own.queue, &self.shape, self.inputs())
    }
}

fn each_object_of_a_run(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let config = Config::new(D as u32, D as u32);
    let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let calls = [
        Call::new(own, config.clone(), Shape::packed(&[20, 0, 13], 2))?,
        Call::new(own, Config::of_rule(8, 8, rule), Shape::new(2, 20, 2))?,
        Call::new(
            own,
            config.clone().with_feature_map(FeatureMap::Hedgehog),
            Shape::new(1, 20, 2),
        )?,
    ];
    for (number, call) in calls.iter().enumerate() {
        let expected = call.run(own)?;
        let same = |found: Output| if found == expected { Ok(()) } else { Err(other_bits()) };
        let nothing = || Ok(());
        let run = || call.run(own).and_then(same);
        refuse_each(own, &format!("run {number}"), &run, &nothing)?;
        let run = || {
            let run = call.attention.run_async(&own.queue, &call.shape, call.inputs());
            pollster::block_on(run).and_then(same)
        };
        refuse_each(own, &format!("run_async {number}"), &run, &nothing)?;
    }
    // Pipelines are compiled once, so that an attention of its own is needed for each try.
    let shape = Shape::new(1, 20, 1);
    let compile = || {
        let attention = LinearAttention::new(&own.device, config.clone())?;
        done(attention.prepare(&attention.plan(&shape)?, States::Final))
    };
    refuse_each(own, "prepare", &compile, &|| Ok(()))?;
    own.expect_nothing_uncaught()
}

fn other_bits() -> Error {
    Error::HostShape { what: "other bits" }
}

/// A pool with states that no other slot has.
struct Serving {
    pool: StatePool,
    slots: Vec<Slot>,
}

const SLOTS: u32 = 4;

impl Serving {
    fn new(own: &Own, config: &Config) -> Result<Self, Failed> {
        let pool = StatePool::new(&own.device, config, 1, SLOTS)?;
        let mut encoder = own.device.create_command_encoder(&Default::default());
        // One slot is left for what is restored.
        let slots: Result<Vec<_>, _> = (1..SLOTS).map(|_| pool.allocate(&mut encoder)).collect();
        own.queue.submit([encoder.finish()]);
        let binding = pool.binding();
        let len = binding.size.map_or(0, u64::from) / 4;
        own.queue.write_buffer(binding.buffer, 0, bytemuck::cast_slice(&numbers(len as usize, 1)));
        Ok(Self { slots: slots?, pool })
    }

    fn states(&self, own: &Own) -> Result<Vec<f32>, Failed> {
        let mut encoder = own.device.create_command_encoder(&Default::default());
        let source = self.pool.binding();
        let readback = Readback::record(&own.device, &mut encoder, &[source.buffer])?;
        own.queue.submit([encoder.finish()]);
        Ok(readback.wait()?.concat())
    }
}

fn each_object_of_serving(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let (device, queue) = (&own.device, &own.queue);
    let config = Config::new(D as u32, D as u32);
    let attention = LinearAttention::new(device, config.clone())?;
    let serving = Serving::new(own, &config)?;
    let (pool, slots) = (&serving.pool, &serving.slots);
    let encoder = || device.create_command_encoder(&Default::default());
    let mut first = encoder();
    let snapshot = pool.snapshot(&mut first, slots[1])?;
    queue.submit([first.finish()]);
    let bytes = snapshot.wait()?;

    let limits = PackedLimits { sequences: 2, tokens: 40, max_len: 20 };
    let shape = Shape::packed_up_to(limits, 1).with_slots(SLOTS).with_checkpoints(1);
    let plan = attention.plan(&shape)?;
    let batch = Batch::new(&plan, pool)?;
    let [q, o, scratch] = [0; 3].map(|_| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: plan.scratch_size().max(4 * 40 * D as u64),
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        })
    });
    let scratch = || Some(scratch.as_entire_buffer_binding());
    let tensors = || {
        Tensors::new(&q, &q, &q, &o)
            .with_pool(pool.binding())
            .with_sequences(Sequences::Host(&batch))
    };
    let entries = [Entry::new(slots[0], 20), Entry::new(slots[1], 20)];
    let checkpoints = [Checkpoint { sequence: 0, tokens: 7, slot: slots[2] }];
    let with_weights = config.clone().with_feature_map(FeatureMap::Hedgehog);
    let weights = Weights::sample(&with_weights, 1)?.ok_or("a map without weights")?;
    let uploaded = WeightsBuffer::new(device, &with_weights, &weights)?;
    let other_plan = attention.plan(&Shape::new(1, 20, 1))?;

    let calls: [(&str, Step<'_>); 12] = [
        ("new", &|| done(LinearAttention::new(device, config.clone()))),
        ("StatePool::new", &|| done(StatePool::new(device, &config, 1, 3))),
        ("snapshot", &|| done(pool.snapshot(&mut encoder(), slots[0]))),
        ("restore", &|| done(pool.free(pool.restore(&mut encoder(), &bytes)?))),
        ("Batch::new", &|| done(Batch::new(&plan, pool))),
        ("Batch::write", &|| {
            done(batch.write_with_checkpoints(queue, pool, &entries, &checkpoints))
        }),
        ("Batch::record_write", &|| {
            done(batch.record_write(&mut encoder(), pool, &entries, &checkpoints))
        }),
        ("bind in a pool", &|| done(attention.bind(&plan, &tensors(), scratch()))),
        ("bind", &|| done(attention.bind(&other_plan, &Tensors::new(&q, &q, &q, &o), scratch()))),
        ("Status::record", &|| {
            done(Status::record(device, &mut encoder(), &q.as_entire_buffer_binding()))
        }),
        ("WeightsBuffer::new", &|| done(WeightsBuffer::new(device, &with_weights, &weights))),
        ("WeightsBuffer::write", &|| done(uploaded.write(queue, &weights))),
    ];
    let before = serving.states(own)?;
    let unchanged = || -> Result<(), Failed> {
        if pool.available() != 1 {
            return Err(format!("{} slots are free, one was", pool.available()).into());
        }
        let after = serving.states(own)?;
        let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
        if after.len() == before.len() && after.iter().zip(&before).all(same) {
            return Ok(());
        }
        Err("another state".into())
    };
    for (what, call) in calls {
        refuse_each(own, what, call, &unchanged)?;
    }
    own.expect_nothing_uncaught()
}
