//! Calls on host slices: for tools, tests and first use.

mod call;
pub(crate) mod summary;

use std::ops::ControlFlow;

use crate::attention::LinearAttention;
use crate::device::driven::driven;
use crate::device::scope::collect;
use crate::error::Error;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;
use crate::run::call::{Call, LABEL};

/// The progress of a call on host slices, after each of its submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Submissions that the device has done.
    pub submissions_done: usize,
    /// All of them.
    pub submissions: usize,
    /// The operations of those that are done.
    pub operations_done: u64,
    /// Those of all.
    pub operations: u64,
}

impl LinearAttention {
    /// Uploads the inputs, computes, and returns the output and the final state, blocking
    /// this thread until the device is done.
    ///
    /// No submission has more than [`Tuning::max_operations`](crate::tuning::Tuning), and no more
    /// than two are in flight. A problem that does not bind whole is uploaded, computed and read
    /// back in the parts of [`LinearAttention::split`], so that the device needs memory for two of
    /// them, however long the sequences are.
    ///
    /// # Errors
    ///
    /// Anything a step can refuse, before anything is submitted; or the device's failure.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        self.run_with_progress(queue, shape, inputs, |_| ControlFlow::Continue(()))
    }

    /// The same, calling `on_progress` after each submission, which may cancel the call: then the
    /// device does at most one more submission, nothing is returned, and everything that the call
    /// made is freed.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run`]; [`Error::Cancelled`] where `on_progress` breaks.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run_with_progress(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Output, Error> {
        let mut call = Call::new(self, queue, shape, inputs)?;
        while let Some(oldest) = call.advance()? {
            let found = oldest.wait()?;
            call.take(found, &mut on_progress)?;
        }
        Ok(call.output())
    }

    /// [`LinearAttention::run`] without blocking. It waits for the device as
    /// [`Readback::read`](crate::Readback::read) does: natively a thread polls the device where that
    /// is not done at once.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run`]; or there is no thread to be had.
    pub async fn run_async(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        let go_on = |_| ControlFlow::Continue(());
        self.run_async_with_progress(queue, shape, inputs, go_on).await
    }

    /// [`LinearAttention::run_with_progress`] without blocking, as [`LinearAttention::run_async`].
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run_with_progress`]; or there is no thread to be had.
    pub async fn run_async_with_progress(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
        on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Output, Error> {
        let polled = self.run_polled_with_progress(queue, shape, inputs, on_progress);
        driven(self.device(), polled).await?
    }

    /// [`LinearAttention::run_async`] for a program that polls the device, or drives this by a
    /// [`Poller`](crate::Poller): once submitted it only waits to be woken, and natively for ever
    /// where nobody polls.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run`].
    pub async fn run_polled(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        let go_on = |_| ControlFlow::Continue(());
        self.run_polled_with_progress(queue, shape, inputs, go_on).await
    }

    /// The same, calling `on_progress` as [`LinearAttention::run_with_progress`] does.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run_with_progress`].
    pub async fn run_polled_with_progress(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Output, Error> {
        let device = self.device();
        let mut call = answered(device, || Call::new(self, queue, shape, inputs)).await?;
        while let Some(oldest) = answered(device, || call.advance()).await? {
            let found = oldest.read_polled().await?;
            call.take(found, &mut on_progress)?;
        }
        Ok(call.output())
    }
}

/// Runs `make`, and returns its result or the device's first refusal. Natively each object is
/// answered at once; a browser answers later.
async fn answered<T>(
    device: &wgpu::Device,
    make: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    if !cfg!(target_arch = "wasm32") {
        return make();
    }
    let (made, refused) = collect(device, LABEL, make);
    let refused = refused.await;
    let made = made?;
    match refused {
        Some(refused) => Err(refused.into()),
        None => Ok(made),
    }
}
