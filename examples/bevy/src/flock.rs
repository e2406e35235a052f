//! A flock that steers by attention, on a device that belongs to somebody else.
//!
//! A bird is a token: its position is q and k, its heading is v, so that o is the mean heading of
//! the birds near it. A pixel is a token that only asks: its q is its position, and its k is far
//! from everything, so that no other token sees it.

use std::error::Error;
use std::sync::Mutex;

use linear_attention::feature_map::CustomMap;
use linear_attention::update_rule::{Decay, UpdateRule};
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{
    Bound, Config, FeatureMap, Inputs, LinearAttention, Normalization, Readback, Shape, Tensors,
    reference, state,
};

pub const BIRDS: u32 = 1024;
/// Pixels of the field that is asked for, along each side.
pub const PIXELS: u32 = 96;
const TOKENS: u32 = BIRDS + PIXELS * PIXELS;
/// Bumps along each side, and the inverse of twice their squared deviation.
const BUMPS: u32 = 16;
const SHARPNESS: f64 = 280.0;
/// Half of what was seen is forgotten in two to three frames.
const DECAY_OF_A_FRAME: f32 = -0.3;
/// A denominator in which few birds count as little: the field fades where none fly.
const EPS: f32 = 6.0;

/// φ: a grid of bumps over the field, each the higher the nearer the position is. Two positions are
/// alike where they raise the same bumps.
const PHI: &str = "
fn phi(row: Row, feature: u32) -> f32 {
    let at = vec2(x(row, 0u), x(row, 1u));
    let bump = vec2(f32(feature % 16u), f32(feature / 16u)) / 15.0;
    let apart = at - bump;
    return exp(-280.0 * dot(apart, apart));
}
";

fn map() -> Result<FeatureMap, Box<dyn Error>> {
    let map = CustomMap::new("bumps", PHI, BUMPS * BUMPS, |x, _, features| {
        let side = BUMPS as usize;
        for (index, feature) in features.iter_mut().enumerate() {
            let bump = [index % side, index / side].map(|i| i as f64 / (side - 1) as f64);
            let apart = (x[0] - bump[0]).powi(2) + (x[1] - bump[1]).powi(2);
            *feature = (-SHARPNESS * apart).exp();
        }
    })?;
    Ok(FeatureMap::Custom(map.non_negative().into()))
}

/// The tensors of a call, the pass that moves the birds, and the call: all made once.
pub struct Flock {
    attention: LinearAttention,
    bound: Bound,
    shape: Shape,
    fly: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    step: wgpu::Buffer,
    q: wgpu::Buffer,
    /// Positions of the birds, and then of the pixels' keys.
    pub k: wgpu::Buffer,
    /// Headings of the birds, and then zeros.
    pub v: wgpu::Buffer,
    decay: wgpu::Buffer,
    state: wgpu::Buffer,
    /// Mean headings around the birds, and then around the pixels.
    pub o: wgpu::Buffer,
    frame: Mutex<u32>,
}

impl Flock {
    /// Allocates, compiles and binds everything: nothing of that is left for a frame.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Result<Self, Box<dyn Error>> {
        let config = Config::new(2, 2)
            .with_update_rule(UpdateRule::Gated(Decay::per_head()))
            .with_feature_map(map()?)
            .with_normalization(Normalization::Sum { eps: EPS });
        let attention = LinearAttention::new(device, config)?;
        let shape = Shape::new(1, TOKENS, 1);
        let plan = attention.plan(&shape)?;
        if !plan.updates_in_place() {
            return Err("this device's plan cannot carry the state in one buffer".into());
        }

        let buffer = |label, elements: u64, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 4 * elements.max(1),
                usage: usage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let tensor = |label, elements| buffer(label, elements, BufferUsages::STORAGE);
        let lens = plan.lens();
        let [q, k, v, o] =
            [("q", lens.q), ("k", lens.k), ("v", lens.v), ("o", lens.o)].map(|(x, y)| tensor(x, y));
        let decay = tensor("decay", lens.decay);
        // wgpu makes buffers of zeros: the flock has seen nothing yet.
        let state = tensor("state", plan.state_size() / 4);
        let scratch = tensor("scratch", plan.scratch_size() / 4);
        let step = buffer("step", 2, BufferUsages::UNIFORM);

        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let tensors = Tensors::new(&q, &k, &v, &o)
            .with_decay(whole(&decay))
            .with_initial_state(whole(&state))
            .with_final_state(whole(&state));
        let bound = attention.bind(&plan, &tensors, Some(whole(&scratch)))?;

