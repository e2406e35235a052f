//! From host slices to host vectors: for tools, tests and first use.

use wgpu::BufferUsages;

use crate::attention::LinearAttention;
use crate::bind::bound::Bound;
use crate::bind::tensors::Tensors;
use crate::bind::weights_buffer::WeightsBuffer;
use crate::device::buffers::{empty_buffer, upload};
use crate::device::driven::driven;
use crate::device::readback::Readback;
use crate::device::scope::{collect, scoped};
use crate::error::Error;
use crate::plan::split::Split;
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::{Lens, Packing, Shape};
use crate::problem::state;
use crate::problem::tensor::Tensor;

/// The buffers of a call on host slices.
struct Uploaded {
    o: wgpu::Buffer,
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
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        let (readback, split) = self.submit(queue, shape, inputs)?;
        output_of(self.config(), &split, readback.wait()?)
    }

    /// The same without blocking. It waits for the device as [`Readback::read`] does: natively a
    /// thread polls the device where that is not done at once.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run`]; or there is no thread to be had.
    pub async fn run_async(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        driven(self.device(), self.run_polled(queue, shape, inputs)).await?
    }

    /// The same for a program that polls the device, or drives this by a
    /// [`Poller`](crate::Poller): once submitted it only waits to be woken, and natively for ever
    /// where nobody polls.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run_async`].
    pub async fn run_polled(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Output, Error> {
        let submit = || self.submit(queue, shape, inputs);
        // Natively each object has its answer at once. A browser has them all later.
        let (submitted, refused) = if cfg!(target_arch = "wasm32") {
            let (submitted, refused) = collect(self.device(), "linear_attention.run", submit);
            (submitted, refused.await)
        } else {
            (submit(), None)
        };
        let (readback, split) = submitted?;
        if let Some(refused) = refused {
            return Err(refused.into());
        }
        output_of(self.config(), &split, readback.read_polled().await?)
    }

    fn submit(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<(Readback, Split), Error> {
        if shape.slots.is_some() {
            return Err(Error::HostShape { what: "slots" });
        }
        if matches!(shape.packing, Packing::UpTo { .. }) {
            return Err(Error::HostShape { what: "packed_up_to" });
        }
        // A problem that is too large to bind whole is computed in parts.
        let split = self.split(shape)?;
        let lens = shape.lens(self.config())?;
        inputs.check(self.config(), shape)?;
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor {
            label: Some("linear_attention.run"),
        });
        let uploaded = self.upload(&mut encoder, &split, &lens, inputs)?;
        self.record(&mut encoder, &uploaded.bound);
        let sources = [&uploaded.o, &uploaded.states];
        let readback = Readback::record(self.device(), &mut encoder, &sources)?;
        scoped(self.device(), "linear_attention.run", || queue.submit([encoder.finish()]))?;
        Ok((readback, split))
    }

    fn upload(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        split: &Split,
        lens: &Lens,
        inputs: Inputs<'_>,
    ) -> Result<Uploaded, Error> {
        let (device, dtype) = (self.device(), self.config().dtype);
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let mut rows =
            |label, data: &[f32]| upload(device, encoder, label, &dtype.encode(data), usage);
        let q = rows("linear_attention.q", inputs.q)?;
        let k = rows("linear_attention.k", inputs.k)?;
        let v = rows("linear_attention.v", inputs.v)?;
        let mut gate = |tensor: Tensor, data: Option<&[f32]>| {
            let bytes = data.map(|data| tensor.dtype(self.config()).encode(data));
            let buffer = |bytes: std::borrow::Cow<'_, [u8]>| {
                upload(device, encoder, tensor.name(), &bytes, usage)
            };
            bytes.map(buffer).transpose()
        };
        let decay = gate(Tensor::Decay, inputs.decay)?;
        let beta = gate(Tensor::Beta, inputs.beta)?;
        let gate_weights = inputs.gate_weights.map(|weights| weights.joined());
        let gate_weights = gate(Tensor::GateWeights, gate_weights.as_deref())?;
        let empty = |label, size: u64| empty_buffer(device, label, size, usage);
        let o = empty("linear_attention.o", dtype.bytes(lens.o))?;
        let scratch = empty("linear_attention.scratch", split.scratch_size().max(4))?;
        let states = empty("linear_attention.final_state", 4 * lens.state)?;
        let joined =
            |mu: &[f32], nu: &[f32]| state::join(split.shape().sequences() as usize, mu, nu);
        let initial_state = match inputs.initial_state {
            Some(initial_state) => {
                let states = joined(initial_state.mu, initial_state.nu);
                let (label, bytes) =
                    ("linear_attention.initial_state", bytemuck::cast_slice(&states));
                Some(upload(device, encoder, label, bytes, usage)?)
            }
            None => None,
        };
        let weights = inputs
            .weights
            .map(|weights| WeightsBuffer::upload(device, encoder, self.config(), weights))
            .transpose()?;
        let tensors = Tensors {
            weights: weights.as_ref().map(WeightsBuffer::binding),
            decay: decay.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            beta: beta.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            gate_weights: gate_weights.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            initial_state: initial_state.as_ref().map(wgpu::Buffer::as_entire_buffer_binding),
            final_state: Some(states.as_entire_buffer_binding()),
            ..Tensors::new(&q, &k, &v, &o)
        };
        let bound = self.bind_split(split, &tensors, Some(scratch.as_entire_buffer_binding()))?;
        Ok(Uploaded { o, states, bound })
    }
}

/// From the bytes of o and of the states.
fn output_of(config: &Config, split: &Split, tensors: Vec<Vec<u8>>) -> Result<Output, Error> {
    let lens = split.shape().lens(config)?;
    let sequences = split.shape().sequences() as usize;
    // There are as many as were recorded.
    let [o, states] = <[Vec<u8>; 2]>::try_from(tensors).unwrap_or_default();
    let states: Vec<f32> = bytemuck::pod_collect_to_vec(&states);
    let (mu, nu) = state::split(sequences, lens.mu as usize, &states);
    Ok(Output::new(config.dtype.decode(&o, lens.o as usize), mu, nu))
}
