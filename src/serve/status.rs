//! The number of entries that the shaders ignored.

use wgpu::BufferBinding;

use crate::device::readback::Readback;
use crate::error::DeviceError;

/// The number of entries that the shaders ignored, on its way to the host. It is for
/// [`Sequences::Device`](crate::serve::Sequences::Device) alone: a batch of the host is checked
/// before.
#[derive(Debug)]
pub struct Status {
    readback: Readback,
}

impl Status {
    /// Records a copy of the first word of what is bound as
    /// [`Sequences::Device`](crate::serve::Sequences::Device), whose buffer must have the usage
    /// `COPY_SRC`. The shaders only ever add to it; clear it with
    /// `encoder.clear_buffer(buffer, offset, Some(4))`.
    ///
    /// # Errors
    ///
    /// No memory for the copy.
    pub fn record(
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        sequences: &BufferBinding<'_>,
    ) -> Result<Self, DeviceError> {
        let range = (sequences.buffer, sequences.offset, 4);
        Ok(Self { readback: Readback::record_ranges(device, encoder, &[range])? })
    }

    /// Entries ignored, once the submission that holds the copy has run. It waits as
    /// [`Readback::read`](crate::Readback::read) does.
    ///
    /// # Errors
    ///
    /// The device was lost, or the copy could not be read.
    pub async fn read(self) -> Result<u32, DeviceError> {
        self.readback.read().await.map(|words| count(&words))
    }

    /// The same for a program that polls the device: see
    /// [`Readback::read_polled`](crate::Readback::read_polled).
    ///
    /// # Errors
    ///
    /// As [`Status::read`].
    pub async fn read_polled(self) -> Result<u32, DeviceError> {
        self.readback.read_polled().await.map(|words| count(&words))
    }

    /// The same, blocking this thread until the device is done.
    ///
    /// # Errors
    ///
    /// As [`Status::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self) -> Result<u32, DeviceError> {
        self.readback.wait().map(|words| count(&words))
    }
}

fn count(words: &[Vec<u32>]) -> u32 {
    words.iter().flatten().next().copied().unwrap_or(0)
}
