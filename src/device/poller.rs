//! A thread that polls a device for those who wait.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::device::poll::poll;
use crate::error::DeviceError;

/// A thread that polls a device as long as a future in [`Poller::drive`] waits for it, and sleeps
/// otherwise.
///
/// wgpu calls back only where somebody polls the device. A program that does (it renders frames, or
/// has a thread for it) awaits [`Readback::read_polled`](crate::Readback::read_polled) and the like
/// as they are. One that does not makes a poller and keeps it: whatever futures it drives, of this
/// crate or the caller's own, share the one thread. Without either,
/// [`Readback::read`](crate::Readback::read) starts a thread for each wait.
///
/// ```no_run
/// use linear_attention::{Inputs, LinearAttention, Output, Poller, Shape, wgpu};
///
/// async fn both(
///     poller: &Poller, // Poller::new(&device)?
///     attention: &LinearAttention,
///     queue: &wgpu::Queue,
///     shape: &Shape,
///     [first, second]: [Inputs<'_>; 2],
/// ) -> Result<[Output; 2], linear_attention::Error> {
///     let first = poller.drive(attention.run_polled(queue, shape, first)).await??;
///     let second = poller.drive(attention.run_polled(queue, shape, second)).await??;
///     Ok([first, second])
/// }
/// ```
///
/// Dropping it ends the thread and waits for that: some milliseconds, whatever the device still
/// does. The thread blocks in the driver for at most 20 ms at a time, since wgpu makes
/// `wgpu::Buffer::destroy` wait for as long.
#[derive(Debug)]
pub struct Poller {
    shared: Arc<Shared>,
    /// `None` where nobody waits for its end.
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    device: wgpu::Device,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The wakers of the futures that wait, by a number.
    waiting: HashMap<u64, Waker>,
    next: u64,
    /// Counts the times at which a future began to wait, or was polled and still waits.
    asked: u64,
    is_closed: bool,
    failure: Option<DeviceError>,
}

const LABEL: &str = "linear_attention.poller";

/// Bounds of a wait in the driver. It grows with the time waited, so that work that was submitted
/// before other work is noticed an eighth too late at most, and a long wait wakes rarely.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(20);
/// The thread polls an idle device so often for a future that waits on.
const IDLE: Duration = Duration::from_millis(100);

impl Poller {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn new(device: &wgpu::Device) -> Result<Self, DeviceError> {
        let state = Mutex::default();
        let shared = Arc::new(Shared { device: device.clone(), state, changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = Builder::new().name("wgpu-poll".to_owned()).spawn(move || of_thread.work());
        match thread {
            Ok(thread) => Ok(Self { shared, thread: Some(thread) }),
            Err(error) => Err(DeviceError::from_source(LABEL, error)),
        }
    }

    /// A poller for one wait. An executor's thread may drop it, which must not block.
    pub(crate) fn for_one(device: &wgpu::Device) -> Result<Self, DeviceError> {
        let mut poller = Self::new(device)?;
        poller.thread = None;
        Ok(poller)
    }

    /// Awaits `future` while the thread polls the device. The executor polls the future itself, and
    /// only when it has been woken.
    ///
    /// # Errors
    ///
    /// The device was lost: nobody would wake the future any more.
    pub async fn drive<F: Future>(&self, future: F) -> Result<F::Output, DeviceError> {
        let mut future = pin!(future);
        let mut waiting = Waiting { shared: &self.shared, number: None };
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => waiting.wait(context),
        })
        .await
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It has reported a panic of a callback already.
            let _ = thread.join();
        }
    }
}

/// A future that is driven, until it ends or is dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    number: Option<u64>,
}

impl Waiting<'_> {
    fn wait<T>(&mut self, context: &Context<'_>) -> Poll<Result<T, DeviceError>> {
        let mut state = self.shared.lock();
        if let Some(failure) = &state.failure {
            return Poll::Ready(Err(failure.clone()));
        }
        let number = self.number.unwrap_or(state.next);
        if self.number.is_none() {
            self.number = Some(number);
            state.next += 1;
        }
        let before = state.waiting.insert(number, context.waker().clone());
        state.asked += 1;
        self.shared.changed.notify_all();
        // A waker may drop a task, and with it another of these, which takes the lock.
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let waker = self.shared.lock().waiting.remove(&number);
            drop(waker);
        }
    }
}

impl Shared {
    /// No code under the lock can panic half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        /// Wakes every future, also where a caller's callback panics.
        struct Ending<'a>(&'a Shared);
        impl Drop for Ending<'_> {
            fn drop(&mut self) {
                self.0.fail(DeviceError::new(LABEL, "the thread has ended"));
            }
        }
        let _ending = Ending(self);
        // `asked` at the last poll, the time of that change, and whether the device was idle then.
        let (mut last, mut since, mut is_idle) = (0, Instant::now(), false);
        while let Some(asked) = self.next_to_poll(is_idle.then_some(last)) {
            if asked != last {
                (last, since) = (asked, Instant::now());
            }
            let timeout = Some((since.elapsed() / 8).clamp(SHORTEST, LONGEST));
            let wait = wgpu::PollType::Wait { submission_index: None, timeout };
            match poll(&self.device, LABEL, wait) {
                // The callbacks have woken the futures whose work is done.
                Ok(now) => is_idle = now,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Sleeps until there is a reason to poll, and returns `asked`, or `None` once the poller is
    /// closed. If the device was idle after `answered`, only a larger `asked` is a reason; but a
    /// future may wait for work that is submitted later, so the device is polled every [`IDLE`] all
    /// the same.
    fn next_to_poll(&self, answered: Option<u64>) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if state.waiting.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if answered == Some(state.asked) {
                let slept = self.changed.wait_timeout(state, IDLE);
                let timeout;
                (state, timeout) = slept.unwrap_or_else(PoisonError::into_inner);
                if timeout.timed_out() && !state.is_closed {
                    return Some(state.asked);
                }
            } else {
                return Some(state.asked);
            }
        }
    }

    fn fail(&self, failure: DeviceError) {
        let mut state = self.lock();
        state.failure.get_or_insert(failure);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }
}
