//! Buffers, empty and with given bytes.

use wgpu::BufferUsages;

use crate::device::scope::scoped;
use crate::error::DeviceError;

/// A buffer with these bytes, for callers that have no encoder; others take [`upload`].
///
/// wgpu 30 loses the whole device where there is no memory for the staging buffer behind a buffer
/// that is mapped at creation. So this first asks for that memory in a way that costs nothing when
/// it is refused. Fewer than [`PROBED`] bytes come out of a block that wgpu already has.
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
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

/// The same in a browser, where `createBuffer` throws if it finds no memory to map, and wgpu then
/// panics. So the buffer is not mapped, and the device's queue writes it.
#[cfg(all(target_arch = "wasm32", feature = "webgpu"))]
pub(crate) fn init_buffer(
    device: &wgpu::Device,
    label: &str,
    bytes: &[u8],
    usage: BufferUsages,
) -> Result<wgpu::Buffer, DeviceError> {
    let size = bytes.len() as u64;
    let buffer = empty_buffer(device, label, size, usage | BufferUsages::COPY_DST)?;
    match device.as_webgpu() {
        Some(device) => write_with(&device.queue(), &buffer, label, 0, bytes).map(|()| buffer),
        // WebGL has no such handles, and no compute shaders either.
        None => mapped_buffer(device, label, bytes, usage),
    }
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

/// Has the queue write bytes of a buffer before its next submission.
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
pub(crate) fn write_buffer(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    (label, buffer, offset): (&str, &wgpu::Buffer, u64),
    bytes: &[u8],
) -> Result<(), DeviceError> {
    probe(device, label, bytes.len() as u64)?;
    scoped(device, label, || queue.write_buffer(buffer, offset, bytes))
}

/// The same in a browser, where the write throws if there is no memory for a copy of the bytes.
#[cfg(all(target_arch = "wasm32", feature = "webgpu"))]
pub(crate) fn write_buffer(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    (label, buffer, offset): (&str, &wgpu::Buffer, u64),
    bytes: &[u8],
) -> Result<(), DeviceError> {
    match queue.as_webgpu() {
        Some(queue) => write_with(queue, buffer, label, offset, bytes),
        None => scoped(device, label, || queue.write_buffer(buffer, offset, bytes)),
    }
}

#[cfg(all(target_arch = "wasm32", feature = "webgpu"))]
fn write_with(
    queue: &wgpu::webgpu::GpuQueue,
    buffer: &wgpu::Buffer,
    label: &str,
    offset: u64,
    bytes: &[u8],
) -> Result<(), DeviceError> {
    let buffer = buffer.as_webgpu();
    let buffer = buffer.ok_or_else(|| DeviceError::new(label, "not a buffer of WebGPU"))?;
    // Below 2^53, as every size that a device allows.
    let written = queue.write_buffer_with_f64_and_u8_slice(buffer, offset as f64, bytes);
    written.map_err(|thrown| DeviceError::new(label, format!("{thrown:?}")))
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
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
const PROBED: u64 = 1 << 16;

/// Refuses bytes for which the host's side of the device has no memory. What it had is free again
/// when this returns, so a neighbour that takes it at once is not noticed.
#[cfg(not(all(target_arch = "wasm32", feature = "webgpu")))]
fn probe(device: &wgpu::Device, label: &str, size: u64) -> Result<(), DeviceError> {
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

/// Refuses a size before a browser sees it, for which one beyond 2^53 is no number.
fn check_size(device: &wgpu::Device, label: &str, size: u64) -> Result<(), DeviceError> {
    let required = device.limits().max_buffer_size;
    if size <= required {
        return Ok(());
    }
    let message = format!("at most {required} bytes (max_buffer_size), found {size}");
    Err(DeviceError::new(label, message))
}
