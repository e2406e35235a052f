//! Buffers, empty and with given bytes.

use wgpu::BufferUsages;

use crate::device::scope::scoped;
use crate::error::DeviceError;

/// A buffer with these bytes, for callers that have no encoder; others take [`upload`].
///
/// Where the staging buffer that wgpu keeps for a buffer that is mapped at creation finds no memory,
/// wgpu 30 loses the whole device. So that memory is asked for before, in a way that costs nothing
/// when it is refused. Less than [`PROBED`] comes out of a block that wgpu has already.
pub(crate) fn init_buffer(
    device: &wgpu::Device,
    label: &str,
    bytes: &[u8],
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    let size = bytes.len() as u64;
    if size >= PROBED {
        // Both at once, as wgpu will have them.
        let _buffer = empty_buffer(device, label, size, usage | BufferUsages::COPY_DST)?;
        probe(device, label, size)?;
    }
    mapped_buffer(device, label, bytes, usage)
}

/// A buffer with these bytes as soon as `encoder` has run. Nothing is recorded where it is refused.
pub(crate) fn upload(
    device: &wgpu::Device,
    encoder: &mut wgpu::CommandEncoder,
    label: &str,
    bytes: &[u8],
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    if cfg!(target_arch = "wasm32") {
        return init_buffer(device, label, bytes, usage);
    }
    let size = bytes.len() as u64;
    let buffer = empty_buffer(device, label, size, usage | BufferUsages::COPY_DST)?;
    let staged = staging_buffer(device, label, bytes)?;
    encoder.copy_buffer_to_buffer(&staged, 0, &buffer, 0, size);
    Ok(buffer)
}

/// A buffer with these bytes to copy from. Natively it can be mapped itself, so that wgpu needs no
/// staging buffer of its own behind it.
pub(crate) fn staging_buffer(
    device: &wgpu::Device,
    label: &str,
    bytes: &[u8],
) -> Result<wgpu::Buffer, DeviceError> {
    if cfg!(target_arch = "wasm32") {
        return init_buffer(device, label, bytes, BufferUsages::COPY_SRC);
    }
    mapped_buffer(device, label, bytes, BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC)
}

/// A buffer whose contents do not matter.
pub(crate) fn empty_buffer(
    device: &wgpu::Device,
    label: &str,
    size: u64,
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    check_size(device, label, size)?;
    scoped(device, label, || {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        })
    })
}

/// Bytes from which memory is asked for before wgpu is.
const PROBED: u64 = 1 << 16;

/// Refuses bytes for which the host's side of the device has no memory. What it had is free again
/// when this returns, so a neighbour that takes it at once is not noticed.
pub(crate) fn probe(device: &wgpu::Device, label: &str, size: u64) -> Result<(), DeviceError> {
    if size < PROBED || cfg!(target_arch = "wasm32") {
        return Ok(());
    }
    empty_buffer(device, label, size, BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC).map(drop)
}

fn mapped_buffer(
    device: &wgpu::Device,
    label: &str,
    bytes: &[u8],
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    check_size(device, label, bytes.len() as u64)?;
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

/// Before a browser is asked, for which a size beyond 2^53 is no number at all.
fn check_size(device: &wgpu::Device, label: &str, size: u64) -> Result<(), DeviceError> {
    let required = device.limits().max_buffer_size;
    if size <= required {
        return Ok(());
    }
    let message = format!("at most {required} bytes (max_buffer_size), found {size}");
    Err(DeviceError::new(label, message))
}
