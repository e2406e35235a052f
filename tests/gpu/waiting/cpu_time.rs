//! The CPU time that a wait costs the thread that waits.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use linear_attention::{LinearAttention, Poller};

use super::heavy::Heavy;
use crate::adapters::Gpu;
use crate::trust::Own;

/// Nanoseconds that a thread has run on a CPU: `thread-self`, or a number of `self/task`.
pub(super) fn cpu_time(thread: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
}

/// The CPU time of all pollers' threads.
pub(super) fn cpu_time_of_pollers() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let thread = format!("self/task/{}", thread.file_name().to_str()?);
        (name.trim() == "wgpu-poll").then(|| cpu_time(&thread)).flatten()
    };
    threads.filter_map(of).sum()
}

pub(super) fn pollers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    threads.filter_map(|thread| name(thread).ok()).filter(|name| name.trim() == "wgpu-poll").count()
}

/// The CPU time of a thread while it blocks on a wait, from its first poll on.
pub(super) struct Measured {
    pub(super) what: &'static str,
    pub(super) waited: Duration,
    pub(super) cpu: Duration,
    pub(super) questions: u32,
}

/// Counts how often it has been woken.
pub(super) struct Count(pub(super) AtomicU32, pub(super) std::thread::Thread);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.unpark();
    }
}

/// Blocks this thread on a future, as an executor does.
pub(super) fn block_on<F: Future>(what: &'static str, future: F) -> (F::Output, Measured) {
    let count = Arc::new(Count(AtomicU32::new(0), std::thread::current()));
    let waker = Waker::from(Arc::clone(&count));
    let mut future = pin!(future);
    // The first question records, uploads and submits.
    let mut result = future.as_mut().poll(&mut Context::from_waker(&waker));
    let (begin, cpu) = (Instant::now(), cpu_time("thread-self"));
    let mut questions = 0;
    let output = loop {
        match result {
            Poll::Ready(output) => break output,
            Poll::Pending => std::thread::park(),
        }
        questions += 1;
        result = future.as_mut().poll(&mut Context::from_waker(&waker));
    };
    let cpu = cpu_time("thread-self").unwrap_or_default() - cpu.unwrap_or_default();
    (output, Measured { what, waited: begin.elapsed(), cpu, questions })
}

type Wait = fn(&Own, &Heavy) -> Result<Measured, Failed>;

/// Four devices, each with most of a second of work, on two cores some five together: the thread
/// that waits for one, each on another way, has next to nothing to do.
pub(super) fn costs_no_time(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    if cpu_time("thread-self").is_none() {
        return crate::runner::skip("there is no /proc to read CPU time from".to_owned());
    }
    let mut devices = Vec::new();
    for _ in 0..4 {
        let own = Own::new(gpu)?;
        // The first says how many tokens it takes.
        let heavy = match devices.first() {
            None => Heavy::new(&own, Duration::from_millis(750))?,
            Some((_, first)) => Heavy::like(&own, first)?,
        };
        devices.push((own, heavy));
    }
    let waits: [Wait; 4] = [
        |own, heavy| {
            let readback = heavy.submit(own)?;
            let (begin, cpu) = (Instant::now(), cpu_time("thread-self"));
            readback.wait::<u32>()?;
            let cpu = cpu_time("thread-self").unwrap_or_default() - cpu.unwrap_or_default();
            Ok(Measured { what: "wait", waited: begin.elapsed(), cpu, questions: 0 })
        },
        |own, heavy| {
            let (result, measured) = block_on("read", heavy.submit(own)?.read::<u32>());
            result.map(|_| measured).map_err(Failed::from)
        },
        |own, heavy| {
            let (result, measured) = block_on("run_async", heavy.run_async(own));
            result.map(|()| measured).map_err(Failed::from)
        },
        |own, heavy| {
            let poller = Poller::new(&own.device)?;
            let run = poller.drive(heavy.run_polled(own));
            let (result, measured) = block_on("run_polled in a poller", run);
            result?.map(|()| measured).map_err(Failed::from)
        },
    ];
    let (measured, polling) = std::thread::scope(|scope| {
        let waits: Vec<_> = waits
            .into_iter()
            .zip(&devices)
            .map(|(wait, (own, heavy))| scope.spawn(move || wait(own, heavy)))
            .collect();
        // Threads that end take their time with them, so that it is looked at on the way.
        let mut polling = Duration::ZERO;
        while !waits.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            polling = polling.max(cpu_time_of_pollers());
            std::thread::sleep(Duration::from_millis(20));
        }
        let panicked = |_| Failed::from("a thread panicked");
        let measured = waits.into_iter().map(|wait| wait.join().map_err(panicked).flatten());
        (measured.collect::<Result<Vec<_>, _>>(), polling)
    });
    println!("CPU time of the threads that polled: {polling:?}");
    for Measured { what, waited, cpu, questions } in measured? {
        println!("{what}: waited {waited:?}, CPU time {cpu:?}, asked {questions} times");
        // Whoever comes first has its device for itself.
        if waited < Duration::from_millis(300) {
            return Err(format!("{what} has waited {waited:?}: not long enough").into());
        }
        // Of run_async and run_polled, what copies the output counts as well.
        if cpu > waited / 50 || questions > 3 {
            return Err(format!("{what}: {cpu:?} of CPU time in {waited:?}").into());
        }
    }
    if polling > Duration::from_millis(150) {
        return Err(format!("the threads that polled took {polling:?}").into());
    }
    devices.iter().try_for_each(|(own, _)| own.expect_nothing_uncaught())
}

/// A future that waits for something else while a poller drives it.
pub(super) fn beside_an_idle_device(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    if cpu_time("thread-self").is_none() {
        return crate::runner::skip("there is no /proc to read CPU time from".to_owned());
    }
    let own = &Own::new(gpu)?;
    let poller = Poller::new(&own.device)?;
    let is_over = Arc::new(AtomicU32::new(0));
    let seconds = Duration::from_secs(2);
    let mut timer = None;
    let future = std::future::poll_fn(|context| {
        if is_over.load(Ordering::Relaxed) > 0 {
            return Poll::Ready(());
        }
        timer.get_or_insert_with(|| {
            let (waker, is_over) = (context.waker().clone(), Arc::clone(&is_over));
            std::thread::spawn(move || {
                std::thread::sleep(seconds);
                is_over.store(1, Ordering::Relaxed);
                waker.wake();
            })
        });
        Poll::Pending
    });
    let (result, Measured { waited, cpu, questions, .. }) = block_on("", poller.drive(future));
    result?;
    let polling = cpu_time_of_pollers();
    println!("waited {waited:?}, CPU time {cpu:?}, of the thread that polled {polling:?}");
    if waited < seconds / 2 || questions > 2 || cpu + polling > seconds / 100 {
        return Err(format!("{cpu:?} and {polling:?} in {waited:?}").into());
    }
    Ok(())
}
