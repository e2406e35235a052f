//! Waiting for the device costs the waiter no time, on any of the ways to wait; and it ends.

mod cpu_time;
mod heavy;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use linear_attention::serve::{StatePool, Status};
use linear_attention::wgpu::{self, PollType};
use linear_attention::{Config, Error, Inputs, LinearAttention, Poller, Readback, Shape};

use self::cpu_time::{Count, block_on, cpu_time, cpu_time_of_pollers, pollers};
use self::heavy::{Heavy, tensor};
use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;
use crate::trust::Own;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("waiting::costs_no_time", cpu_time::costs_no_time),
    ("waiting::costs_no_time_beside_an_idle_device", cpu_time::beside_an_idle_device),
    ("waiting::a_polled_future_only_waits", a_polled_future_only_waits),
    ("waiting::ends_where_the_device_does", ends_where_the_device_does),
    ("waiting::ends_where_the_driver_loses_the_device", ends_where_the_driver_loses_the_device),
    ("waiting::a_dropped_future_ends_its_thread", a_dropped_future_ends_its_thread),
    ("waiting::one_poller_for_many", one_poller_for_many),
];

const D: usize = 16;

/// It does not poll the device: nothing wakes it until somebody else has.
fn a_polled_future_only_waits(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let small = LinearAttention::new(&own.device, Config::new(D as u32, D as u32))?;
    let shape = Shape::new(1, 40, 1);
    let data = numbers(40 * D, 1);
    let inputs = || Inputs::new(&data, &data, &data);
    let expected = small.run(&own.queue, &shape, inputs())?;
    let count = Arc::new(Count(AtomicU32::new(0), std::thread::current()));
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut run = pin!(small.run_polled(&own.queue, &shape, inputs()));
    for _ in 0..3 {
        if run.as_mut().poll(&mut context).is_ready() {
            return Err("ready, though nobody has polled the device".into());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    if count.0.load(Ordering::Relaxed) != 0 || pollers() != 0 {
        return Err("woken, though nobody has polled the device".into());
    }
    // As a renderer does each frame.
    while count.0.load(Ordering::Relaxed) == 0 {
        own.device.poll(PollType::Poll)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    match run.as_mut().poll(&mut context) {
        Poll::Ready(Ok(output)) if output == expected => Ok(()),
        _ => Err("woken, and not ready, or other bits".into()),
    }
}

/// A device that is lost while a future waits, and before: an error, and no thread is left.
fn ends_where_the_device_does(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let heavy = &Heavy::new(own, Duration::from_millis(300))?;
    let poller = &Poller::new(&own.device)?;
    let run_alone = || block_on("", heavy.run_async(own)).0;
    let run_driven = || block_on("", poller.drive(heavy.run_polled(own))).0?;
    let ended = std::thread::scope(|scope| {
        let (alone, driven) = (scope.spawn(run_alone), scope.spawn(run_driven));
        std::thread::sleep(Duration::from_millis(100));
        own.device.destroy();
        [alone.join(), driven.join()]
    });
    for ended in ended {
        // Work that was submitted before may succeed or fail, but must end.
        match ended {
            Ok(Ok(_) | Err(Error::Device(_))) => {}
            other => return Err(format!("in flight: {other:?}").into()),
        }
    }
    let after = [run_alone(), run_driven()];
    for after in after {
        let Err(Error::Device(_) | Error::Bind(_)) = after else {
            return Err(format!("after: {after:?}").into());
        };
    }
    own.expect_nothing_uncaught()?;
    // The test's own submission is refused as well, where its handler counts it.
    let mut encoder = own.device.create_command_encoder(&Default::default());
    let pool = StatePool::new(&own.device, &Config::new(8, 8), 1, 1)?;
    let status = Status::record(&own.device, &mut encoder, &pool.binding())?;
    own.queue.submit([encoder.finish()]);
    if block_on("", status.read()).0.is_ok() {
        return Err("a status was read from a device that is no more".into());
    }
    Ok(())
}

/// wgpu-core's assertion about an empty queue, which a callback makes here, ends no poller.
fn outlives_a_false_alarm(own: &Own, source: &wgpu::Buffer) -> Result<(), Failed> {
    let poller = Poller::new(&own.device)?;
    let read = || -> Result<Readback, Failed> {
        let mut encoder = own.device.create_command_encoder(&Default::default());
        let readback = Readback::record(&own.device, &mut encoder, &[source])?;
        own.queue.submit([encoder.finish()]);
        Ok(readback)
    };
    for _ in 0..3 {
        let readback = read()?;
        let message =
            String::from("If the queue is empty, the current submission index: on purpose");
        own.queue.on_submitted_work_done(move || std::panic::panic_any(message));
        // Its callback may be lost with the alarm, which is an error and no end.
        if let Err(error) = block_on("", poller.drive(readback.read_polled::<f32>())).0? {
            println!("lost: {error}");
        }
        let values = block_on("", poller.drive(read()?.read_polled::<f32>())).0??;
        assert_eq!(values, [[1.0; 16]]);
    }
    own.expect_nothing_uncaught()
}

/// wgpu panics in `Device::poll` where the driver loses the device. A callback does it here.
fn ends_where_the_driver_loses_the_device(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let source = tensor(own, &[1.0; 16]);
    outlives_a_false_alarm(own, &source)?;
    let lose = || {
        // Not a literal: wgpu's message is none either.
        let message = String::from("Error in Device::poll: on purpose");
        own.queue.on_submitted_work_done(move || std::panic::panic_any(message));
    };
    let mut encoder = own.device.create_command_encoder(&Default::default());
    let readback = Readback::record(&own.device, &mut encoder, &[&source])?;
    own.queue.submit([encoder.finish()]);
    lose();
    if !readback.wait::<f32>().is_err_and(|error| error.message.contains("on purpose")) {
        return Err("wait did not say so".into());
    }
    let poller = Poller::new(&own.device)?;
    lose();
    // Nothing but the loss ends these.
    for _ in 0..2 {
        let never = poller.drive(std::future::pending::<()>());
        if !block_on("", never).0.is_err_and(|error| error.message.contains("on purpose")) {
            return Err("the poller did not say so".into());
        }
    }
    // A panic of the caller's own is not swallowed, nor does it leave anyone waiting.
    let poller = Poller::new(&own.device)?;
    own.queue.on_submitted_work_done(|| panic!("the caller's own, on purpose"));
    let never = poller.drive(std::future::pending::<()>());
    if !block_on("", never).0.is_err_and(|error| error.message.contains("ended")) {
        return Err("the poller did not end".into());
    }
    own.expect_nothing_uncaught()
}

fn a_dropped_future_ends_its_thread(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let heavy = Heavy::new(own, Duration::from_millis(500))?;
    let before = own.buffers()?;
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..4 {
        // An executor that moves tasks between threads takes it.
        let mut run: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(heavy.run_async(own));
        if run.as_mut().poll(&mut context).is_ready() {
            return Err("ready before the device was".into());
        }
        let begin = Instant::now();
        drop(run);
        if begin.elapsed() > Duration::from_millis(250) {
            return Err(format!("dropped in {:?}: it waited", begin.elapsed()).into());
        }
    }
    own.expect_buffers(before, "dropped")?;
    heavy.check(&heavy.run(own)?)?;
    let begin = Instant::now();
    while pollers() > 0 {
        if begin.elapsed() > Duration::from_secs(2) {
            return Err(format!("{} threads still poll", pollers()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    own.expect_nothing_uncaught()
}

/// Futures of this crate and of the caller's in one poller, which sleeps between them and ends
/// soon.
fn one_poller_for_many(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let own = &Own::new(gpu)?;
    let small = &LinearAttention::new(&own.device, Config::new(D as u32, D as u32))?;
    let shape = &Shape::new(1, 40, 1);
    let data = &numbers(40 * D, 1);
    let inputs = || Inputs::new(data, data, data);
    let expected = &small.run(&own.queue, shape, inputs())?;
    let poller = Poller::new(&own.device)?;
    std::thread::scope(|scope| {
        let run = || -> Result<(), Error> {
            for _ in 0..20 {
                let run = poller.drive(small.run_polled(&own.queue, shape, inputs()));
                if block_on("", run).0?? != *expected {
                    return Err(Error::HostShape { what: "other bits" });
                }
            }
            Ok(())
        };
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        runs.into_iter().try_for_each(|run| Ok(run.join().map_err(|_| "a thread panicked")??))
    })
    .map_err(|error: Failed| error)?;
    // The caller's own callback, which nobody has polled for.
    let done = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&done);
    own.queue.on_submitted_work_done(move || seen.store(1, Ordering::Relaxed));
    let own_future = std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        if done.load(Ordering::Relaxed) > 0 { Poll::Ready(()) } else { Poll::Pending }
    });
    block_on("", poller.drive(own_future)).0?;
    if cpu_time("thread-self").is_some() {
        if pollers() != 1 {
            return Err(format!("{} threads poll", pollers()).into());
        }
        let before = cpu_time_of_pollers();
        std::thread::sleep(Duration::from_millis(300));
        let asleep = cpu_time_of_pollers() - before;
        if asleep > Duration::from_millis(1) {
            return Err(format!("it took {asleep:?} where nobody waited").into());
        }
    }
    let heavy = Heavy::new(own, Duration::from_millis(500))?;
    let readback = heavy.submit(own)?;
    let begin = Instant::now();
    drop(poller);
    if begin.elapsed() > Duration::from_millis(250) {
        return Err(format!("it took {:?} to end", begin.elapsed()).into());
    }
    readback.wait::<u32>()?;
    own.expect_nothing_uncaught()
}
