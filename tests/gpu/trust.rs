//! Many runs, many threads, and what goes wrong: a device that is lost, a future that is dropped, a
//! shader that does not compile. Each test has an instance of its own, whose report counts buffers.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use libtest_mimic::Failed;
use linear_attention::serve::{Batch, Entry, Sequences, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::wgpu::{self, Device, Instance, PollType, Queue};
use linear_attention::{Config, Error, Inputs, LinearAttention, Output, Shape, Tensors};

use super::Test;
use super::properties::numbers;
use crate::adapters::{Gpu, same_adapter};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("trust::a_hundred_runs_and_permuted_batches_have_the_same_bits", a_hundred_runs),
    ("trust::threads_share_one_attention", threads_share),
    ("trust::ten_thousand_steps_in_the_same_memory", ten_thousand_steps),
    ("trust::a_device_destroyed_in_flight", device_destroyed),
    ("trust::a_future_dropped_before_it_ends", future_dropped),
    ("trust::no_call_leaves_a_buffer", no_buffer_left),
];

const D: usize = 16;

/// An adapter's own instance and device, with a handler that counts what no one else has caught.
pub(crate) struct Own {
    pub(crate) instance: Instance,
    pub(crate) device: Device,
    pub(crate) queue: Queue,
    uncaught: Arc<AtomicU32>,
}

impl Own {
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, Failed> {
        let (instance, adapter) = same_adapter(&gpu.adapter).ok_or("the adapter is gone")?;
        Self::on(instance, &adapter, &Default::default())
    }

    /// A device that the descriptor asks for.
    pub(crate) fn on(
        instance: Instance,
        adapter: &wgpu::Adapter,
        descriptor: &wgpu::DeviceDescriptor<'_>,
    ) -> Result<Self, Failed> {
        let (device, queue) = pollster::block_on(adapter.request_device(descriptor))?;
        let uncaught = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&uncaught);
        device.on_uncaptured_error(Arc::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        Ok(Self { instance, device, queue, uncaught })
    }

    /// Buffers that are alive once all work is done.
    pub(crate) fn buffers(&self) -> Result<usize, Failed> {
        self.device.poll(PollType::wait_indefinitely())?;
        let report = self.instance.generate_report().ok_or("wgpu has no report")?;
        Ok(report.hub_report().buffers.num_allocated)
    }

    pub(crate) fn expect_buffers(&self, expected: usize, when: &str) -> Result<(), Failed> {
        let found = self.buffers()?;
        if found == expected {
            return Ok(());
        }
        Err(Failed::from(format!("{when}: {expected} buffers before, {found} after")))
    }

    pub(crate) fn expect_nothing_uncaught(&self) -> Result<(), Failed> {
        match self.uncaught.load(Ordering::Relaxed) {
            0 => Ok(()),
            count => Err(Failed::from(format!("{count} errors reached the caller's handler"))),
        }
    }

    fn run(&self, attention: &LinearAttention, salt: u32) -> Result<Output, Error> {
        let [q, k, v] = tensors(salt);
        attention.run(&self.queue, &shape(), Inputs::new(&q, &k, &v))
    }
}

fn shape() -> Shape {
    Shape::new(2, 40, 2)
}

fn tensors(salt: u32) -> [Vec<f32>; 3] {
    [1, 2, 3].map(|of| numbers(2 * 40 * 2 * D, 3 * salt + of))
}

/// The same plan and tensors, the same bits, a hundred times; and a batch in another order has the
/// same bits in that order.
fn a_hundred_runs(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let run = |[q, k, v]: &[Vec<f32>; 3]| {
        a.run(&gpu.queue, &shape(), Inputs::new(q, k, v)).map_err(Failed::from)
    };
    let inputs = tensors(1);
    let first = run(&inputs)?;
    let swap = |x: &Vec<f32>| -> Vec<f32> {
        let (a, b) = x.split_at(x.len() / 2);
        [b, a].concat()
    };
    let swapped_inputs = [swap(&inputs[0]), swap(&inputs[1]), swap(&inputs[2])];
    for i in 0..100 {
        let same = if i % 2 == 0 {
            run(&inputs)? == first
        } else {
            let found = run(&swapped_inputs)?;
            swap(&found.o) == first.o && swap(&found.mu) == first.mu && swap(&found.nu) == first.nu
        };
        if !same {
            return Err(Failed::from(format!("run {i} has other bits")));
        }
    }
    Ok(())
}

