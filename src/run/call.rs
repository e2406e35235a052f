//! A call on host slices, submission by submission.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use wgpu::BufferUsages;

use crate::attention::LinearAttention;
use crate::bind::bound::Bound;
use crate::bind::tensors::Tensors;
use crate::bind::weights_buffer::WeightsBuffer;
use crate::device::buffers::{empty_buffer, upload};
use crate::device::readback::Readback;
use crate::device::scope::scoped;
use crate::error::{DeviceError, Error};
use crate::plan::split::{Part, Split};
use crate::problem::heads::Heads;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::{Lens, Packing, Shape};
use crate::problem::state;
use crate::problem::tensor::Tensor;
use crate::run::Progress;

/// Submissions on their way: one that the device computes, and one that it finds when it is done.
const IN_FLIGHT: usize = 2;

pub(super) const LABEL: &str = "linear_attention.run";

/// The usages of all buffers of a call.
const USAGES: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_SRC);

/// A call and its progress.
pub(super) struct Call<'a> {
    attention: &'a LinearAttention,
    queue: &'a wgpu::Queue,
    inputs: Inputs<'a>,
    split: Split,
    lens: Lens,
    shared: Shared,
    /// That of the first submission, once buffers of all parts are uploaded.
    encoder: Option<wgpu::CommandEncoder>,
    /// The part that is being submitted.
    current: Option<Current>,
    /// The next one.
    next_part: usize,
    in_flight: VecDeque<InFlight>,
    progress: Progress,
    o: Vec<f32>,
    states: Vec<f32>,
}

/// Buffers of all parts.
struct Shared {
    scratch: wgpu::Buffer,
    gate_weights: Option<wgpu::Buffer>,
    decay: Option<wgpu::Buffer>,
    weights: Option<WeightsBuffer>,
}

/// A part that is bound.
struct Current {
    bound: Bound,
    o: wgpu::Buffer,
    states: wgpu::Buffer,
    submitted: usize,
    /// True if its sequences end with it.
    is_last: bool,
}

/// A submission on its way.
pub(super) struct InFlight {
    #[cfg(not(target_arch = "wasm32"))]
    index: wgpu::SubmissionIndex,
    readback: Readback,
    operations: u64,
    /// The part whose o, and maybe whose states, the readback holds; else it holds a word that says
    /// that it has run.
    output_of: Option<usize>,
}

/// The values that a submission left.
pub(super) struct Found {
    tensors: Vec<Vec<u8>>,
    operations: u64,
    output_of: Option<usize>,
}

