//! Attention on a device that belongs to somebody else: buffers and pipelines that are made once,
//! and a frame that only records.

use std::error::Error;

use bytemuck::{Pod, Zeroable};
use egui_wgpu::wgpu::{self, BufferUsages};
use linear_attention::update_rule::{Decay, UpdateRule};
use linear_attention::{
    Bound, Config, FeatureMap, Inputs, LinearAttention, Readback, Shape, Tensors, reference,
};

/// T, the tokens in the window.
pub const TOKENS: u32 = 192;
/// Tokens until the rhythm changes; `SECTION` of scene.wgsl.
const SECTION: u32 = 96;
/// K.
const KEY_DIM: u32 = 16;
/// V: a row of the identity, the signal, and three elements that make it a multiple of four.
const VALUE_DIM: u32 = TOKENS + 4;

/// The feature maps to choose from, with what each makes of a row.
pub const MAPS: [(FeatureMap, &str); 6] = [
    (FeatureMap::Exp, "exp"),
    (FeatureMap::Softmax, "softmax over the row"),
    (FeatureMap::Elu, "elu + 1"),
    (FeatureMap::Relu, "relu"),
    (FeatureMap::ReluSquared, "relu squared"),
    (FeatureMap::Sigmoid, "sigmoid"),
];

/// The values that the sliders change; `Params` of scene.wgsl.
#[derive(Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    pub first: u32,
    tokens: u32,
    width: u32,
    pub selected: u32,
    pub sharpness: f32,
    pub noise: f32,
    pub log_decay: f32,
    pub forgets: f32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            first: 40,
            tokens: TOKENS,
            width: VALUE_DIM,
            selected: 138,
            sharpness: 8.0,
            noise: 0.25,
            log_decay: 0.99f32.ln(),
            forgets: 1.0,
        }
    }
}

impl Params {
    /// The tokens of the window that the marked token has forgotten.
    pub fn forgotten(&self) -> u32 {
        let position = self.first + self.selected;
        let begin = position - position % SECTION;
        if self.forgets > 0.0 { begin.saturating_sub(self.first) } else { 0 }
    }
}

/// The tensors of a call, the pass that writes them, and the call for each feature map.
pub struct Scene {
    params: wgpu::Buffer,
    rows: wgpu::Buffer,
    pub v: wgpu::Buffer,
    decays: wgpu::Buffer,
    pub o: wgpu::Buffer,
    write_tokens: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    shape: Shape,
    calls: Vec<(LinearAttention, Bound)>,
}

impl Scene {
    /// Allocates, compiles and binds everything: nothing of that is left for a frame.
    pub fn new(device: &wgpu::Device, scene: &wgpu::ShaderModule) -> Result<Self, Box<dyn Error>> {
        let buffer = |label, elements: u64, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 4 * elements,
                usage: usage | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let shape = Shape::new(1, TOKENS, 1);
        let lens = shape.lens(&config(&FeatureMap::Exp))?;
        let params = buffer(
            "params",
            (size_of::<Params>() / 4) as u64,
            BufferUsages::UNIFORM | BufferUsages::COPY_DST,
        );
        let rows = buffer("q and k", lens.q, BufferUsages::STORAGE);
        let v = buffer("v", lens.v, BufferUsages::STORAGE);
        let decays = buffer("decays", lens.decay, BufferUsages::STORAGE);
        let o = buffer("o", lens.o, BufferUsages::STORAGE);

        // Queries are the keys here, so that both are one buffer.
        let tensors =
            Tensors::new(&rows, &rows, &v, &o).with_decay(decays.as_entire_buffer_binding());
        let mut calls = Vec::with_capacity(MAPS.len());
        for (map, _) in &MAPS {
            let attention = LinearAttention::new(device, config(map))?;
            let plan = attention.plan(&shape)?;
            let scratch = buffer("scratch", plan.scratch_size().max(4) / 4, BufferUsages::STORAGE);
            let scratch = scratch.as_entire_buffer_binding();
            let bound = attention.bind(&plan, &tensors, Some(scratch))?;
            calls.push((attention, bound));
        }

        let write_tokens = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("write_tokens"),
            layout: None,
            module: scene,
            entry_point: Some("write_tokens"),
            compilation_options: Default::default(),
            cache: None,
        });
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("write_tokens"),
            layout: &write_tokens.get_bind_group_layout(0),
            entries: &[entry(0, &params), entry(1, &rows), entry(2, &v), entry(3, &decays)],
        });
        Ok(Self { params, rows, v, decays, o, write_tokens, bind_group, shape, calls })
    }

    pub fn params(&self) -> &wgpu::Buffer {
        &self.params
    }

    /// A frame: the tokens, then attention over them. It compiles nothing and waits for nothing.
    pub fn record(
        &self,
        queue: &wgpu::Queue,
        encoder: &mut wgpu::CommandEncoder,
        map: usize,
        params: &Params,
    ) {
        queue.write_buffer(&self.params, 0, bytemuck::bytes_of(params));
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("write_tokens"),
            timestamp_writes: None,
        });
        pass.set_pipeline(&self.write_tokens);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(TOKENS.div_ceil(64), 1, 1);
        drop(pass);
        if let Some((attention, bound)) = self.calls.get(map) {
            attention.record(encoder, bound);
        }
    }

    /// Holds what would be shown to the f64 reference, for every map and a few positions of the
    /// sliders, and returns the largest error over the largest output. It blocks: this is for the
    /// time before the first frame.
    pub fn check(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<f64, Box<dyn Error>> {
        let default = Params::default();
        let positions = [
            default,
            Params { sharpness: 12.0, log_decay: 0.9f32.ln(), forgets: 0.0, ..default },
            Params { sharpness: 0.1, noise: 1.0, log_decay: 0.0, first: 1000, ..default },
        ];
        let mut worst = 0.0f64;
        for (map, (attention, _)) in self.calls.iter().enumerate() {
            for params in &positions {
                let mut encoder = device.create_command_encoder(&Default::default());
                self.record(queue, &mut encoder, map, params);
                let buffers = [&self.rows, &self.v, &self.decays, &self.o];
                let readback = Readback::record(device, &mut encoder, &buffers)?;
                queue.submit([encoder.finish()]);
                let copies: Vec<Vec<f32>> = readback.wait()?;
                let [rows, v, decays, o] = &copies[..] else {
                    return Err("four buffers were read".into());
                };
                let inputs = Inputs::new(rows, rows, v).with_decay(decays);
                let expected = reference::recurrent(attention.config(), &self.shape, inputs)?.o;
                worst = worst.max(error(o, &expected));
            }
        }
        if worst > 2e-5 {
            let message = format!("o is not that of the f64 reference: it differs by {worst:.1e}");
            return Err(message.into());
        }
        Ok(worst)
    }
}

fn config(map: &FeatureMap) -> Config {
    Config::new(KEY_DIM, VALUE_DIM)
        .with_update_rule(UpdateRule::Gated(Decay::per_head()))
        .with_feature_map(map.clone())
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

/// A buffer as the entry of a bind group.
pub fn entry(binding: u32, buffer: &wgpu::Buffer) -> wgpu::BindGroupEntry<'_> {
    wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }
}
