//! The peak rates of a device, measured in the same run as its kernels.

use linear_attention::wgpu::{
    self, BindGroup, BufferUsages, ComputePipeline, Device, DeviceType, ShaderSource,
};

use crate::{MeasureError, Timer};

/// The best rates that simple kernels reach.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ceilings {
    /// Bytes read and written a second by a copy.
    pub bytes: f64,
    /// Operations a second of f32 multiply-adds, two to each.
    pub flops: f64,
}

/// As in `ceilings.wgsl`.
const THREADS: u64 = 256;
const COPIES: u64 = 4;
const FLOPS_PER_THREAD: u64 = 128 * 8 * 32 * 2;

const MIB: u64 = 1 << 20;

impl Ceilings {
    /// Copies and multiplies on the timer's device, and takes the median of `iterations`.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub fn measure(timer: &Timer<'_>, iterations: usize) -> Result<Self, MeasureError> {
        let device = timer.device();
        let is_software = device.adapter_info().device_type == DeviceType::Cpu;
        // Larger than caches: large GPUs have tens of MiB.
        let wanted = if is_software { 64 * MIB } else { 256 * MIB };
        let limits = device.limits();
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let workgroup_bytes = 16 * THREADS * COPIES;
        let copies = wanted.min(most) / workgroup_bytes;
        let size = copies * workgroup_bytes;
        // Enough threads to fill the device; a software one is full with few.
        let adders: u64 = if is_software { 64 } else { 4096 };

        let [source, target] = ["source", "target"].map(|label| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("linear-attention.ceilings"),
            source: ShaderSource::Wgsl(include_str!("ceilings.wgsl").into()),
        });
        let time = |entry_point: &str, workgroups: u64| {
            let pipeline = pipeline(device, &module, entry_point);
            let group = bind_group(device, &pipeline, [&source, &target]);
            timer.median(iterations, &|pass| {
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(workgroups as u32, 1, 1);
            })
        };
        // A CPU adapter copies whole buffers faster than its kernels can, a GPU not always: the
        // better of both is the peak bandwidth.
        let by_kernel = time("copy", copies)?;
        let by_command = timer.median_by_wall_clock(iterations, &|encoder| {
            encoder.copy_buffer_to_buffer(&source, 0, &target, 0, size);
        })?;
        let bytes = 2.0 * size as f64 / by_kernel.min(by_command);
        let flops = (adders * THREADS * FLOPS_PER_THREAD) as f64 / time("multiply_add", adders)?;
        Ok(Self { bytes, flops })
    }
}

fn pipeline(device: &Device, module: &wgpu::ShaderModule, entry_point: &str) -> ComputePipeline {
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry_point),
        layout: None,
        module,
        entry_point: Some(entry_point),
        compilation_options: Default::default(),
        cache: None,
    })
}

fn bind_group(
    device: &Device,
    pipeline: &ComputePipeline,
    buffers: [&wgpu::Buffer; 2],
) -> BindGroup {
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry {
            binding,
            resource: buffer.as_entire_binding(),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("linear-attention.ceilings"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    })
}
