//! From a buffer of the device back to the host.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::device::scope::scoped;
use crate::error::Error;

/// A copy of buffers on its way to the host. Dropping it abandons the copy.
#[derive(Debug)]
pub struct Readback {
    staging: wgpu::Buffer,
    lens: Vec<u64>,
}

impl Readback {
    /// Records copies of whole buffers, each with usage `COPY_SRC` and a size that is a
    /// multiple of 4.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] where the staging buffer cannot be had.
    pub fn record(
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        sources: &[&wgpu::Buffer],
    ) -> Result<Self, Error> {
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
    ) -> Result<Self, Error> {
        let lens: Vec<u64> = sources.iter().map(|(_, _, len)| *len).collect();
        let staging = scoped(device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("linear_attention.readback"),
                size: lens.iter().sum(),
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            })
        })
        .map_err(|message| Error::Device { message })?;
        let mut offset = 0;
        for (source, begin, len) in sources {
            encoder.copy_buffer_to_buffer(source, *begin, &staging, offset, *len);
            offset += len;
        }
        Ok(Self { staging, lens })
    }

    /// The copies as f32, once the submission that holds them has run. Polls the device
    /// itself, so that it ends on any executor and without a thread.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] where the device was lost or the buffer could not be mapped.
    pub async fn read(self, device: &wgpu::Device) -> Result<Vec<Vec<f32>>, Error> {
        let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver may be gone: its future was dropped.
            let _ = sender.send(result);
        });
        let mut mapped = pin!(receiver.receive());
        let result = poll_fn(|context| match mapped.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(result.map(|r| r.map_err(|e| e.to_string()))),
            // A browser calls back by itself, once this has returned to it.
            Poll::Pending if cfg!(target_arch = "wasm32") => Poll::Pending,
            Poll::Pending => match device.poll(wgpu::PollType::Poll) {
                Ok(_) => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Some(Err(error.to_string()))),
            },
        })
        .await;
        match result {
            Some(Ok(())) => self.take(),
            Some(Err(message)) => Err(Error::Device { message }),
            None => Err(Error::Device { message: "the device was lost".to_owned() }),
        }
    }

    /// The same, blocking this thread until the device is done.
    ///
    /// # Errors
    ///
    /// As [`Readback::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self, device: &wgpu::Device) -> Result<Vec<Vec<f32>>, Error> {
        let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
        self.staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|error| Error::Device { message: error.to_string() })?;
        match pollster::block_on(receiver.receive()) {
            Some(Ok(())) => self.take(),
            Some(Err(error)) => Err(Error::Device { message: error.to_string() }),
            None => Err(Error::Device { message: "the device was lost".to_owned() }),
        }
    }

    fn take(self) -> Result<Vec<Vec<f32>>, Error> {
        let view = self
            .staging
            .get_mapped_range(..)
            .map_err(|error| Error::Device { message: error.to_string() })?;
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(self.lens.len());
        for len in &self.lens {
            let bytes = &view[offset as usize..(offset + len) as usize];
            // The mapping need not be aligned for f32, so the bytes are copied.
            tensors.push(bytemuck::pod_collect_to_vec(bytes));
            offset += len;
        }
        Ok(tensors)
    }
}
