//! From host slices to host vectors: for tools, tests and first use.

use std::borrow::Cow;

use wgpu::BufferUsages;

use crate::pipeline::scoped;
use crate::readback::Readback;
use crate::{
    Bound, Config, Dtype, Error, Lens, LinearAttention, Packing, Shape, Split, Tensors, Weights,
    WeightsBuffer,
};

/// A state as slices: mu `[N,G,F,V]`, nu `[N,G,F]`.
#[derive(Clone, Copy, Debug)]
pub struct StateSlices<'a> {
    /// The accumulated key-value state.
    pub mu: &'a [f32],
    /// The accumulated key state.
    pub nu: &'a [f32],
}

/// The inputs of a call as slices, row-major. q, k and v are rounded to
/// [`Config::dtype`](crate::Config::dtype) before anything is computed.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// q `[B,T,H,K]`.
    pub q: &'a [f32],
    /// k `[B,T,G,K]`.
    pub k: &'a [f32],
    /// v `[B,T,G,V]`.
    pub v: &'a [f32],
    /// The state before the first token; `None` is zero.
    pub initial: Option<StateSlices<'a>>,
    /// The weights of the feature maps, where they need any.
    pub weights: Option<&'a Weights>,
}

impl<'a> Inputs<'a> {
    /// From a zero state.
    #[must_use]
    pub fn new(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self { q, k, v, initial: None, weights: None }
    }

    /// From the state that an earlier call ended with.
    #[must_use]
    pub fn with_initial(self, mu: &'a [f32], nu: &'a [f32]) -> Self {
        Self { initial: Some(StateSlices { mu, nu }), ..self }
    }

    /// With the weights of the feature maps.
    #[must_use]
    pub fn with_weights(self, weights: &'a Weights) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// Whether every slice has the length the shape asks for, and every number is finite.
    ///
    /// # Errors
    ///
    /// [`Error::Len`] or [`Error::NonFinite`], naming the first that fails.
    pub fn check(&self, lens: &Lens) -> Result<(), Error> {
        let mut slices = vec![("q", self.q, lens.q), ("k", self.k, lens.k), ("v", self.v, lens.v)];
        if let Some(initial) = self.initial {
            slices.push(("initial_mu", initial.mu, lens.mu));
            slices.push(("initial_nu", initial.nu, lens.nu));
        }
        for (tensor, slice, required) in slices {
            if slice.len() as u64 != required {
                return Err(Error::Len { tensor, required, actual: slice.len() as u64 });
            }
            if let Some(index) = slice.iter().position(|x| !x.is_finite()) {
                let actual = slice[index].to_string();
                return Err(Error::NonFinite { tensor, index: index as u64, actual });
            }
        }
        Ok(())
    }
}

impl Inputs<'_> {
    /// Whether what a dtype stores of q, k and v is finite as well.
    fn check_range(&self, dtype: Dtype) -> Result<(), Error> {
        for (tensor, slice) in [("q", self.q), ("k", self.k), ("v", self.v)] {
            if let Some(index) = slice.iter().position(|x| !dtype.round(*x).is_finite()) {
                let actual = format!("{}, infinite in {}", slice[index], dtype.name());
                return Err(Error::NonFinite { tensor, index: index as u64, actual });
            }
        }
        Ok(())
    }

    /// q, k and v as a dtype stores them.
    pub(crate) fn rounded(&self, dtype: Dtype) -> [Cow<'_, [f32]>; 3] {
        [self.q, self.k, self.v].map(|x| match dtype {
            Dtype::F32 => Cow::Borrowed(x),
            _ => x.iter().map(|x| dtype.round(*x)).collect(),
        })
    }
}

/// What a call returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// o `[B,T,H,V]`, from a device as [`Config::dtype`](crate::Config::dtype) stores it.
    pub o: Vec<f32>,
    /// The final mu `[N,G,F,V]`.
    pub mu: Vec<f32>,
    /// The final nu `[N,G,F]`.
    pub nu: Vec<f32>,
}

impl Output {
    pub(crate) fn new(o: Vec<f32>, mu: Vec<f32>, nu: Vec<f32>) -> Self {
        Self { o, mu, nu }
    }
}

/// The buffers of a call on host slices.
struct Uploaded {
    out: wgpu::Buffer,
    states: wgpu::Buffer,
    bound: Bound,
}

/// mu and nu of N sequences as buffers hold them: for each, mu `[G,F,V]` and then nu `[G,F]`.
///
/// ```
/// use linear_attention::{join_states, split_states};
///
/// let (mu, nu) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0]);
/// let states = join_states(2, &mu, &nu);
/// assert_eq!(states, [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
/// assert_eq!(split_states(2, mu.len(), &states), (mu.to_vec(), nu.to_vec()));
/// ```
#[must_use]
pub fn join_states(sequences: usize, mu: &[f32], nu: &[f32]) -> Vec<f32> {
    let n = sequences.max(1);
    let mut states = Vec::with_capacity(mu.len() + nu.len());
    for (mu, nu) in
        mu.chunks(mu.len().div_ceil(n).max(1)).zip(nu.chunks(nu.len().div_ceil(n).max(1)))
    {
        states.extend_from_slice(mu);
        states.extend_from_slice(nu);
    }
    states
}

/// The reverse of [`join_states`], where `mu_len` elements of `states` are mu's.
#[must_use]
pub fn split_states(sequences: usize, mu_len: usize, states: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = sequences.max(1);
    let mu_len = mu_len / n;
    let (mut mu, mut nu) = (Vec::new(), Vec::new());
    for state in states.chunks(states.len().div_ceil(n).max(1)) {
        let (first, rest) = state.split_at(mu_len.min(state.len()));
        mu.extend_from_slice(first);
        nu.extend_from_slice(rest);
    }
    (mu, nu)
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
        let weights = inputs.weights.map(|w| w.upload(device, self.config())).transpose()?;
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
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: bytes.len() as u64,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
        mapped_at_creation: true,
    });
    buffer
        .get_mapped_range_mut(..)
        .map_err(|error| Error::Device { message: error.to_string() })?
        .copy_from_slice(bytes);
    buffer.unmap();
    Ok(buffer)
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
