//! A wait in a program that may not poll the device.

use std::future::Future;

use crate::error::DeviceError;

/// Awaits `future` in a program that may not poll the device: meanwhile a thread does. A browser
/// needs none, since it calls back by itself.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) async fn driven<F: Future>(
    device: &wgpu::Device,
    future: F,
) -> Result<F::Output, DeviceError> {
    use std::future::poll_fn;
    use std::task::Poll;

    let mut future = std::pin::pin!(future);
    let mut ask = async || poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(output) = ask().await {
        return Ok(output);
    }
    // Work that is done already needs no thread.
    crate::device::poll::poll(device, "linear_attention.poller", wgpu::PollType::Poll)?;
    if let Poll::Ready(output) = ask().await {
        return Ok(output);
    }
    crate::device::poller::Poller::for_one(device)?.drive(future).await
}

#[cfg(target_arch = "wasm32")]
pub(crate) async fn driven<F: Future>(
    _device: &wgpu::Device,
    future: F,
) -> Result<F::Output, DeviceError> {
    Ok(future.await)
}
