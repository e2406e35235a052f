//! From a buffer of the device back to the host.

use bytemuck::Pod;
use futures_intrusive::channel::shared::{OneshotReceiver, oneshot_channel};
use wgpu::BufferUsages;

use crate::device::buffers::empty_buffer;
use crate::device::driven::driven;
#[cfg(not(target_arch = "wasm32"))]
use crate::device::poll::poll;
use crate::error::DeviceError;

/// A copy of buffers on its way to the host. Dropping it abandons the copy.
#[derive(Debug)]
pub struct Readback {
    device: wgpu::Device,
    staging: wgpu::Buffer,
    lens: Vec<u64>,
}

const LABEL: &str = "linear_attention.readback";

impl Readback {
    /// Records copies of whole buffers, each with usage `COPY_SRC` and a size that is a
    /// multiple of 4.
    ///
    /// # Errors
    ///
    /// No memory for the staging buffer.
    pub fn record(
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        sources: &[&wgpu::Buffer],
    ) -> Result<Self, DeviceError> {
        let ranges: Vec<_> = sources.iter().map(|source| (*source, 0, source.size())).collect();
        Self::record_ranges(device, encoder, &ranges)
    }

    /// The same of ranges: a buffer, an offset and a size, both multiples of 4.
    ///
    /// # Errors
    ///
    /// As [`Readback::record`].
    pub fn record_ranges(
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        sources: &[(&wgpu::Buffer, u64, u64)],
    ) -> Result<Self, DeviceError> {
        let lens: Vec<u64> = sources.iter().map(|(_, _, len)| *len).collect();
        let usage = BufferUsages::COPY_DST | BufferUsages::MAP_READ;
        let staging = empty_buffer(device, LABEL, lens.iter().sum(), usage)?;
        let mut offset = 0;
        for (source, begin, len) in sources {
            encoder.copy_buffer_to_buffer(source, *begin, &staging, offset, *len);
            offset += len;
        }
        Ok(Self { device: device.clone(), staging, lens })
    }

    /// The copies, one for each source, once the submission that holds them has run.
    ///
    /// It ends on any executor, and nothing spins: where the device is not done at once, a thread
    /// polls it until it is, since wgpu calls back from there alone. A program with a thread or a
    /// loop of its own for that takes [`Readback::read_polled`]. A browser calls back by itself,
    /// and no thread is started.
    ///
    /// The elements are what the caller says they are: f32 for a state, u32 for words, u8 for a
    /// tensor that [`Dtype::decode`](crate::Dtype::decode) takes apart. Where they do not fill a
    /// copy evenly, the last is filled up with zeros.
    ///
    /// # Errors
    ///
    /// The device was lost, the buffer could not be mapped, or there is no thread to be had.
    pub async fn read<T: Pod>(self) -> Result<Vec<Vec<T>>, DeviceError> {
        let device = self.device.clone();
        driven(&device, self.read_polled()).await?
    }

    /// The same for a program that polls the device, or drives this by a
    /// [`Poller`](crate::Poller): it only waits to be woken, and natively for ever where nobody
    /// polls.
    ///
    /// # Errors
    ///
    /// The device was lost, or the buffer could not be mapped.
    pub async fn read_polled<T: Pod>(self) -> Result<Vec<Vec<T>>, DeviceError> {
        match self.map().receive().await {
            Some(Ok(())) => self.take(),
            Some(Err(error)) => Err(DeviceError::from_source(LABEL, error)),
            None => Err(lost()),
        }
    }

    /// The same, blocking this thread until the device is done.
    ///
    /// # Errors
    ///
    /// As [`Readback::read_polled`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait<T: Pod>(self) -> Result<Vec<Vec<T>>, DeviceError> {
        self.wait_by(wgpu::PollType::wait_indefinitely())
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn wait_by<T: Pod>(self, wait: wgpu::PollType) -> Result<Vec<Vec<T>>, DeviceError> {
        let mapped = self.map();
        poll(&self.device, LABEL, wait)?;
        match pollster::block_on(mapped.receive()) {
            Some(Ok(())) => self.take(),
            Some(Err(error)) => Err(DeviceError::from_source(LABEL, error)),
            None => Err(lost()),
        }
    }

    /// The same, blocking until this submission has run, and not those behind it.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait_for<T: Pod>(
        self,
        submission: wgpu::SubmissionIndex,
    ) -> Result<Vec<Vec<T>>, DeviceError> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        self.wait_by(wait)
    }

    /// The channel on which wgpu says that the staging buffer is mapped.
    fn map(&self) -> OneshotReceiver<Result<(), wgpu::BufferAsyncError>> {
        let (sender, receiver) = oneshot_channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver may be gone: its future was dropped.
            let _ = sender.send(result);
        });
        receiver
    }

    fn take<T: Pod>(self) -> Result<Vec<Vec<T>>, DeviceError> {
        let view = self
            .staging
            .get_mapped_range(..)
            .map_err(|error| DeviceError::from_source(LABEL, error))?;
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(self.lens.len());
        for len in &self.lens {
            let bytes = &view[offset as usize..(offset + len) as usize];
            // The mapping need not be aligned for T, so the bytes are copied.
            tensors.push(bytemuck::pod_collect_to_vec(bytes));
            offset += len;
        }
        Ok(tensors)
    }
}

/// Nobody answered, as happens where a device is dropped.
fn lost() -> DeviceError {
    DeviceError::new(LABEL, "the device was lost")
}
