//! The shaders, on Burn's own device and buffers.

use std::any::Any;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::wgpu::{WgpuOptions, WgpuSetup};
use burn::tensor::{DType, Device, FloatDType, Shape as Dims};
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::server::Handle;
use burn_cubecl::cubecl::wgpu::{AutoCompiler, WgpuResource, WgpuServer};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};
use linear_attention::feature_map::WeightsBinding;
use linear_attention::gradients::{Backward, BackwardPlan, BackwardTensors};
use linear_attention::plan::Split;
use linear_attention::{Config, LinearAttention, Shape, Tensors, wgpu};

use crate::backend::Attend;
use crate::cache::Cache;
use crate::call::Call;
use crate::error::Error;
use crate::host;
use crate::inputs::{Outputs, Parts};

type Server = WgpuServer<AutoCompiler>;

/// The engines of the devices that were registered.
static ENGINES: RwLock<Option<HashMap<CubeDevice, Engine>>> = RwLock::new(None);

#[derive(Clone, Debug)]
enum Engine {
    /// The shaders.
    Gpu(Arc<Gpu>),
    /// The CPU engine.
    Host,
}

/// The state that the calls on a device share.
#[derive(Debug)]
struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Pipelines, of one config each.
    attentions: Mutex<Vec<Arc<LinearAttention>>>,
    splits: Mutex<Cache<Arc<Split>>>,
    /// The same of the backward pass.
    backwards: Mutex<Vec<Arc<Backward>>>,
    plans: Mutex<Cache<Arc<BackwardPlan>>>,
}

/// Initialises a wgpu device of Burn's, and registers it.
///
/// ```no_run
/// let device = linear_attention_burn::init(burn::tensor::Device::wgpu_options())?;
/// # Ok::<(), linear_attention_burn::Error>(())
/// ```
///
/// # Errors
///
/// Burn's refusal: no adapter, or a device that was initialised before.
pub fn init(options: WgpuOptions) -> Result<Device, Error> {
    let (device, setup) =
        options.init_with_setup().map_err(|error| Error::burn("initialise a device", &error))?;
    register(&device, &setup)?;
    Ok(device)
}

/// Registers a wgpu device of Burn's, with the handles that Burn made it with or was given: from
/// now on attention on its tensors runs there. Nothing is compiled yet. A device that was
/// registered before starts anew.
///
/// # Errors
///
/// A device of another backend.
pub fn register(device: &Device, setup: &WgpuSetup) -> Result<(), Error> {
    let gpu = Gpu {
        device: setup.device.clone(),
        queue: setup.queue.clone(),
        attentions: Mutex::default(),
        splits: Mutex::new(Cache::new()),
        backwards: Mutex::default(),
        plans: Mutex::new(Cache::new()),
    };
    insert(device, Engine::Gpu(Arc::new(gpu)))
}

/// Registers any device of the backend Cube, CUDA's among them, for the CPU engine: its tensors are
/// read, the CPU computes, and the outputs are uploaded.
///
/// # Errors
///
/// A device of another backend.
pub fn register_host(device: &Device) -> Result<(), Error> {
    insert(device, Engine::Host)
}

fn insert(device: &Device, engine: Engine) -> Result<(), Error> {
    #[allow(irrefutable_let_patterns, reason = "a Burn of this backend alone has no other device")]
    let DispatchDevice::Cube(device) = device.as_dispatch().clone().inner() else {
        return Err(Error::Registration { actual: format!("{:?}", device.as_dispatch()) });
    };
    let mut engines = ENGINES.write().unwrap_or_else(PoisonError::into_inner);
    engines.get_or_insert_default().insert(device, engine);
    Ok(())
}

fn engine(device: &CubeDevice) -> Result<Engine, Error> {
    let engines = ENGINES.read().unwrap_or_else(PoisonError::into_inner);
    let engine = engines.as_ref().and_then(|engines| engines.get(device));
    engine.cloned().ok_or_else(|| Error::Unregistered { device: format!("{device:?}") })
}

/// Refuses what would fail later, in an operation of which Burn asks no error.
#[cfg(feature = "fusion")]
pub(crate) fn check(device: &CubeDevice, call: &Call) -> Result<(), Error> {
    match engine(device)? {
        Engine::Gpu(gpu) => gpu.split(&call.config, &call.shape).map(drop),
        Engine::Host => Ok(()),
    }
}

impl Attend for CubeBackend {
    fn attend(inputs: Parts<CubeTensor>, call: &Call) -> Result<Outputs<CubeTensor>, Error> {
        match engine(&inputs.q.device)? {
            Engine::Gpu(gpu) => gpu.attend(inputs.map(into_contiguous), call),
            Engine::Host => host::attend::<Self>(inputs, call),
        }
    }