        let start = Start::new();
        for (tensor, data) in
            [(&q, &start.q), (&k, &start.k), (&v, &start.v), (&decay, &start.decay)]
        {
            queue.write_buffer(tensor, 0, bytemuck::cast_slice(data));
        }

        let module = device.create_shader_module(wgpu::include_wgsl!("flock.wgsl"));
        let fly = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("fly"),
            layout: None,
            module: &module,
            entry_point: Some("fly"),
            compilation_options: Default::default(),
            cache: None,
        });
        let entries: Vec<_> = [&step, &q, &k, &v, &o]
            .into_iter()
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("fly"),
            layout: &fly.get_bind_group_layout(0),
            entries: &entries,
        });
        let frame = Mutex::new(0);
        Ok(Self { attention, bound, shape, fly, bind_group, step, q, k, v, decay, state, o, frame })
    }

    /// A frame: the birds fly, then attention. It compiles nothing and waits for nothing.
    pub fn record(&self, queue: &wgpu::Queue, encoder: &mut wgpu::CommandEncoder) {
        let Ok(mut frame) = self.frame.lock() else { return };
        *frame = frame.wrapping_add(1);
        queue.write_buffer(&self.step, 0, bytemuck::cast_slice(&[*frame, BIRDS]));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("fly"),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.fly);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(BIRDS.div_ceil(64), 1, 1);
        drop(pass);
        self.attention.record(encoder, &self.bound);
    }

    /// Runs three frames and holds the third to the f64 reference, with the state that it began
    /// with. Returns the largest error over the largest output. It blocks: this is for the time
    /// before the first frame of the host.
    pub fn check(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<f64, Box<dyn Error>> {
        let frame = |buffers: &[&wgpu::Buffer]| -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
            let mut encoder = device.create_command_encoder(&Default::default());
            self.record(queue, &mut encoder);
            let readback = Readback::record(device, &mut encoder, buffers)?;
            queue.submit([encoder.finish()]);
            Ok(readback.wait()?)
        };
        frame(&[&self.o])?;
        let before = frame(&[&self.state])?;
        let after = frame(&[&self.q, &self.k, &self.v, &self.decay, &self.o])?;
        let ([state], [q, k, v, decay, o]) = (&before[..], &after[..]) else {
            return Err("six buffers were read".into());
        };

        let config = self.attention.config();
        let (mu, nu) = state::split(1, self.shape.lens(config)?.mu as usize, state);
        let inputs = Inputs::new(q, k, v).with_decay(decay).with_initial_state(&mu, &nu);
        let expected = reference::recurrent(config, &self.shape, inputs)?.o;
        let error = error(o, &expected);
        if error > 2e-5 {
            let message = format!("o is not that of the f64 reference: it differs by {error:.1e}");
            return Err(message.into());
        }
        Ok(error)
    }
}

/// The tensors before the first frame.
struct Start {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
}

impl Start {
    fn new() -> Self {
        let mut seed = 1u32;
        let mut random = move || {
            seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (seed >> 8) as f32 / (1 << 24) as f32
        };
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for _ in 0..BIRDS {
            let angle = std::f32::consts::TAU * random();
            k.extend([random(), random()]);
            v.extend([angle.cos(), angle.sin()]);
        }
        let mut q = k.clone();
        for y in 0..PIXELS {
            for x in 0..PIXELS {
                q.extend([x, y].map(|i| (i as f32 + 0.5) / PIXELS as f32));
                // All bumps are 0 there, so that the pixel adds nothing to the state.
                k.extend([1000.0; 2]);
                v.extend([0.0; 2]);
            }
        }
        // The first bird's decay ages all that earlier frames left in the state.
        let mut decay = vec![0.0; TOKENS as usize];
        decay[0] = DECAY_OF_A_FRAME;
        Self { q, k, v, decay }
    }
}

/// The largest error over the largest output; infinite where o has a NaN or is all zeros.
fn error(o: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    let errors = o.iter().zip(expected).map(|(x, y)| (f64::from(*x) - y).abs());
    if o.len() != expected.len() || largest == 0.0 || errors.clone().any(f64::is_nan) {
        return f64::INFINITY;
    }
    errors.fold(0.0, f64::max) / largest
}
