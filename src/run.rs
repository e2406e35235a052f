//! From host slices to host vectors: for tools, tests and first use.

use wgpu::BufferUsages;

use crate::attention::LinearAttention;
use crate::bind::bound::Bound;
use crate::bind::tensors::Tensors;
use crate::bind::weights_buffer::WeightsBuffer;
use crate::device::buffers::init_buffer;
use crate::device::readback::Readback;
use crate::device::scope::scoped;
use crate::error::Error;
use crate::plan::split::Split;
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output, join_states, split_states};
use crate::problem::shape::{Lens, Packing, Shape};

/// The buffers of a call on host slices.
struct Uploaded {
    out: wgpu::Buffer,
    states: wgpu::Buffer,
    bound: Bound,
}

impl LinearAttention {
    /// Uploads the inputs, computes, and returns the output and the final state, blocking
    /// this thread until the device is done.
    ///
    /// # Errors
    ///
    /// Anything a step can refuse, before anything is submitted; or the device's failure.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        let (readback, split) = self.submit(device, queue, shape, inputs)?;
        readback.wait(device).and_then(|tensors| output_of(self.config(), &split, tensors))
    }

    /// The same without blocking: the future polls the device and yields until it is done.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run`].
    pub async fn run_async(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        let (readback, split) = self.submit(device, queue, shape, inputs)?;
        let tensors = readback.read(device).await?;
        output_of(self.config(), &split, tensors)
    }

    fn submit(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<(Readback, Split), Error> {
        if shape.slots.is_some() {
            return Err(Error::HostShape { what: "slots" });
        }
        if matches!(shape.packing, Packing::AtMost { .. }) {
            return Err(Error::HostShape { what: "packed_at_most" });
        }
        // What is too large to bind whole goes in parts.
        let split = self.split(shape)?;
        let lens = shape.lens(self.config())?;
        inputs.check(&lens)?;
        inputs.check_range(self.config().dtype)?;
        let failed = |message| Error::Device { message };
        let uploaded =
            scoped(device, || self.upload(device, &split, &lens, inputs)).map_err(failed)??;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
            label: Some("linear_attention.run"),
        });
        self.record(&mut encoder, &uploaded.bound);
        let sources = [&uploaded.out, &uploaded.states];
        let readback = Readback::record(device, &mut encoder, &sources)?;
        scoped(device, || queue.submit([encoder.finish()])).map_err(failed)?;
        Ok((readback, split))
    }

    fn upload(
        &self,
        device: &wgpu::Device,
        split: &Split,
        lens: &Lens,
        inputs: Inputs<'_>,
    ) -> Result<Uploaded, Error> {
        let dtype = self.config().dtype;
        let rows = |label, data: &[f32]| upload(device, label, &dtype.encode(data));
        let q = rows("linear_attention.q", inputs.q)?;
        let k = rows("linear_attention.k", inputs.k)?;
        let v = rows("linear_attention.v", inputs.v)?;
        let empty = |label, size: u64| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let out = empty("linear_attention.out", dtype.bytes(lens.o));
        let scratch = empty("linear_attention.scratch", split.scratch_size().max(4));
        let states = empty("linear_attention.final", 4 * lens.state);
        let joined =
            |mu: &[f32], nu: &[f32]| join_states(split.shape().sequences() as usize, mu, nu);
        let initial = match inputs.initial {
            Some(initial) => {
                let states = joined(initial.mu, initial.nu);
                Some(upload(device, "linear_attention.initial", bytemuck::cast_slice(&states))?)
            }
            None => None,
        };
        let weights = inputs
            .weights
            .map(|weights| WeightsBuffer::new(device, self.config(), weights))
            .transpose()?;
        let tensors = Tensors {
            weights: weights.as_ref().map(WeightsBuffer::binding),
            initial: initial.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            final_: Some(states.as_entire_buffer_binding()),
            ..Tensors::new(&q, &k, &v, &out)
        };
        let bound = self.bind_split(device, split, &tensors, scratch.as_entire_buffer_binding())?;
        Ok(Uploaded { out, states, bound })
    }
}

fn upload(device: &wgpu::Device, label: &str, bytes: &[u8]) -> Result<wgpu::Buffer, Error> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
    init_buffer(device, label, bytes, usage).map_err(|message| Error::Device { message })
}

fn output_of(config: &Config, split: &Split, tensors: Vec<Vec<f32>>) -> Result<Output, Error> {
    let lens = split.shape().lens(config)?;
    let sequences = split.shape().sequences() as usize;
    match <[Vec<f32>; 2]>::try_from(tensors) {
        Ok([o, states]) => {
            let (mu, nu) = split_states(sequences, lens.mu as usize, &states);
            Ok(Output::new(config.dtype.decode(&o, lens.o as usize), mu, nu))
        }
        Err(_) => Err(Error::Device { message: "a tensor was not read back".to_owned() }),
    }
}
