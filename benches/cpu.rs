//! Work of the host: the reference, planning, binding, recording.
#![allow(missing_docs, reason = "criterion_group makes a function without docs")]

use std::error::Error;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use linear_attention::tuning::Tuning;
use linear_attention::wgpu;
use linear_attention::{Config, Inputs, LinearAttention, Plan, Shape, Tensors, reference};

const DIM: u32 = 32;
const HEADS: u32 = 12;

/// Tokens of each reference: the definition costs their square.
const NAIVE_TOKENS: [u32; 2] = [32, 128];
const TOKENS: [u32; 2] = [128, 512];

fn references(c: &mut Criterion) {
    let config = Config::new(DIM, DIM);
    let mut group = c.benchmark_group("reference");
    group.sample_size(10);
    for tokens in NAIVE_TOKENS {
        measure(&mut group, "naive", tokens, &|shape, inputs| {
            reference::naive(&config, shape, inputs).map(drop)
        });
    }
    for tokens in TOKENS {
        measure(&mut group, "recurrent", tokens, &|shape, inputs| {
            reference::recurrent(&config, shape, inputs).map(drop)
        });
        measure(&mut group, "mirror", tokens, &|shape, inputs| {
            reference::mirror(&config, shape, inputs).map(drop)
        });
    }
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;
type Reference<'a> = &'a dyn Fn(&Shape, Inputs<'_>) -> Result<(), linear_attention::Error>;

fn measure(group: &mut Group<'_>, name: &str, tokens: u32, compute: Reference<'_>) {
    let shape = Shape::new(1, tokens, HEADS);
    let len = tokens * HEADS * DIM;
    let x: Vec<f32> = (0..len).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    group.throughput(Throughput::Elements(tokens.into()));
    group.bench_function(BenchmarkId::new(name, tokens), |b| {
        b.iter(|| compute(&shape, Inputs::new(&x, &x, &x)));
    });
}

fn plan(c: &mut Criterion) {
    let (config, limits) = (Config::new(64, 64), wgpu::Limits::default());
    let shape = Shape::new(1, 16_384, 8);
    let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::Other);
    let plan = |tuning: &Tuning| Plan::new(&config, black_box(&shape), &limits, tuning);
    c.bench_function("Plan::new", |b| b.iter(|| tuning.as_ref().ok().map(plan)));
}

fn device(c: &mut Criterion) {
    if let Err(error) = bind_and_record(c) {
        eprintln!("SKIPPED bind and record: {error}");
    }
}

/// Binding and recording, which need a device but never wait for it.
fn bind_and_record(c: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // As for the tests: OpenGL only where it is asked for, since its drivers compile slowly.
    descriptor.backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
    let instance = wgpu::Instance::new(descriptor);
    let found = wgpu::util::initialize_adapter_from_env_or_default(&instance, None);
    let adapter = pollster::block_on(found)?;
    let (device, _queue) =
        pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    let attention = LinearAttention::new(&device, Config::new(DIM, DIM))?;
    // One head, so that the sequence is cut into segments and every stage is dispatched.
    let plan = attention.plan(&Shape::new(1, 4096, 1))?;
    let buffer = |size| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("linear-attention.bench"),
            size,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let lens = plan.lens();
    let [q, k, v, o] = [lens.q, lens.k, lens.v, lens.o].map(|len| buffer(4 * len));
    let scratch = buffer(plan.scratch_size().max(4));
    let tensors = Tensors::new(&q, &k, &v, &o);
    let scratch = Some(scratch.as_entire_buffer_binding());
    let bound = attention.bind(&plan, &tensors, scratch.clone())?;
    c.bench_function("bind", |b| {
        b.iter(|| attention.bind(&plan, &tensors, scratch.clone()));
    });
    c.bench_function("record", |b| {
        let encoder = || device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        b.iter_batched_ref(
            encoder,
            |encoder| attention.record(encoder, &bound),
            criterion::BatchSize::PerIteration,
        );
    });
    c.bench_function("record and finish", |b| {
        b.iter(|| {
            let mut encoder = device.create_command_encoder(&Default::default());
            attention.record(&mut encoder, &bound);
            encoder.finish()
        });
    });
    Ok(())
}

criterion_group!(benches, references, plan, device);
criterion_main!(benches);