/// Eight threads on one LinearAttention and one queue find what one finds after the other.
fn threads_share(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = Own::new(gpu)?;
    // Its pipelines are compiled by whoever comes first.
    let attention = LinearAttention::new(&own.device, Config::new(D as u32, D as u32))?;
    let found: Vec<Result<Vec<Output>, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let (own, attention) = (&own, &attention);
                scope.spawn(move || (0..10).map(|i| own.run(attention, 10 * thread + i)).collect())
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    if found.len() != 8 {
        return Err(Failed::from("a thread panicked"));
    }
    for (thread, outputs) in (0..).zip(found) {
        for (i, output) in (0..).zip(outputs?) {
            if output != own.run(&attention, 10 * thread + i)? {
                return Err(Failed::from(format!("thread {thread}, run {i}: other bits")));
            }
        }
    }
    own.expect_nothing_uncaught()
}

/// Steps of decoding from one binding: no buffer, bind group or pipeline more after ten thousand.
fn ten_thousand_steps(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = Own::new(gpu)?;
    let (device, queue) = (&own.device, &own.queue);
    let config = Config::new(8, 8);
    let attention = LinearAttention::new(device, config.clone())?;
    let pool = StatePool::new(device, &config, 1, 4)?;
    let plan = attention.plan(
        &Shape::packed_up_to(PackedLimits { sequences: 2, tokens: 2, max_len: 1 }, 1).with_slots(4),
    )?;
    let batch = Batch::new(&plan, &pool)?;
    let mut encoder = device.create_command_encoder(&Default::default());
    let slots = [pool.allocate(&mut encoder)?, pool.allocate(&mut encoder)?];
    queue.submit([encoder.finish()]);
    let [q, o] = [0; 2].map(|_| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: 2 * 8 * 4,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    });
    let mut tensors = Tensors::new(&q, &q, &q, &o);
    tensors.pool = Some(pool.binding());
    tensors.sequences = Some(Sequences::Host(&batch));
    let bound = attention.bind(&plan, &tensors, Some(q.as_entire_buffer_binding()))?;
    let steps = |count: u32| -> Result<String, Failed> {
        for step in 0..count {
            let order = if step % 2 == 0 { [0, 1] } else { [1, 0] };
            let entries = order.map(|i| Entry::new(slots[i], 1));
            batch.write(queue, &pool, &entries)?;
            let mut encoder = device.create_command_encoder(&Default::default());
            attention.record(&mut encoder, &bound);
            queue.submit([encoder.finish()]);
            if step % 50 == 49 {
                device.poll(PollType::wait_indefinitely())?;
            }
        }
        device.poll(PollType::wait_indefinitely())?;
        let report = own.instance.generate_report().ok_or("wgpu has no report")?;
        let hub = report.hub_report();
        Ok([&hub.buffers, &hub.bind_groups, &hub.compute_pipelines, &hub.command_encoders]
            .map(|objects| objects.num_allocated.to_string())
            .join(", "))
    };
    let (before, after) = (steps(100)?, steps(10_000)?);
    if before != after {
        let of = "buffers, bind groups, pipelines, encoders";
        return Err(Failed::from(format!("{of}: {before} before, {after} after")));
    }
    own.expect_nothing_uncaught()
}

