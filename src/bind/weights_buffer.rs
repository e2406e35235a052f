//! Weights on the device.

use wgpu::{BufferBinding, BufferUsages};

use crate::device::buffers::{init_buffer, upload, write_buffer};
use crate::error::{Error, WeightsError};
use crate::problem::config::Config;
use crate::problem::feature_map::weights::{WeightHeads, Weights};

/// Weights on the device.
#[derive(Clone, Debug)]
pub struct WeightsBuffer {
    device: wgpu::Device,
    buffer: wgpu::Buffer,
    config: Config,
    heads: WeightHeads,
}

const LABEL: &str = "linear_attention.weights";
const USAGE: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_DST);

impl WeightsBuffer {
    /// Uploads weights.
    ///
    /// # Errors
    ///
    /// As [`Weights::encode`]; or the device's refusal.
    pub fn new(device: &wgpu::Device, config: &Config, weights: &Weights) -> Result<Self, Error> {
        let words = weights.encode(config)?;
        let buffer = init_buffer(device, LABEL, bytemuck::cast_slice(&words), USAGE)?;
        Ok(Self::of(device, buffer, config, weights))
    }

    /// The same, as soon as `encoder` has run.
    pub(crate) fn upload(
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        config: &Config,
        weights: &Weights,
    ) -> Result<Self, Error> {
        let words = weights.encode(config)?;
        let buffer = upload(device, encoder, LABEL, bytemuck::cast_slice(&words), USAGE)?;
        Ok(Self::of(device, buffer, config, weights))
    }

    fn of(device: &wgpu::Device, buffer: wgpu::Buffer, config: &Config, weights: &Weights) -> Self {
        let (device, config, heads) = (device.clone(), config.clone(), weights.heads());
        Self { device, buffer, config, heads }
    }

    /// The binding for [`Tensors::weights`](crate::Tensors::weights).
    #[must_use]
    pub fn binding(&self) -> WeightsBinding<'_> {
        WeightsBinding { buffer: self.buffer.as_entire_buffer_binding(), heads: self.heads }
    }

    /// Replaces the weights, sampled again or trained further: later submissions on `queue` read
    /// the new ones. A state that was computed with the old ones is of no use with the new.
    ///
    /// # Errors
    ///
    /// As [`Weights::encode`]; [`WeightsError::Heads`] where they are of other heads; or the
    /// device's refusal. The old ones are in place then.
    pub fn write(&self, queue: &wgpu::Queue, weights: &Weights) -> Result<(), WeightsError> {
        let words = weights.encode(&self.config)?;
        let (required, actual) = (self.heads, weights.heads());
        for (what, required, actual) in
            [("keys", required.keys, actual.keys), ("queries", required.queries, actual.queries)]
        {
            if required != actual {
                return Err(WeightsError::Heads { what, required: required.to_string(), actual });
            }
        }
        let bytes = bytemuck::cast_slice(&words);
        Ok(write_buffer(&self.device, queue, (LABEL, &self.buffer, 0), bytes)?)
    }
}

/// A buffer of weights, and the heads that have weights of their own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WeightsBinding<'a> {
    /// With usage `STORAGE` and [`WeightHeads::size`] bytes.
    pub buffer: BufferBinding<'a>,
    /// The heads that have weights of their own.
    pub heads: WeightHeads,
}

impl<'a> WeightsBinding<'a> {
    /// A range of the caller's own buffer, laid out as [`WeightHeads`] says.
    #[must_use]
    pub fn new(buffer: BufferBinding<'a>, heads: WeightHeads) -> Self {
        Self { buffer, heads }
    }
}
