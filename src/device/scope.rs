//! Errors of wgpu, returned to the call that makes an object.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::error::DeviceError;

/// Runs `make` so that an error of wgpu comes back here and not to the caller's error handler;
/// `what` names the object.
///
/// In a browser the answer comes later, when this has returned, and a scope would swallow it. So
/// there is none: the error goes to the scope around the call ([`collect`]) or to the caller's
/// handler.
pub(crate) fn scoped<T>(
    device: &wgpu::Device,
    what: &str,
    make: impl FnOnce() -> T,
) -> Result<T, DeviceError> {
    #[cfg(feature = "mutation")]
    crate::device::failure::count(what)?;
    if cfg!(target_arch = "wasm32") {
        return Ok(make());
    }
    let (made, error) = collect(device, what, make);
    match now(error) {
        Some(Some(error)) => Err(error),
        _ => Ok(made),
    }
}

/// Runs `make`; returns a future of the first error of wgpu in it.
pub(crate) fn collect<T, M: FnOnce() -> T>(
    device: &wgpu::Device,
    what: &str,
    make: M,
) -> (T, impl Future<Output = Option<DeviceError>> + use<T, M>) {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    // A pop takes effect at once, and its answer alone is awaited.
    let (validation, internal, memory) = (validation.pop(), internal.pop(), memory.pop());
    let what = what.to_owned();
    let first = async move {
        let errors = [validation.await, internal.await, memory.await];
        errors.into_iter().flatten().next().map(|error| refused(&what, error))
    };
    (made, first)
}

/// In a browser wgpu's errors belong to one thread, so that only their text is kept.
fn refused(what: &str, error: wgpu::Error) -> DeviceError {
    #[cfg(not(target_arch = "wasm32"))]
    return DeviceError::from_source(what, error);
    #[cfg(target_arch = "wasm32")]
    return DeviceError::new(what, error.to_string());
}

fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