/// A device destroyed while its work is queued, and before: an error each time and no panic; and
/// another device works on.
fn device_destroyed(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = Own::new(gpu)?;
    let attention = LinearAttention::new(&own.device, Config::new(D as u32, D as u32))?;
    own.run(&attention, 1)?;
    let [q, k, v] = tensors(1);
    let shape = shape();
    let inputs = Inputs::new(&q, &k, &v);
    let mut in_flight = pin!(attention.run_async(&own.queue, &shape, inputs));
    // Polled once: recorded and submitted.
    let polled = in_flight.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    own.device.destroy();
    // Work that was submitted before may succeed or fail, but must end.
    let ended = match polled {
        Poll::Ready(ended) => ended,
        Poll::Pending => pollster::block_on(in_flight),
    };
    if !matches!(ended, Ok(_) | Err(Error::Device(_))) {
        return Err(Failed::from(format!("in flight: {ended:?}")));
    }
    let is_refused = |error: &Error| {
        let text = error.to_string();
        text.contains("the device")
    };
    match own.run(&attention, 1) {
        Err(error) if is_refused(&error) => {}
        other => return Err(Failed::from(format!("run after: {other:?}"))),
    }
    match pollster::block_on(attention.run_async(&own.queue, &shape, inputs)) {
        Err(error) if is_refused(&error) => {}
        other => return Err(Failed::from(format!("run_async after: {other:?}"))),
    }
    // WebGPU lets pipelines and buffers be made on a device that is lost, and says so where they
    // are read.
    let fresh = LinearAttention::new(&own.device, attention.config().clone())?;
    match own.run(&fresh, 1) {
        Err(error) if is_refused(&error) => {}
        other => return Err(Failed::from(format!("run of another attention: {other:?}"))),
    }
    own.expect_nothing_uncaught()?;
    let pool = StatePool::new(&own.device, &Config::new(8, 8), 1, 4)?;
    let mut encoder = own.device.create_command_encoder(&Default::default());
    let slot = pool.allocate(&mut encoder)?;
    let snapshot = pool.snapshot(&mut encoder, slot);
    own.queue.submit([encoder.finish()]);
    if snapshot.and_then(|snapshot| snapshot.wait()).is_ok() {
        return Err(Failed::from("a state was read from a device that is no more"));
    }
    // A device beside it.
    let other = Own::new(gpu)?;
    let attention = LinearAttention::new(&other.device, Config::new(D as u32, D as u32))?;
    other.run(&attention, 1)?;
    Ok(())
}

/// A future dropped at each of its first polls leaves no buffer, and the next call is right.
fn future_dropped(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = Own::new(gpu)?;
    let attention = LinearAttention::new(&own.device, Config::new(D as u32, D as u32))?;
    let expected = own.run(&attention, 1)?;
    let before = own.buffers()?;
    let [q, k, v] = tensors(1);
    let shape = shape();
    for polls in 0..4 {
        {
            let inputs = Inputs::new(&q, &k, &v);
            let mut run = pin!(attention.run_async(&own.queue, &shape, inputs));
            for _ in 0..polls {
                if run.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
            }
        }
        own.expect_buffers(before, &format!("dropped after {polls} polls"))?;
    }
    if own.run(&attention, 1)? != expected {
        return Err(Failed::from("the call after it has other bits"));
    }
    own.expect_nothing_uncaught()
}

/// The objects of a call are freed with the call, also where it was refused, at any step.
fn no_buffer_left(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = Own::new(gpu)?;
    let attention = LinearAttention::new(&own.device, Config::new(D as u32, D as u32))?;
    own.run(&attention, 1)?;
    let before = own.buffers()?;
    let [q, k, v] = tensors(1);
    let run = |shape: &Shape, q: &[f32]| attention.run(&own.queue, shape, Inputs::new(q, &k, &v));
    for i in 0..20 {
        own.run(&attention, i)?;
    }
    own.expect_buffers(before, "after twenty runs")?;
    let stop = |_| ControlFlow::Break(());
    let inputs = Inputs::new(&q, &k, &v);
    let ended = attention.run_with_progress(&own.queue, &shape(), inputs, stop);
    if !matches!(ended, Err(Error::Cancelled { .. })) {
        return Err(Failed::from("a call that was cancelled went on"));
    }
    own.expect_buffers(before, "after a call that was cancelled")?;
    let mut bad = q.clone();
    bad[7] = f32::NAN;
    let refused = [
        run(&shape(), &q[1..]).err(),
        run(&shape(), &bad).err(),
        run(&Shape::new(0, 1, 1), &q).err(),
        run(&shape().with_kv_heads(3), &q).err(),
        run(&shape().with_slots(9), &q).err(),
        run(&Shape::new(u32::MAX, u32::MAX, 1), &q).err(),
    ];
    if let Some(taken) = refused.iter().position(Option::is_none) {
        return Err(Failed::from(format!("call {taken} was taken")));
    }
    own.expect_buffers(before, "after six refusals")?;
    own.expect_nothing_uncaught()
}
