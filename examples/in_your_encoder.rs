//! Attention as a guest: your device, your encoder, and every tensor of three layers a
//! range of one arena. Your own passes run between the layers; all is submitted once.

use std::num::NonZeroU64;

use linear_attention::{Config, Inputs, LinearAttention, Readback, Shape, Tensors};
use linear_attention::{reference, wgpu};
use wgpu::{BufferBinding, BufferUsages};

const LAYERS: usize = 3;

/// The work of an engine between two attentions, made short: from o to the next q, k and v.
/// The arena is one read_write binding, as it is inside the crate: WebGPU refuses a buffer
/// that a dispatch binds both to read and to write.
const BETWEEN: &str = "
    override LEN: u32;
    override STRIDE: u32;
    override OUT: u32; // q, k and v of the next layer are the slots that follow
    @group(0) @binding(0) var<storage, read_write> arena: array<f32>;
    @compute @workgroup_size(64)
    fn between(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x >= LEN) { return; }
        let at = OUT + id.x;
        arena[at + STRIDE] = 2.0 * arena[at];
        arena[at + 2u * STRIDE] = -3.0 * arena[at];
        arena[at + 3u * STRIDE] = arena[at] + 0.5;
    }";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, queue) = open_device()?;
    // One head of many tokens: the sequence is cut into segments, so scratch is needed.
    let (config, shape) = (Config::new(32, 32), Shape::new(1, 2048, 1));
    let attention = LinearAttention::new(&device, config.clone())?;
    let plan = attention.plan(&shape)?;

    // K = V and H = G here, so that all tensors have one length: q, k, v and out of a layer are
    // four slots in a row. Bindings begin at multiples of 256 bytes, which suits every device.
    let len = plan.lens().q;
    let stride = (4 * len).next_multiple_of(256);
    let slot = |layer: usize, tensor: usize| stride * (4 * layer + tensor) as u64;
    let scratch_at = slot(LAYERS, 0);
    let arena = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("arena"),
        size: (scratch_at + plan.scratch_size().max(4)).next_multiple_of(256),
        usage: BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let cut = |offset, len| BufferBinding { buffer: &arena, offset, size: NonZeroU64::new(len) };
    for (tensor, step) in [0.37, 0.61, 0.23].into_iter().enumerate() {
        let data: Vec<f32> = (0..len).map(|i| (i as f32 * step).sin()).collect();
        queue.write_buffer(&arena, slot(0, tensor), bytemuck::cast_slice(&data));
    }

    // One scratch serves all layers, because a queue runs them one after the other.
    let scratch = cut(scratch_at, plan.scratch_size());
    // Whatever can fail fails here, before anything is recorded.
    let mut layers = Vec::with_capacity(LAYERS);
    for layer in 0..LAYERS {
        let [q, k, v, o] = [0, 1, 2, 3].map(|tensor| cut(slot(layer, tensor), 4 * len));
        let tensors = Tensors::from_bindings(q, k, v, o);
        layers.push(attention.bind(&plan, &tensors, Some(scratch.clone()))?);
    }
    let source = wgpu::ShaderSource::Wgsl(BETWEEN.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    // Overrides say where a layer lies, so each pass has a pipeline of its own.
    let mut passes = Vec::with_capacity(LAYERS - 1);
    for layer in 0..LAYERS - 1 {
        let [stride, o] = [stride, slot(layer, 3)].map(|bytes| (bytes / 4) as f64);
        let constants = &[("LEN", len as f64), ("STRIDE", stride), ("OUT", o)];
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("between"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                ..Default::default()
            },
            cache: None,
        });
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: arena.as_entire_binding() }],
        });
        passes.push((pipeline, bind_group));
    }

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for (layer, bound) in layers.iter().enumerate() {
        attention.record(&mut encoder, bound);
        if let Some((pipeline, bind_group)) = passes.get(layer) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bind_group, &[]);
            pass.dispatch_workgroups(len.div_ceil(64) as u32, 1, 1);
        }
    }
    let readback = Readback::record(&device, &mut encoder, &[&arena])?;
    queue.submit([encoder.finish()]);

    let copies = readback.wait()?;
    let mut worst = 0.0f64;
    for layer in 0..LAYERS {
        let begins = [0, 1, 2, 3].map(|tensor| (slot(layer, tensor) / 4) as usize);
        let [q, k, v, o] = begins.map(|begin| &copies[0][begin..begin + len as usize]);
        let expected = reference::recurrent(&config, &shape, Inputs::new(q, k, v))?.o;
        let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
        for (x, y) in o.iter().zip(&expected) {
            // A NaN would be lost in a maximum.
            let error = if x.is_nan() { f64::MAX } else { (f64::from(*x) - y).abs() / largest };
            worst = worst.max(error);
        }
    }
    println!("largest error of {LAYERS} layers: {worst:.1e} of the largest output");
    if worst > 2e-5 { Err("the device disagrees with the reference".into()) } else { Ok(()) }
}

fn open_device() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    println!("on {}", adapter.get_info().name);
    Ok(pollster::block_on(adapter.request_device(&Default::default()))?)
}
