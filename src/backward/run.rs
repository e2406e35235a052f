//! A backward pass on host slices: for tools, tests and first use.

use wgpu::BufferUsages;

use crate::backward::Backward;
use crate::backward::tensors::BackwardTensors;
use crate::bind::weights_buffer::WeightsBuffer;
use crate::device::buffers::{empty_buffer, upload};
use crate::device::readback::Readback;
use crate::device::scope::scoped;
use crate::error::Error;
use crate::plan::F32_SIZE;
use crate::problem::config::Config;
use crate::problem::gradients::{Gradients, OutputGradients};
use crate::problem::io::Inputs;
use crate::problem::shape::{Lens, Shape};
use crate::problem::state;
use crate::problem::tensor::Tensor;

const LABEL: &str = "linear_attention.backward";

const USAGES: BufferUsages =
    BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

impl Backward {
    /// The gradients by all inputs, of slices; blocks until the device is done. It is one
    /// submission.
    ///
    /// # Errors
    ///
    /// Inputs that no call would accept, gradients of other lengths, a shape that
    /// [`Backward::plan`] refuses, or the device's refusal.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let Some((readback, lens)) = self.submit(queue, shape, inputs, gradients)? else {
            return self.of_nothing(shape, inputs, gradients);
        };
        Ok(found(self.config(), (shape, &lens), inputs, readback.wait()?))
    }

    /// The same without blocking: see [`Readback::read`].
    ///
    /// # Errors
    ///
    /// As [`Backward::run`]; or there is no thread to be had.
    pub async fn run_async(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let Some((readback, lens)) = self.submit(queue, shape, inputs, gradients)? else {
            return self.of_nothing(shape, inputs, gradients);
        };
        Ok(found(self.config(), (shape, &lens), inputs, readback.read().await?))
    }

    /// A call without tokens passes the gradients of its final states through.
    fn of_nothing(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let lens = shape.lens(self.config())?;
        let of = |slice: Option<&[f32]>, len: u64| {
            slice.filter(|_| len > 0).map_or_else(|| vec![0.0; len as usize], <[f32]>::to_vec)
        };
        let zeros = |like: Option<&[f32]>| vec![0.0; like.map_or(0, <[f32]>::len)];
        let weights = inputs.gate_weights;
        let [key_weights, query_weights] = of_maps(self.config(), inputs, &[]);
        Ok(Gradients {
            decay: zeros(inputs.decay),
            beta: zeros(inputs.beta),
            a_log: zeros(weights.map(|weights| weights.a_log)),
            dt_bias: zeros(weights.map(|weights| weights.dt_bias)),
            mu: of(gradients.mu, lens.mu),
            nu: of(gradients.nu, lens.nu),
            key_weights,
            query_weights,
            ..Gradients::default()
        })
    }

    /// `None` where there are no tokens.
    fn submit(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Option<(Readback, Lens)>, Error> {
        let (device, config) = (self.device(), self.config());
        let plan = self.plan(shape)?;
        let lens = *plan.lens();
        inputs.check(config, shape)?;
        gradients.check(config, &lens)?;
        if shape.batch as usize * shape.seq_len as usize == 0 {
            return Ok(None);
        }
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some(LABEL) };
        let mut encoder = device.create_command_encoder(&descriptor);
        let maps = inputs.weights;
        let maps = maps
            .map(|weights| WeightsBuffer::upload(device, &mut encoder, config, weights))
            .transpose()?;
        let mut bytes =
            |label: &str, bytes: &[u8]| upload(device, &mut encoder, label, bytes, USAGES);
        let mut tensor =
            |tensor: Tensor, data: &[f32]| bytes(tensor.name(), &tensor.dtype(config).encode(data));
        let q = tensor(Tensor::Q, inputs.q)?;
        let k = tensor(Tensor::K, inputs.k)?;
        let v = tensor(Tensor::V, inputs.v)?;
        let decay = inputs.decay.map(|data| tensor(Tensor::Decay, data)).transpose()?;
        let beta = inputs.beta.map(|data| tensor(Tensor::Beta, data)).transpose()?;
        let weights = inputs.gate_weights.map(|weights| weights.joined());
        let weights = weights.map(|data| tensor(Tensor::GateWeights, &data)).transpose()?;
        let sequences = shape.sequences() as usize;
        let maps_len = inputs.weights.map_or(0, |weights| weights.heads().size(config) / F32_SIZE);
        let mut f32s = |label: &str, data: &[f32]| bytes(label, bytemuck::cast_slice(data));
        let of_o = f32s("of_o", gradients.o)?;
        let initial = inputs.initial_state.map(|given| state::join(sequences, given.mu, given.nu));
        let initial = initial.map(|data| f32s("initial_state", &data)).transpose()?;
        let of_final = match (gradients.mu, gradients.nu.filter(|_| lens.nu > 0)) {
            (None, None) => None,
            (mu, nu) => {
                let zeros = |len: u64| vec![0.0; len as usize];
                let mu = mu.map_or_else(|| zeros(lens.mu), <[f32]>::to_vec);
                let nu = nu.map_or_else(|| zeros(lens.nu), <[f32]>::to_vec);
                Some(f32s("of_final_state", &state::join(sequences, &mu, &nu))?)
            }
        };
        let empty = |label: &str, len: u64| {
            empty_buffer(device, label, (F32_SIZE * len).max(F32_SIZE), USAGES)
        };
        let [of_q, of_k, of_v] =
            [empty("of_q", lens.q)?, empty("of_k", lens.k)?, empty("of_v", lens.v)?];
        let of_decay = empty("of_decay", lens.decay)?;
        let of_beta = empty("of_beta", lens.beta)?;
        let of_weights = empty("of_gate_weights", lens.gate_weights)?;
        let of_maps = empty("of_weights", maps_len)?;
        let of_initial = empty("of_initial_state", lens.state)?;
        let scratch =
            empty_buffer(device, "linear_attention.scratch", plan.scratch_size(), USAGES)?;
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let mut tensors = BackwardTensors {
            initial_state: initial.as_ref().map(whole),
            of_final_state: of_final.as_ref().map(whole),
            of_initial_state: Some(whole(&of_initial)),
            ..BackwardTensors::new([&q, &k, &v], &of_o, [&of_q, &of_k, &of_v])
        };
        if let Some(decay) = &decay {
            tensors = tensors.with_decay(whole(decay), whole(&of_decay));
        }
        if let Some(beta) = &beta {
            tensors = tensors.with_beta(whole(beta), whole(&of_beta));
        }
        if let Some(weights) = &weights {
            tensors = tensors.with_gate_weights(whole(weights), whole(&of_weights));
        }
        if let Some(maps) = &maps {
            tensors = tensors.with_weights(maps.binding(), Some(whole(&of_maps)));
        }
        let bound = self.bind(&plan, &tensors, whole(&scratch))?;
        self.record(&mut encoder, &bound);
        let read = [
            (&of_q, lens.q),
            (&of_k, lens.k),
            (&of_v, lens.v),
            (&of_decay, lens.decay),
            (&of_beta, lens.beta),
            (&of_weights, lens.gate_weights),
            (&of_maps, maps_len),
            (&of_initial, lens.state),
        ];
        let read = read.map(|(buffer, len)| (buffer, 0, F32_SIZE * len));
        let readback = Readback::record_ranges(device, &mut encoder, &read)?;
        scoped(device, LABEL, || queue.submit([encoder.finish()]))?;
        Ok(Some((readback, lens)))
    }
}

fn found(
    config: &Config,
    (shape, lens): (&Shape, &Lens),
    inputs: Inputs<'_>,
    tensors: Vec<Vec<f32>>,
) -> Gradients<f32> {
    let mut tensors = tensors.into_iter();
    let mut next = || tensors.next().unwrap_or_default();
    let [q, k, v, decay, beta, mut a_log, maps, state] = std::array::from_fn(|_| next());
    let rates = inputs.gate_weights.map_or(0, |weights| weights.a_log.len());
    let dt_bias = a_log.split_off(rates.min(a_log.len()));
    let [key_weights, query_weights] = of_maps(config, inputs, &maps);
    let (mu, nu) = state::split(shape.sequences() as usize, lens.mu as usize, &state);
    Gradients { q, k, v, decay, beta, a_log, dt_bias, mu, nu, key_weights, query_weights }
}

/// Gradients by W and b of keys and of queries, from those that the device has; zero from the end
/// on.
fn of_maps(config: &Config, inputs: Inputs<'_>, found: &[f32]) -> [[Vec<f32>; 2]; 2] {
    inputs.weights.map_or_else(Default::default, |weights| weights.decode(config, found))
}