impl InFlight {
    /// Blocks until this submission has run, and not the one behind it.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn wait(self) -> Result<Found, DeviceError> {
        let Self { index, readback, operations, output_of } = self;
        Ok(Found { tensors: readback.wait_for(index)?, operations, output_of })
    }

    /// Only waits to be woken by whoever polls the device.
    pub(super) async fn read_polled(self) -> Result<Found, DeviceError> {
        let Self { readback, operations, output_of, .. } = self;
        Ok(Found { tensors: readback.read_polled().await?, operations, output_of })
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(
        attention: &'a LinearAttention,
        queue: &'a wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'a>,
    ) -> Result<Self, Error> {
        if shape.slots.is_some() {
            return Err(Error::HostShape { what: "slots" });
        }
        if matches!(shape.packing, Packing::UpTo { .. }) {
            return Err(Error::HostShape { what: "packed_up_to" });
        }
        let split = attention.split(shape)?;
        let lens = shape.lens(attention.config())?;
        inputs.check(attention.config(), shape)?;
        let all = split.parts().iter().flat_map(|part| part.plan.submissions(false));
        let (submissions, operations) = all.fold((0, 0u64), |(count, sum), submission| {
            (count + 1, sum.saturating_add(submission.operations))
        });
        let progress =
            Progress { submissions_done: 0, submissions, operations_done: 0, operations };
        let mut encoder = encoder(attention);
        let shared = Shared::new(attention, &mut encoder, &split, inputs)?;
        let mut call = Self {
            attention,
            queue,
            inputs,
            split,
            lens,
            shared,
            encoder: Some(encoder),
            current: None,
            next_part: 0,
            in_flight: VecDeque::with_capacity(IN_FLIGHT),
            progress,
            o: Vec::new(),
            states: Vec::new(),
        };
        if call.split.parts().len() > 1 && shape.strides.is_none() {
            call.o.reserve_exact(call.lens.o as usize);
        }
        Ok(call)
    }

    /// Submits until enough is on its way; the oldest submission, or `None` where all have run.
    pub(super) fn advance(&mut self) -> Result<Option<InFlight>, Error> {
        while self.in_flight.len() < IN_FLIGHT {
            match self.submit()? {
                Some(submission) => self.in_flight.push_back(submission),
                None => break,
            }
        }
        Ok(self.in_flight.pop_front())
    }

    /// Keeps what a submission left, and says so.
    pub(super) fn take(
        &mut self,
        found: Found,
        on_progress: &mut impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        if let Some(part) = found.output_of {
            let mut tensors = found.tensors.into_iter();
            self.take_output(part, &tensors.next().unwrap_or_default());
            if let Some(states) = tensors.next() {
                self.states.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&states));
            }
        }
        self.progress.submissions_done += 1;
        self.progress.operations_done += found.operations;
        let (done, operations) = (self.progress.operations_done, self.progress.operations);
        match on_progress(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled { done, operations }),
        }
    }

    /// Keeps the outputs of a part.
    fn take_output(&mut self, part: usize, o: &[u8]) {
        let Some(part) = self.split.parts().get(part) else { return };
        let dtype = self.attention.config().dtype;
        let is_one = self.split.parts().len() == 1;
        let shape = self.split.shape();
        if is_one || shape.strides.is_none() {
            let left = (self.lens.o as usize).saturating_sub(self.o.len());
            let o = dtype.decode(o, left.min(o.len() / dtype.size() as usize));
            return if is_one { self.o = o } else { self.o.extend(o) };
        }
        // Between the rows of a part there may be those of others.
        self.o.resize(self.lens.o as usize, 0.0);
        let config = self.attention.config();
        let heads = [shape, part.plan.shape()].map(|shape| Heads::new(config, shape));
        let o = dtype.decode(o, part.plan.lens().o as usize);
        let tokens = part.plan.shape().batch as usize * part.plan.shape().seq_len as usize;
        let first = part.first_row as usize;
        for (t, h) in (0..tokens).flat_map(|t| (0..heads[0].output).map(move |h| (t, h))) {
            let row = heads[1].output(t, h)..heads[1].output(t, h) + config.value_dim as usize;
            let at = heads[0].output(first + t, h);
            self.o[at..at + row.len()].copy_from_slice(&o[row]);
        }
    }

    pub(super) fn output(self) -> Output {
        let sequences = self.split.shape().sequences() as usize;
        let (mu, nu) = state::split(sequences, self.lens.mu as usize, &self.states);
        Output::new(self.o, mu, nu)
    }

    /// Submits the next work, if there is any.
    fn submit(&mut self) -> Result<Option<InFlight>, Error> {
        let mut encoder = self.encoder.take().unwrap_or_else(|| encoder(self.attention));
        if self.current.as_ref().is_none_or(|part| part.submitted == part.bound.submissions()) {
            let before = self.current.take().map(|part| part.states);
            let Some(part) = self.split.parts().get(self.next_part) else { return Ok(None) };
            let next = self.split.parts().get(self.next_part + 1);
            let is_last = next.is_none_or(|next| !next.continues());
            self.current = Some(self.bind(&mut encoder, part, before, is_last)?);
            self.next_part += 1;
        }
        let Some(Current { bound, o, states, submitted, is_last }) = &mut self.current else {
            return Ok(None);
        };
        let device = self.attention.device();
        self.attention.record_submission(&mut encoder, bound, *submitted);
        let operations = bound.operations(*submitted);
        *submitted += 1;
        let has_output = *submitted == bound.submissions();
        let output_of = has_output.then(|| self.next_part - 1);
        let readback = match (has_output, *is_last) {
            (true, true) => Readback::record(device, &mut encoder, &[&*o, &*states])?,
            (true, false) => Readback::record(device, &mut encoder, &[&*o])?,
            (false, _) => Readback::record_ranges(device, &mut encoder, &[(&*states, 0, 4)])?,
        };
        let index = scoped(device, LABEL, || self.queue.submit([encoder.finish()]))?;
        #[cfg(target_arch = "wasm32")]
        let _ = index;
        Ok(Some(InFlight {
            #[cfg(not(target_arch = "wasm32"))]
            index,
            readback,
            operations,
            output_of,
        }))
    }

    /// Uploads the inputs of a part and binds them. `before` are the states that the part before
    /// ended with.
    fn bind(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        part: &Part,
        before: Option<wgpu::Buffer>,
        is_last: bool,
    ) -> Result<Current, Error> {
        let (device, config) = (self.attention.device(), self.attention.config());
        let (plan, inputs, shared) = (&part.plan, &self.inputs, &self.shared);
        let mut rows = |tensor: Tensor, data: &[f32]| -> Result<wgpu::Buffer, Error> {
            let begin = part.begin_of(tensor, tensor.row_len(config, plan.shape())?);
            let data = &data[slice(begin, tensor.len(config, plan.shape())?, data.len())];
            let bytes = tensor.dtype(config).encode(data);
            Ok(upload(device, encoder, tensor.name(), &bytes, USAGES)?)
        };
        let q = rows(Tensor::Q, inputs.q)?;
        let k = rows(Tensor::K, inputs.k)?;
        let v = rows(Tensor::V, inputs.v)?;
        let decay = match (&shared.decay, inputs.decay) {
            (Some(decay), _) => Some(decay.clone()),
            (None, decay) => decay.map(|decay| rows(Tensor::Decay, decay)).transpose()?,
        };
        let beta = inputs.beta.map(|beta| rows(Tensor::Beta, beta)).transpose()?;
        let o = empty_buffer(device, "linear_attention.o", plan.bytes(Tensor::O), USAGES)?;
        let sequences = u64::from(plan.shape().sequences());
        let initial_state = match (&before, inputs.initial_state) {
            (Some(before), _) if part.continues() => Some(before.clone()),
            (_, Some(given)) => {
                let of = |data: &'a [f32]| {
                    let len = data.len() as u64 / u64::from(self.split.shape().sequences());
                    let begin = u64::from(part.sequences.start).saturating_mul(len);
                    &data[slice(begin, sequences * len, data.len())]
                };
                let states = state::join(sequences as usize, of(given.mu), of(given.nu));
                let bytes = bytemuck::cast_slice(&states);
                Some(upload(device, encoder, "linear_attention.initial_state", bytes, USAGES)?)
            }
            _ => None,
        };
        let states = match &before {
            Some(before) if part.continues() => before.clone(),
            _ => {
                let size = plan.bytes(Tensor::FinalState);
                empty_buffer(device, "linear_attention.final_state", size, USAGES)?
            }
        };
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let tensors = Tensors {
            weights: shared.weights.as_ref().map(WeightsBuffer::binding),
            decay: decay.as_ref().map(whole),
            beta: beta.as_ref().map(whole),
            gate_weights: shared.gate_weights.as_ref().map(whole),
            initial_state: initial_state.as_ref().map(whole),
            final_state: Some(states.as_entire_buffer_binding()),
            ..Tensors::new(&q, &k, &v, &o)
        };
        let scratch = Some(shared.scratch.as_entire_buffer_binding());
        let bound = self.attention.bind(plan, &tensors, scratch)?;
        Ok(Current { bound, o, states, submitted: 0, is_last })
    }
}

