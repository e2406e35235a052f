//! What the host spends: the reference, planning, binding, recording.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may panic; criterion_group has no docs"
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use linear_attention::wgpu;
use linear_attention::{Config, Inputs, LinearAttention, Plan, Shape, Tensors, reference};

fn host(c: &mut Criterion) {
    let config = Config::new(32, 32);
    let shape = Shape::new(1, 512, 12);
    let x: Vec<f32> = (0..512 * 12 * 32).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let inputs = Inputs::new(&x, &x, &x);
    let mut group = c.benchmark_group("reference");
    group.sample_size(10);
    group.bench_function("recurrent", |b| b.iter(|| reference::recurrent(&config, &shape, inputs)));
    group.bench_function("chunked", |b| b.iter(|| reference::chunked(&config, &shape, inputs)));
    group.finish();
    let limits = wgpu::Limits::default();
    c.bench_function("Plan::new", |b| b.iter(|| Plan::new(&config, black_box(&shape), &limits)));
}

fn device(c: &mut Criterion) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter =
        pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let Ok(adapter) = adapter else {
        eprintln!("SKIPPED bind and record: no adapter");
        return;
    };
    let (device, _queue) =
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    let attention = LinearAttention::new(&device, Config::new(32, 32)).unwrap();
    let plan = attention.plan(&Shape::new(1, 512, 12)).unwrap();
    let buffer = |size| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let [q, k, v, out] =
        [plan.lens().q, plan.lens().k, plan.lens().v, plan.lens().o].map(|n| buffer(4 * n));
    let scratch = buffer(plan.scratch_size().max(4));
    let tensors = Tensors::new(&q, &k, &v, &out);
    let scratch = scratch.as_entire_buffer_binding();
    c.bench_function("bind", |b| {
        b.iter(|| attention.bind(&device, &plan, &tensors, scratch.clone()).unwrap());
    });
    let bound = attention.bind(&device, &plan, &tensors, scratch).unwrap();
    c.bench_function("record", |b| {
        b.iter(|| {
            let mut encoder =
                device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            attention.record(&mut encoder, &bound);
            encoder.finish()
        });
    });
}

criterion_group!(benches, host, device);
criterion_main!(benches);
