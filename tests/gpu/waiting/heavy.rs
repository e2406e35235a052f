//! A call that takes its time.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use linear_attention::feature_map::{Weights, WeightsBuffer};
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{
    Config, Error, FeatureMap, Inputs, LinearAttention, Output, Readback, Shape, States, Tensors,
};

use crate::properties::numbers;
use crate::trust::Own;

/// A call that keeps the device busy for a time and whose tensors are small: so many features that
/// nothing else counts.
pub(super) struct Heavy {
    attention: LinearAttention,
    shape: Shape,
    data: [Vec<f32>; 3],
    weights: Option<Weights>,
    expected: Output,
}

impl Heavy {
    pub(super) fn new(own: &Own, time: Duration) -> Result<Self, Failed> {
        let config = Config::new(16, 16).with_feature_map(FeatureMap::Favor { features: 4096 });
        let mut attention = LinearAttention::new(&own.device, config.clone())?;
        let mut weights = Weights::sample(&config, 1)?;
        let mut tokens = 32;
        loop {
            let shape = Shape::new(1, tokens, 1);
            let data = [1, 2, 3].map(|salt| numbers(tokens as usize * 16, salt));
            let expected = Output::zeros(&shape.lens(&config)?);
            let mut heavy = Self { attention, shape, data, weights, expected };
            let begin = Instant::now();
            heavy.expected = heavy.run(own)?;
            let took = begin.elapsed();
            // The first compiles as well.
            if tokens > 32 && took >= time {
                return Ok(heavy);
            }
            let factor = (1.2 * time.as_secs_f64() / took.as_secs_f64()).ceil();
            tokens *= if tokens == 32 { 2 } else { factor.clamp(2.0, 16.0) as u32 };
            (attention, weights) = (heavy.attention, heavy.weights);
        }
    }

    /// The same on another device.
    pub(super) fn like(own: &Own, other: &Self) -> Result<Self, Failed> {
        let attention = LinearAttention::new(&own.device, other.attention.config().clone())?;
        let (shape, data) = (other.shape.clone(), other.data.clone());
        let (weights, expected) = (other.weights.clone(), other.expected.clone());
        let heavy = Self { attention, shape, data, weights, expected };
        // Compiles.
        let plan = heavy.attention.plan(&heavy.shape)?;
        heavy.attention.prepare(&plan, States::Final)?;
        heavy.attention.prepare(&plan, States::None)?;
        Ok(heavy)
    }

    fn inputs(&self) -> Inputs<'_> {
        let [q, k, v] = &self.data;
        Inputs::new(q, k, v).with_weights(&self.weights)
    }

    pub(super) fn run(&self, own: &Own) -> Result<Output, Error> {
        self.attention.run(&own.queue, &self.shape, self.inputs())
    }

    pub(super) async fn run_async(&self, own: &Own) -> Result<(), Error> {
        let output = self.attention.run_async(&own.queue, &self.shape, self.inputs()).await?;
        self.check(&output)
    }

    pub(super) async fn run_polled(&self, own: &Own) -> Result<(), Error> {
        let output = self.attention.run_polled(&own.queue, &self.shape, self.inputs()).await?;
        self.check(&output)
    }

    pub(super) fn check(&self, output: &Output) -> Result<(), Error> {
        if *output == self.expected { Ok(()) } else { Err(Error::HostShape { what: "other bits" }) }
    }

    /// Submits the same work, with a copy of o behind it.
    pub(super) fn submit(&self, own: &Own) -> Result<Readback, Failed> {
        let plan = self.attention.plan(&self.shape)?;
        let [q, k, v] = self.data.each_ref().map(|data| tensor(own, data));
        let o = tensor(own, &self.data[2]);
        let scratch = own.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: plan.scratch_size().max(4),
            usage: BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        let weights = self.weights.as_ref().ok_or("a map without weights")?;
        let weights = WeightsBuffer::new(&own.device, self.attention.config(), weights)?;
        let tensors = Tensors::new(&q, &k, &v, &o).with_weights(weights.binding());
        let scratch = Some(scratch.as_entire_buffer_binding());
        let bound = self.attention.bind(&plan, &tensors, scratch)?;
        let mut encoder = own.device.create_command_encoder(&Default::default());
        self.attention.record(&mut encoder, &bound);
        let readback = Readback::record(&own.device, &mut encoder, &[&o])?;
        own.queue.submit([encoder.finish()]);
        Ok(readback)
    }
}

pub(super) fn tensor(own: &Own, data: &[f32]) -> wgpu::Buffer {
    let buffer = own.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("test"),
        size: 4 * data.len() as u64,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    own.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
    buffer
}
