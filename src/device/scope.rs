//! Errors of wgpu, returned to the call that makes an object.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::error::DeviceError;

/// Runs `make` so that an error of wgpu comes back here and not to the caller's error handler;
/// `what` names the object. In a browser the answer comes later; then this has none.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    what: &str,
    make: impl FnOnce() -> T,
) -> Result<T, DeviceError> {
    #[cfg(feature = "mutation")]
    crate::device::failure::count(what)?;
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    let errors = [now(validation.pop()), now(internal.pop()), now(memory.pop())];
    match errors.into_iter().flatten().next() {
        Some(error) => Err(refused(what, error)),
        None => Ok(made),
    }
}

/// In a browser wgpu's errors belong to one thread, so that only their text is kept.
fn refused(what: &str, error: wgpu::Error) -> DeviceError {
    #[cfg(not(target_arch = "wasm32"))]
    return DeviceError::from_source(what, error);
    #[cfg(target_arch = "wasm32")]
    return DeviceError::new(what, error.to_string());
}

fn now<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => None,
    }
}
