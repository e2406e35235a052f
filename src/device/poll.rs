//! `wgpu::Device::poll`, whose failures are errors.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::DeviceError;

/// True if the device has nothing left to do; false also where the time is over.
///
/// wgpu 30 has no error for a device that the driver lost: it panics in `Device::poll`. Its
/// callbacks have been called before that. wgpu-core 30.0.1 asserts that a queue which is empty has
/// done what a wait was for, which is not so where the wait's time was over and another thread
/// polled or submitted in between: then one polls again. A callback that was lost with it is dropped,
/// which ends its future with an error. Other panics, of a caller's callback, go on.
pub(crate) fn poll(
    device: &wgpu::Device,
    what: &str,
    poll_type: wgpu::PollType,
) -> Result<bool, DeviceError> {
    let may_time_out = matches!(poll_type, wgpu::PollType::Wait { timeout: Some(_), .. });
    match catch_unwind(AssertUnwindSafe(|| device.poll(poll_type))) {
        Ok(Ok(status)) => Ok(status.is_queue_empty()),
        Ok(Err(wgpu::PollError::Timeout)) => Ok(false),
        Ok(Err(error)) => Err(DeviceError::from_source(what, error)),
        Err(panic) => match panic.downcast::<String>() {
            Ok(message) if message.starts_with("Error in Device::poll") => {
                Err(DeviceError::new(what, *message))
            }
            Ok(message) if may_time_out && message.starts_with("If the queue is empty, the") => {
                Ok(false)
            }
            Ok(message) => resume_unwind(message),
            Err(panic) => resume_unwind(panic),
        },
    }
}
