//! Problems larger than a binding: a device that was asked for small ones has them soon.

use libtest_mimic::Failed;
use linear_attention::error::{BindError, PlanError};
use linear_attention::shape::TensorStrides;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::wgpu::{self, Limits};
use linear_attention::{Config, Dtype, Inputs, LinearAttention, Shape, Tensors, reference};

use super::Test;
use super::properties::{close, numbers};
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("split::parts_are_the_whole", parts_are_the_whole),
    ("split::parts_of_packed_sequences", parts_of_packed_sequences),
    ("split::parts_of_padded_rows", parts_of_padded_rows),
    ("split::parts_of_strided_rows", parts_of_strided_rows),
];

/// Bytes that the device of this test binds at most.
const BINDING: u64 = 1 << 16;

/// Part of the batch at a time; part of a sequence; both, with heads in groups and states whose
/// size is a multiple of every device's alignment.
fn parts_are_the_whole(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let (decay, beta) = (Decay::per_head(), Beta::per_head());
    let linear = Config::new(16, 16);
    let configs = [
        linear.clone(),
        linear.clone().with_dtype(Dtype::F16),
        linear.with_update_rule(UpdateRule::Gated(Decay::constant())),
        Config::of_rule(16, 16, UpdateRule::GatedDelta(decay, beta)),
    ];
    let shapes = [
        (Shape::new(24, 100, 2), false),
        (Shape::new(1, 5000, 1), true),
        (Shape::new(2, 2560, 8).with_kv_heads(4), true),
    ];
    parts(gpu, &configs, &shapes)
}

/// Whole sequences at a time; and one that is too large alone, between others.
fn parts_of_packed_sequences(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let shapes = [
        (Shape::packed(&[96, 32, 0, 64, 240, 208, 64, 64], 4), false),
        (Shape::packed(&[32, 64, 3008, 32, 0, 8], 4), true),
    ];
    parts(gpu, &[Config::new(16, 16)], &shapes)
}

/// Each part has the valid tokens that are among its own.
fn parts_of_padded_rows(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let valid: Vec<_> = (0..24).map(|n| 3 * n..3 * n + 1 + n).collect();
    let one = 1500..4700;
    let shapes = [
        (Shape::padded(&valid, 100, 2), false),
        (Shape::padded(std::slice::from_ref(&one), 5000, 1), true),
    ];
    parts(gpu, &[Config::new(16, 16)], &shapes)
}

/// Parts begin where their strides say, wherever the device can bind them.
fn parts_of_strided_rows(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(16, 16);
    let fused = |shape: Shape| {
        let mut strides = TensorStrides::fused(&config, &shape);
        strides.o.offset = 5;
        shape.with_strides(strides)
    };
    let heads_first = |shape: Shape| {
        let strides = TensorStrides::heads_first(&config, &shape);
        shape.with_strides(strides)
    };
    let shapes = [
        (fused(Shape::new(23, 100, 2)), false),
        (heads_first(Shape::new(23, 100, 2)), false),
        (fused(Shape::new(1, 4999, 1)), true),
        (fused(Shape::packed(&[33, 64, 3007, 32, 0, 8], 4)), true),
    ];
    parts(gpu, std::slice::from_ref(&config), &shapes)
}

fn parts(gpu: &Gpu, configs: &[Config], shapes: &[(Shape, bool)]) -> Result<(), Failed> {
    let limits = Limits {
        max_storage_buffer_binding_size: BINDING,
        max_buffer_size: 1 << 24,
        ..gpu.adapter.limits()
    };
    let opened = gpu.adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("small bindings"),
        required_limits: limits,
        ..Default::default()
    });
    let (device, queue) = pollster::block_on(opened)?;
    for config in configs {
        let dtype = config.dtype;
        let a = LinearAttention::new(&device, config.clone())?;
        for (shape, cuts) in shapes {
            if !matches!(a.plan(shape), Err(PlanError::TooLarge { .. })) {
                return Err(format!("{shape:?} was to be too large").into());
            }
            let split = a.split(shape)?;
            let is_cut = split.parts().iter().any(|part| part.continues());
            if split.parts().len() < 2 || is_cut != *cuts {
                return Err(format!("{shape:?}: {:?}", split.parts()).into());
            }
            let lens = shape.lens(config)?;
            let [q, mut k, v] = [(lens.q, 1), (lens.k, 2), (lens.v, 3)]
                .map(|(len, salt)| numbers(len as usize, salt));
            let mu = numbers(lens.mu as usize, 4);
            let nu: Vec<f32> = numbers(lens.nu as usize, 5).iter().map(|x| x.abs() + 1.0).collect();
            let rule = config.update_rule;
            if rule.beta().is_some() {
                k.chunks_mut(16).for_each(|row| {
                    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|x| *x /= norm);
                });
            }
            let unit = |len: u64, salt| numbers(len as usize, salt).into_iter().map(|x| x.abs());
            let decay: Vec<f32> = unit(lens.decay, 6).map(|x| -0.05 * x).collect();
            let beta: Vec<f32> = unit(lens.beta, 7).map(|x| 0.5 * x).collect();
            let mut inputs = Inputs::new(&q, &k, &v).with_initial_state(&mu, &nu);
            inputs.decay = rule.decay().map(|_| &decay[..]);
            inputs.beta = rule.beta().map(|_| &beta[..]);
            // `run` splits by itself.
            let found = a.run(&queue, shape, inputs)?;
            let truth = reference::recurrent(config, shape, inputs)?;
            let f32s = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
            let stored: Vec<f32> = f32s(&truth.o).iter().map(|x| dtype.round(*x)).collect();
            match dtype {
                Dtype::F32 => close("o", &stored, &found.o)?,
                _ => {
                    let far = stored.iter().zip(&found.o).find(|(x, y)| (*x - *y).abs() > 2e-3);
                    if let Some(far) = far {
                        return Err(format!("{far:?}").into());
                    }
                }
            }
            close("mu", &f32s(&truth.mu), &found.mu)?;
            close("nu", &f32s(&truth.nu), &found.nu)?;

            // A sequence that is cut needs somewhere to carry its state.
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("test"),
                size: 1 << 22,
                usage: wgpu::BufferUsages::STORAGE,
                mapped_at_creation: false,
            });
            if rule != UpdateRule::Linear {
                continue;
            }
            let at = |n: u64| wgpu::BufferBinding { buffer: &buffer, offset: n << 20, size: None };
            let tensors = Tensors::from_bindings(at(0), at(1), at(2), at(3));
            let bound = a.bind_split(&split, &tensors, Some(at(0)));
            if *cuts && bound.err() != Some(BindError::Missing { tensor: "final_state" }) {
                return Err("a cut sequence without a final state".into());
            }
        }
        // A pool is one binding.
        let pooled = Shape::packed(&[3000, 3000], 2).with_slots(2);
        if !matches!(a.split(&pooled), Err(PlanError::TooLarge { .. })) {
            return Err("sequences of a pool were split".into());
        }
    }
    Ok(())
}