    fn gradients(
        inputs: Parts<CubeTensor>,
        by_outputs: Outputs<CubeTensor>,
        call: &Call,
    ) -> Result<Parts<CubeTensor>, Error> {
        let Engine::Gpu(gpu) = engine(&inputs.q.device)? else {
            return host::gradients::<Self>(inputs, by_outputs, call);
        };
        // The CPU engine does what the shaders do not have or no buffer of the device has room for.
        let Ok((backward, plan)) = gpu.backward(&call.config, &call.shape) else {
            return host::gradients::<Self>(inputs, by_outputs, call);
        };
        let inputs = inputs.map(into_contiguous);
        let by_outputs = by_outputs.map(|x| into_contiguous(to_f32(x)));
        gpu.gradients((&backward, &plan), &inputs, &by_outputs, call)
    }
}

/// In f32, as all gradients are on a device.
fn to_f32(x: CubeTensor) -> CubeTensor {
    match x.dtype {
        DType::F32 => x,
        _ => CubeBackend::float_cast(x, FloatDType::F32),
    }
}

impl Gpu {
    /// The pipelines of a config, and its plan for a shape.
    fn split(
        &self,
        config: &Config,
        shape: &Shape,
    ) -> Result<(Arc<LinearAttention>, Arc<Split>), Error> {
        let mut attentions = self.attentions.lock().unwrap_or_else(PoisonError::into_inner);
        let found = attentions.iter().find(|attention| attention.config() == config);
        let attention = match found {
            Some(attention) => attention.clone(),
            None => {
                let made = Arc::new(LinearAttention::new(&self.device, config.clone())?);
                attentions.push(made.clone());
                made
            }
        };
        drop(attentions);
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(split) = splits.get(config, shape) {
            return Ok((attention, split.clone()));
        }
        let split = Arc::new(attention.split(shape)?);
        splits.insert(config.clone(), shape.clone(), split.clone());
        Ok((attention, split))
    }

    /// The pipelines of a config's backward pass, and its plan for a shape.
    fn backward(
        &self,
        config: &Config,
        shape: &Shape,
    ) -> Result<(Arc<Backward>, Arc<BackwardPlan>), Error> {
        let mut backwards = self.backwards.lock().unwrap_or_else(PoisonError::into_inner);
        let found = backwards.iter().find(|backward| backward.config() == config);
        let backward = match found {
            Some(backward) => backward.clone(),
            None => {
                let made = Arc::new(Backward::new(&self.device, config.clone())?);
                backwards.push(made.clone());
                made
            }
        };
        drop(backwards);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(config, shape) {
            return Ok((backward, plan.clone()));
        }
        let plan = Arc::new(backward.plan(shape)?);
        plans.insert(config.clone(), shape.clone(), plan.clone());
        Ok((backward, plan))
    }