impl Shared {
    fn new(
        attention: &LinearAttention,
        encoder: &mut wgpu::CommandEncoder,
        split: &Split,
        inputs: Inputs<'_>,
    ) -> Result<Self, Error> {
        let (device, config) = (attention.device(), attention.config());
        let mut whole = |tensor: Tensor, data: &[f32]| {
            let bytes = tensor.dtype(config).encode(data);
            upload(device, encoder, tensor.name(), &bytes, USAGES)
        };
        let gate_weights = inputs.gate_weights.map(|weights| weights.joined());
        let gate_weights = gate_weights.map(|data| whole(Tensor::GateWeights, &data));
        let decay = inputs.decay.filter(|_| config.has_constant_decay());
        let decay = decay.map(|data| whole(Tensor::Decay, data)).transpose()?;
        let weights = inputs.weights;
        let weights =
            weights.map(|weights| WeightsBuffer::upload(device, encoder, config, weights));
        let size = split.scratch_size().max(4);
        Ok(Self {
            scratch: empty_buffer(device, "linear_attention.scratch", size, USAGES)?,
            gate_weights: gate_weights.transpose()?,
            decay,
            weights: weights.transpose()?,
        })
    }
}

fn encoder(attention: &LinearAttention) -> wgpu::CommandEncoder {
    let descriptor = wgpu::CommandEncoderDescriptor { label: Some(LABEL) };
    attention.device().create_command_encoder(&descriptor)
}

/// `len` elements from `begin` on, of so many as there are; `Inputs::check` has found them all.
fn slice(begin: u64, len: u64, of: usize) -> Range<usize> {
    let at = |index: u64| usize::try_from(index).unwrap_or(of).min(of);
    at(begin)..at(begin.saturating_add(len))
}
