//! Sixteen-bit numbers: what the shaders read and write, bit for bit.

use libtest_mimic::Failed;
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{Config, Dtype, Error, Inputs, LinearAttention, Readback, Shape};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("half::every_number", every_number),
    ("half::odd_counts", odd_counts),
    ("half::out_of_range", out_of_range),
];

/// Each of the 65,536 numbers through `half_value`, and numbers on and around every boundary
/// between two of them through `half_bits`.
fn every_number(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let main = "
        @group(0) @binding(0) var<storage, read_write> words: array<u32>;
        @compute @workgroup_size(64) fn widen(@builtin(global_invocation_id) id: vec3<u32>) {
            words[id.x] = bitcast<u32>(half_value(words[id.x]));
        }
        @compute @workgroup_size(64) fn narrow(@builtin(global_invocation_id) id: vec3<u32>) {
            words[id.x] = half_bits(bitcast<f32>(words[id.x]));
        }";
    let file = include_str!("../../shaders/rows/half.wgsl");
    let file = file.replace("import constants::{IS_BF16};", "");
    for (dtype, is_bf16) in [(Dtype::F16, false), (Dtype::Bf16, true)] {
        let wgsl = format!("const IS_BF16: bool = {is_bf16};\n{file}\n{main}");
        let all: Vec<u32> = (0..1 << 16).collect();
        let wide = through(gpu, &wgsl, "widen", &all)?;
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
        let expected = dtype.decode(&halves, all.len());
        for (half, (found, expected)) in wide.iter().zip(&expected).enumerate() {
            let found = f32::from_bits(*found);
            if found.to_bits() != expected.to_bits() && !(found.is_nan() && expected.is_nan()) {
                return Err(format!("{dtype:?} {half:#06x}: {found:e}, not {expected:e}").into());
            }
        }

        // Each number, the middle between it and the next, and the neighbours of both.
        let mut tried: Vec<u32> = Vec::new();
        for pair in expected.windows(2).filter(|pair| pair.iter().all(|x| x.is_finite())) {
            let middle = f32::midpoint(pair[0], pair[1]).to_bits();
            for bits in [pair[0].to_bits(), middle] {
                tried.extend([bits.wrapping_sub(1), bits, bits.wrapping_add(1)]);
            }
        }
        // And what is too large, too small, infinite or none.
        for x in [65519.99f32, 65520.0, 1e30, 1e-30, 3.4e38, f32::INFINITY, f32::NAN, 0.0] {
            tried.extend([x.to_bits(), (-x).to_bits()]);
        }
        tried.resize(tried.len().next_multiple_of(64), 0);
        let found = through(gpu, &wgsl, "narrow", &tried)?;
        for (bits, found) in tried.iter().zip(found) {
            let x = f32::from_bits(*bits);
            // Devices may take subnormal f32s for zeros; both are far below either's own.
            if x != 0.0 && x.abs() < f32::MIN_POSITIVE {
                continue;
            }
            let expected =
                u32::from(u16::from_le_bytes([dtype.encode(&[x])[0], dtype.encode(&[x])[1]]));
            let rounded = dtype.decode(&(found as u16).to_ne_bytes(), 1)[0];
            if found != expected && !(x.is_nan() && rounded.is_nan()) {
                return Err(format!("{dtype:?} of {x:e}: {found:#06x}, not {expected:#06x}").into());
            }
        }
    }
    Ok(())
}

/// Words through one entry point.
fn through(gpu: &Gpu, wgsl: &str, entry_point: &str, words: &[u32]) -> Result<Vec<u32>, Failed> {
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("half"),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("half"),
        layout: None,
        module: &module,
        entry_point: Some(entry_point),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("half"),
        size: 4 * words.len() as u64,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(words));
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("half"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(words.len() as u32 / 64, 1, 1);
    }
    let readback = Readback::record(&gpu.device, &mut encoder, &[&buffer])?;
    gpu.queue.submit([encoder.finish()]);
    Ok(readback.wait()?.concat())
}

/// Tensors with an odd number of elements, each row beginning in the middle of a word that the
/// row before ends in.
fn odd_counts(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let config = Config::new(5, 7).with_dtype(dtype);
        let a = LinearAttention::new(&gpu.device, config.clone())?;
        for tokens in [1usize, 3, 19] {
            let [q, k, v] =
                [(5, 1), (5, 2), (7, 3)].map(|(width, salt)| numbers(tokens * width, salt));
            let shape = Shape::new(1, tokens as u32, 1);
            let inputs = Inputs::new(&q, &k, &v);
            let found = a.run(&gpu.queue, &shape, inputs)?;
            let truth = linear_attention::reference::recurrent(&config, &shape, inputs)?;
            for (found, truth) in found.o.iter().zip(&truth.o) {
                let error = (f64::from(*found) - truth).abs();
                let most = dtype.half_ulp(truth.abs().max(f64::from(found.abs()))) + 4e-6;
                if error.is_nan() || error > most {
                    return Err(format!("{dtype:?}, {tokens} tokens: {found} for {truth}").into());
                }
                if dtype.round(*found) != *found {
                    return Err(format!("{found} is no {}", dtype.name()).into());
                }
            }
        }
    }
    Ok(())
}

/// Elements that f16 would make infinite are refused, as infinite ones are.
fn out_of_range(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(1, 1).with_dtype(Dtype::F16);
    let a = LinearAttention::new(&gpu.device, config.clone())?;
    let shape = Shape::new(1, 1, 1);
    let run = |v: f32| a.run(&gpu.queue, &shape, Inputs::new(&[1.0], &[1.0], &[v]));
    match run(70_000.0) {
        Err(Error::NonFinite { tensor: "v", index: 0, .. }) => {}
        other => return Err(format!("{other:?} for 70,000").into()),
    }
    match run(65_504.0)?.o[..] {
        [o] if (o - 65_504.0).abs() <= 32.0 => Ok(()),
        ref other => Err(format!("{other:?} for 65,504").into()),
    }
}
