//! Buffers, empty and with given bytes.

use wgpu::BufferUsages;

use crate::device::scope::scoped;
use crate::error::DeviceError;

/// A buffer with these bytes.
pub(crate) fn init_buffer(
    device: &wgpu::Device,
    label: &str,
    bytes: &[u8],
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    // In scope as well: without memory there is nothing to map.
    scoped(device, label, || {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.len() as u64,
            usage,
            mapped_at_creation: true,
        });
        buffer
            .get_mapped_range_mut(..)
            .map_err(|error| DeviceError::from_source(label, error))?
            .copy_from_slice(bytes);
        buffer.unmap();
        Ok(buffer)
    })?
}

/// A buffer whose contents do not matter.
pub(crate) fn empty_buffer(
    device: &wgpu::Device,
    label: &str,
    size: u64,
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    scoped(device, label, || {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        })
    })
}