    /// Records and submits the backward pass of a call.
    fn gradients(
        &self,
        (backward, plan): (&Backward, &BackwardPlan),
        inputs: &Parts<CubeTensor>,
        by_outputs: &Outputs<CubeTensor>,
        call: &Call,
    ) -> Result<Parts<CubeTensor>, Error> {
        let (client, device) = (inputs.q.client.clone(), inputs.q.device.clone());
        let found = inputs.as_ref().map(|of| {
            let dims = of.meta.shape().clone();
            let handle = client.empty(dims.num_elements() * DType::F32.size());
            CubeTensor::new_contiguous(client.clone(), device.clone(), dims, handle, DType::F32)
        });
        let scratch = client.empty(plan.scratch_size() as usize);
        let hold = |x: &CubeTensor| hold(&client, x.handle.clone());
        let held = inputs.as_ref().try_map(|_, x| hold(x))?;
        let held_found = found.as_ref().try_map(|_, x| hold(x))?;
        let by_o = hold(&by_outputs.o)?;
        let by_state = by_outputs.state.as_ref().map(hold).transpose()?;
        let scratch = self::hold(&client, scratch)?;

        let from = held.as_ref().map(|held| binding(&held.resource));
        let to = held_found.as_ref().map(|held| binding(&held.resource));
        let mut tensors = BackwardTensors::from_bindings(
            [from.q, from.k, from.v],
            binding(&by_o.resource),
            [to.q, to.k, to.v],
        );
        (tensors.decay, tensors.of_decay) = (from.decay, to.decay);
        (tensors.beta, tensors.of_beta) = (from.beta, to.beta);
        (tensors.initial_state, tensors.of_initial_state) = (from.initial_state, to.initial_state);
        tensors.weights = from.weights.map(|buffer| WeightsBinding::new(buffer, call.weight_heads));
        tensors.of_weights = to.weights;
        tensors.of_final_state = by_state.as_ref().map(|held| binding(&held.resource));
        let bound = backward.bind(plan, &tensors, binding(&scratch.resource))?;
        client.flush().map_err(|error| Error::burn("submit its work", &error))?;
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("linear_attention") };
        let mut encoder = self.device.create_command_encoder(&descriptor);
        backward.record(&mut encoder, &bound);
        self.queue.submit([encoder.finish()]);
        let dtypes = inputs.as_ref().map(|x| x.dtype);
        Ok(Parts {
            q: cast(found.q, dtypes.q),
            k: cast(found.k, dtypes.k),
            v: cast(found.v, dtypes.v),
            decay: found.decay.zip(dtypes.decay).map(|(x, dtype)| cast(x, dtype)),
            beta: found.beta.zip(dtypes.beta).map(|(x, dtype)| cast(x, dtype)),
            initial_state: found.initial_state,
            weights: found.weights,
        })
    }

    /// Records and submits the call behind all that Burn has recorded so far.
    fn attend(&self, inputs: Parts<CubeTensor>, call: &Call) -> Result<Outputs<CubeTensor>, Error> {
        let (attention, split) = self.split(&call.config, &call.shape)?;
        let (client, device) = (inputs.q.client.clone(), inputs.q.device.clone());
        let empty = |dims: Dims, dtype: DType| {
            let handle = client.empty(dims.num_elements() * dtype.size());
            CubeTensor::new_contiguous(client.clone(), device.clone(), dims, handle, dtype)
        };
        let dims = call.output_dims();
        let outputs = Outputs {
            o: empty(dims.o, call.dtype()),
            state: dims.state.map(|dims| empty(dims, DType::F32)),
        };
        let scratch_size = split.scratch_size() as usize;
        let scratch = (scratch_size > 0).then(|| client.empty(scratch_size));
        // A sequence in parts goes from part to part in a state, which the caller may not want.
        let carried = (split.carries_state() && outputs.state.is_none())
            .then(|| client.empty(4 * call.lens.state as usize));

        // Memory that is held is not given away before the call was submitted, and what reuses it
        // after that is submitted later, to the same queue.
        let held = inputs.try_map(|_, x| hold(&client, x.handle))?;
        let held_o = hold(&client, outputs.o.handle.clone())?;
        let state = outputs.state.as_ref().map(|state| state.handle.clone()).or(carried);
        let held_state = state.map(|state| hold(&client, state)).transpose()?;
        let held_scratch = scratch.map(|scratch| hold(&client, scratch)).transpose()?;

        let bindings = held.as_ref().map(|held| binding(&held.resource));
        let mut tensors =
            Tensors::from_bindings(bindings.q, bindings.k, bindings.v, binding(&held_o.resource));
        tensors.decay = bindings.decay;
        tensors.beta = bindings.beta;
        tensors.initial_state = bindings.initial_state;
        let weights = bindings.weights;
        tensors.weights = weights.map(|buffer| WeightsBinding::new(buffer, call.weight_heads));
        tensors.final_state = held_state.as_ref().map(|held| binding(&held.resource));
        let scratch = held_scratch.as_ref().map(|held| binding(&held.resource));
        let bound = attention.bind_split(&split, &tensors, scratch)?;

        client.flush().map_err(|error| Error::burn("submit its work", &error))?;
        for submission in 0..bound.submissions() {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("linear_attention") };
            let mut encoder = self.device.create_command_encoder(&descriptor);
            attention.record_submission(&mut encoder, &bound, submission);
            self.queue.submit([encoder.finish()]);
        }
        Ok(outputs)
    }
}

/// Casts a gradient to the type of the tensor that it belongs to.
fn cast(x: CubeTensor, dtype: DType) -> CubeTensor {
    match dtype {
        DType::F16 => CubeBackend::float_cast(x, FloatDType::F16),
        DType::BF16 => CubeBackend::float_cast(x, FloatDType::BF16),
        _ => x,
    }
}

/// A buffer's range, and what keeps it from being given away.
struct Held {
    resource: WgpuResource,
    _memory: Box<dyn Any>,
}

fn hold(client: &Client, handle: Handle) -> Result<Held, Error> {
    let found = client.get_resource::<Server>(handle);
    let found = found.map_err(|error| Error::burn("give access to a buffer", &error))?;
    Ok(Held { resource: found.resource().clone(), _memory: Box::new(found) })
}

/// A tensor's range of its buffer, in whole words, which Burn allocates.
fn binding(resource: &WgpuResource) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding {
        buffer: &resource.buffer,
        offset: resource.offset,
        size: NonZeroU64::new(resource.size.next_multiple_of(4)),
    }
}
