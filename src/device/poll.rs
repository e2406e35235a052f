//! `wgpu::Device::poll`, whose failures are errors.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::DeviceError;

/// True if the device has nothing left to do; false also where the time is over.
///
/// wgpu 30 has no error for a device that the driver lost: it panics in `Device::poll`. Its
/// callbacks have been called before that. Other panics, of a caller's callback, go on.
pub(crate) fn poll(
    device: &wgpu::Device,
    what: &str,
    poll_type: wgpu::PollType,
) -> Result<bool, DeviceError> {
    match catch_unwind(AssertUnwindSafe(|| device.poll(poll_type))) {
        Ok(Ok(status)) => Ok(status.is_queue_empty()),
        Ok(Err(wgpu::PollError::Timeout)) => Ok(false),
        Ok(Err(error)) => Err(DeviceError::from_source(what, error)),
        Err(panic) => match panic.downcast::<String>() {
            Ok(message) if message.starts_with("Error in Device::poll") => {
                Err(DeviceError::new(what, *message))
            }
            Ok(message) => resume_unwind(message),
            Err(panic) => resume_unwind(panic),
        },
    }
}
