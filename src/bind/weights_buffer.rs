//! Weights on the device.

use wgpu::{BufferBinding, BufferUsages};

use crate::device::buffers::init_buffer;
use crate::error::{Error, WeightsError};
use crate::problem::config::Config;
use crate::problem::feature_map::weights::{WeightHeads, Weights};

/// Weights on the device.
#[derive(Clone, Debug)]
pub struct WeightsBuffer {
    buffer: wgpu::Buffer,
    config: Config,
    heads: WeightHeads,
}

impl WeightsBuffer {
    /// Uploads weights.
    ///
    /// # Errors
    ///
    /// As [`Weights::encode`]; or the device's refusal.
    pub fn new(device: &wgpu::Device, config: &Config, weights: &Weights) -> Result<Self, Error> {
        let words = weights.encode(config)?;
        let (label, bytes) = ("linear_attention.weights", bytemuck::cast_slice(&words));
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let buffer = init_buffer(device, label, bytes, usage)?;
        Ok(Self { buffer, config: config.clone(), heads: weights.heads() })
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
    /// As [`Weights::encode`]; [`WeightsError::Heads`] where they are of other heads.
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
        queue.write_buffer(&self.buffer, 0, bytemuck::cast_slice(&words));
        Ok(())
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
