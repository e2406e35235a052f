//! From host slices to host vectors: for tools, tests and first use.

use wgpu::BufferUsages;

use crate::pipeline::scoped;
use crate::readback::Readback;
use crate::{Bound, Error, Lens, LinearAttention, Shape, StateBinding, Tensors};

/// A state as slices: mu `[N,G,F,V]`, nu `[N,G,F]`.
#[derive(Clone, Copy, Debug)]
pub struct StateSlices<'a> {
    /// The accumulated key-value state.
    pub mu: &'a [f32],
    /// The accumulated key state.
    pub nu: &'a [f32],
}

/// The inputs of a call as slices, row-major.
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
}

impl<'a> Inputs<'a> {
    /// From a zero state.
    #[must_use]
    pub fn new(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self { q, k, v, initial: None }
    }

    /// From the state that an earlier call ended with.
    #[must_use]
    pub fn with_initial(self, mu: &'a [f32], nu: &'a [f32]) -> Self {
        Self { initial: Some(StateSlices { mu, nu }), ..self }
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

/// What a call returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// o `[B,T,H,V]`.
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
    mu: wgpu::Buffer,
    nu: wgpu::Buffer,
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
        self.submit(device, queue, shape, inputs)?.wait(device).and_then(output_of)
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
        self.submit(device, queue, shape, inputs)?.read(device).await.and_then(output_of)
    }

    fn submit(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Readback, Error> {
        let plan = self.plan(shape)?;
        inputs.check(plan.lens())?;
        let failed = |message| Error::Device { message };
        let uploaded = scoped(device, || self.upload(device, &plan, inputs)).map_err(failed)??;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
            label: Some("linear_attention.run"),
        });
        self.record(&mut encoder, &uploaded.bound);
        let sources = [&uploaded.out, &uploaded.mu, &uploaded.nu];
        let readback = Readback::record(device, &mut encoder, &sources)?;
        scoped(device, || queue.submit([encoder.finish()])).map_err(failed)?;
        Ok(readback)
    }

    fn upload(
        &self,
        device: &wgpu::Device,
        plan: &crate::Plan,
        inputs: Inputs<'_>,
    ) -> Result<Uploaded, Error> {
        let upload = |label, data: &[f32]| upload(device, label, data);
        let q = upload("linear_attention.q", inputs.q)?;
        let k = upload("linear_attention.k", inputs.k)?;
        let v = upload("linear_attention.v", inputs.v)?;
        let empty = |label, size: u64| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let out = empty("linear_attention.out", 4 * plan.lens().o);
        let scratch = empty("linear_attention.scratch", plan.scratch_size().max(4));
        let mu = empty("linear_attention.final_mu", 4 * plan.lens().mu);
        let nu = empty("linear_attention.final_nu", 4 * plan.lens().nu);
        let initial = match inputs.initial {
            Some(initial) => Some([
                upload("linear_attention.initial_mu", initial.mu)?,
                upload("linear_attention.initial_nu", initial.nu)?,
            ]),
            None => None,
        };
        let state = |mu, nu| StateBinding {
            mu: wgpu::Buffer::as_entire_buffer_binding(mu),
            nu: wgpu::Buffer::as_entire_buffer_binding(nu),
        };
        let tensors = Tensors {
            initial: initial.as_ref().map(|[mu, nu]| state(mu, nu)),
            final_: Some(state(&mu, &nu)),
            ..Tensors::new(&q, &k, &v, &out)
        };
        let bound = self.bind(device, plan, &tensors, scratch.as_entire_buffer_binding())?;
        Ok(Uploaded { out, mu, nu, bound })
    }
}

fn upload(device: &wgpu::Device, label: &str, data: &[f32]) -> Result<wgpu::Buffer, Error> {
    let bytes: &[u8] = bytemuck::cast_slice(data);
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

fn output_of(tensors: Vec<Vec<f32>>) -> Result<Output, Error> {
    match <[Vec<f32>; 3]>::try_from(tensors) {
        Ok([o, mu, nu]) => Ok(Output::new(o, mu, nu)),
        Err(_) => Err(Error::Device { message: "a tensor was not read back".to_owned() }),
    }
}
