//! The CPU engine, on tensors of any backend: they are read, and the outputs are made of slices.

use std::sync::{Mutex, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Shape as Dims, TensorData, try_read_sync};
use linear_attention::cpu::{CpuAttention, CpuPlan, Tensors};
use linear_attention::gradients::OutputGradients;
use linear_attention::{Inputs, state};

use crate::cache::Cache;
use crate::call::Call;
use crate::error::Error;
use crate::inputs::{Outputs, Parts};
use crate::weights::{pack_gradients, unpack};

/// Plans that no call has at the moment; one call has one.
static PLANS: Mutex<Cache<Vec<CpuPlan>>> = Mutex::new(Cache::new());

/// o and the final state.
pub(crate) fn attend<B: Backend>(
    inputs: Parts<FloatTensor<B>>,
    call: &Call,
) -> Result<Outputs<FloatTensor<B>>, Error> {
    let device = inputs.q.device();
    let inputs = inputs.try_map(|_, x| read::<B>(x))?;
    let inputs = inputs.as_ref().try_map(|_, x| slice(x))?;
    let state = inputs.initial_state.map(|state| split(call, state));
    let mut o = vec![0.0; call.lens.o as usize];
    let mut mu = vec![0.0; if call.keeps_state { call.lens.mu as usize } else { 0 }];
    let mut nu = vec![0.0; if call.keeps_state { call.lens.nu as usize } else { 0 }];
    let mut tensors = Tensors::new(inputs.q, inputs.k, inputs.v, &mut o);
    if let Some(decay) = inputs.decay {
        tensors = tensors.with_decay(decay);
    }
    if let Some(beta) = inputs.beta {
        tensors = tensors.with_beta(beta);
    }
    if let Some((mu, nu)) = &state {
        tensors = tensors.with_initial_state(mu, nu);
    }
    if call.keeps_state {
        tensors = tensors.with_final_state(&mut mu, &mut nu);
    }
    let weights = inputs.weights.map(|packed| unpack(&call.config, call.weight_heads, packed));
    let weights = weights.transpose()?;
    let mut plan = plan(call)?;
    plan.run(tensors.with_weights(weights.as_ref()))?;
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    match plans.get(&call.config, &call.shape) {
        Some(plans) => plans.push(plan),
        None => plans.insert(call.config.clone(), call.shape.clone(), vec![plan]),
    }
    drop(plans);
    let states = call.keeps_state.then(|| state::join(call.shape.batch as usize, &mu, &nu));
    let dims = call.output_dims();
    Ok(Outputs {
        o: write::<B>(o, dims.o, call.dtype(), &device),
        state: states.zip(dims.state).map(|(x, dims)| write::<B>(x, dims, DType::F32, &device)),
    })
}

fn plan(call: &Call) -> Result<CpuPlan, Error> {
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(plan) = plans.get(&call.config, &call.shape).and_then(Vec::pop) {
        return Ok(plan);
    }
    drop(plans);
    Ok(CpuAttention::new(call.config.clone())?.plan(&call.shape)?)
}

/// The gradients by the inputs.
pub(crate) fn gradients<B: Backend>(
    inputs: Parts<FloatTensor<B>>,
    by_outputs: Outputs<FloatTensor<B>>,
    call: &Call,
) -> Result<Parts<FloatTensor<B>>, Error> {
    let device = inputs.q.device();
    let tensors = inputs.try_map(|_, x| {
        let dims = (x.shape(), x.dtype());
        read::<B>(x).map(|data| (data, dims))
    })?;
    let by_o = read::<B>(by_outputs.o)?;
    let by_state = by_outputs.state.map(read::<B>).transpose()?;
    let slices = tensors.as_ref().try_map(|_, (data, _)| slice(data))?;
    let state = slices.initial_state.map(|state| split(call, state));
    let mut inputs = Inputs::new(slices.q, slices.k, slices.v);
    if let Some(decay) = slices.decay {
        inputs = inputs.with_decay(decay);
    }
    if let Some(beta) = slices.beta {
        inputs = inputs.with_beta(beta);
    }
    if let Some((mu, nu)) = &state {
        inputs = inputs.with_initial_state(mu, nu);
    }
    let by_state = by_state.as_ref().map(slice).transpose()?.map(|state| split(call, state));
    let mut by_outputs = OutputGradients::new(slice(&by_o)?);
    if let Some((mu, nu)) = &by_state {
        by_outputs = by_outputs.with_final_state(mu, nu);
    }
    let attention = CpuAttention::new(call.config.clone())?;
    let weights = slices.weights.map(|packed| unpack(&call.config, call.weight_heads, packed));
    let weights = weights.transpose()?;
    let inputs = inputs.with_weights(weights.as_ref());
    let found = attention.backward(&call.shape, inputs, by_outputs)?;
    let of_weights = tensors.weights.as_ref();
    let of_weights = of_weights.map(|_| pack_gradients(&call.config, call.weight_heads, &found));
    let states = state::join(call.shape.batch as usize, &found.mu, &found.nu);
    let write =
        |x, (_, (dims, dtype)): (TensorData, (Dims, DType))| write::<B>(x, dims, dtype, &device);
    Ok(Parts {
        q: write(found.q, tensors.q),
        k: write(found.k, tensors.k),
        v: write(found.v, tensors.v),
        decay: tensors.decay.map(|of| write(found.decay, of)),
        beta: tensors.beta.map(|of| write(found.beta, of)),
        initial_state: tensors.initial_state.map(|of| write(states, of)),
        weights: tensors.weights.zip(of_weights).map(|(of, found)| write(found, of)),
    })
}

/// NaNs of the dimensions and types of these tensors, for a graph in which no error can be
/// returned.
#[cfg(feature = "autodiff")]
pub(crate) fn nans<B: Backend>(of: &Parts<FloatTensor<B>>) -> Parts<FloatTensor<B>> {
    of.as_ref().map(|x| {
        let dims = x.shape();
        write::<B>(vec![f32::NAN; dims.num_elements()], dims, x.dtype(), &x.device())
    })
}

/// mu and nu of all sequences.
fn split(call: &Call, states: &[f32]) -> (Vec<f32>, Vec<f32>) {
    state::split(call.shape.batch as usize, call.lens.mu as usize, states)
}

/// The elements of a tensor in f32, of which a tensor of f32 in host memory need not be copied.
fn read<B: Backend>(x: FloatTensor<B>) -> Result<TensorData, Error> {
    let what = "read a tensor";
    match try_read_sync(B::float_into_data(x)) {
        Some(Ok(data)) => Ok(data.convert_dtype(DType::F32)),
        Some(Err(error)) => Err(Error::burn(what, &error)),
        None => Err(Error::burn(what, &"a browser cannot wait for a device")),
    }
}

fn slice(data: &TensorData) -> Result<&[f32], Error> {
    data.as_slice().map_err(|error| Error::burn("read a tensor", &format_args!("{error:?}")))
}

fn write<B: Backend>(x: Vec<f32>, dims: Dims, dtype: DType, device: &B::Device) -> FloatTensor<B> {
    B::float_from_data(TensorData::new(x, dims).convert_dtype(dtype), device)
}
