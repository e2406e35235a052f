//! Buffers that begin with given bytes.

use wgpu::BufferUsages;

/// A buffer with these bytes. To be called in a [`scoped`](super::scope::scoped), since without
/// memory there is nothing to map.
pub(crate) fn init_buffer(
    device: &wgpu::Device,
    label: &str,
    bytes: &[u8],
    usage: BufferUsages,
) -> Result<wgpu::Buffer, String> {
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: bytes.len() as u64,
        usage,
        mapped_at_creation: true,
    });
    buffer.get_mapped_range_mut(..).map_err(|error| error.to_string())?.copy_from_slice(bytes);
    buffer.unmap();
    Ok(buffer)
}
