//! One case on the device: poisoned buffers in, rows out.

use wgpu::BufferUsages;

use super::On;
use super::case::{Case, Sample};
use super::compare::Row;
use crate::attention::LinearAttention;
use crate::bind::tensors::Tensors;
use crate::bind::weights_buffer::WeightsBuffer;
use crate::device::buffers::init_buffer;
use crate::device::readback::Readback;
use crate::device::scope::scoped;
use crate::error::{DeviceError, Error};
use crate::kernel::stage::Stage;
use crate::plan::segments::Segment;
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::entries::{NO_SLOT, cu_seqlens, of_entries};
use crate::problem::heads::Heads;
use crate::problem::io::Output;
use crate::problem::state;
use crate::problem::tensor::Tensor;
use crate::reference::{self, Output64};
use crate::serve::sequences::Sequences;

/// Every tensor of a case on the device, and the scratch between its stages.
struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
    decay: wgpu::Buffer,
    beta: wgpu::Buffer,
    gate_weights: wgpu::Buffer,
    /// The states of the sequences, unless they are in a pool.
    initial_state: Option<wgpu::Buffer>,
    final_state: wgpu::Buffer,
    sequences: wgpu::Buffer,
    weights: Option<WeightsBuffer>,
    scratch: wgpu::Buffer,
}

pub(super) struct Run<'a> {
    on: On<'a>,
    attention: &'a LinearAttention,
    pub(super) case: &'a Case,
    /// The plan that the device runs.
    pub(super) plan: Plan,
    /// The same where the host knows every length.
    pub(super) known: Plan,
    pub(super) sample: Sample,
}

pub(super) async fn check(
    on: On<'_>,
    attention: &LinearAttention,
    tuning: &Tuning,
    case: &Case,
    seed: u64,
) -> Vec<Row> {
    let limits = on.device.limits();
    let planned = |shape| Plan::new(&case.config, &shape, &limits, tuning);
    let made = planned(case.device_shape())
        .and_then(|plan| Ok((plan, planned(case.known_shape())?)))
        .map_err(Error::from);
    let rows = match made {
        Ok((plan, known)) => {
            let sample = case.sample(seed, known.lens());
            Run { on, attention, case, plan, known, sample }.rows().await
        }
        Err(error) => Err(error),
    };
    rows.unwrap_or_else(|error| vec![Row::failed(case, "whole", error.to_string())])
}

impl Run<'_> {
    async fn rows(&self) -> Result<Vec<Row>, Error> {
        let (case, inputs) = (self.case, self.sample.inputs());
        let truth = reference::recurrent(&case.config, &case.shape, inputs)?;
        let mirror = reference::mirror_with_plan(&self.known, inputs)?;
        let (found, _) = self.run(&Stage::ALL, None).await?;
        let mut rows = compare(case, "whole", &truth, &mirror, &found);
        // With one segment there is nothing between the stages, and the host cannot number the
        // segments of lengths that only a buffer has.
        let Some(segments) = self.plan.segment_list().filter(|_| self.plan.segments() > 1) else {
            return Ok(rows);
        };

        let adding: Vec<_> = segments.iter().filter(|segment| !segment.is_last).collect();
        let added = reference::segment_state(&self.plan, inputs);
        let before = [
            Stage::SequenceClaims,
            Stage::SequenceConflicts,
            Stage::SequenceTable,
            Stage::TokenGates,
        ];
        let stages = |stages: &[Stage]| [&before, stages].concat();
        let (_, scratch) = self.run(&stages(&[Stage::SegmentState]), None).await?;
        let truths = adding.iter().map(|segment| self.added_truth(segment));
        let truths = truths.collect::<Result<Vec<_>, Error>>()?.concat();
        let of = |states: &[f32]| -> Vec<f32> {
            adding.iter().flat_map(|s| self.state(states, s.number)).copied().collect()
        };
        let name = Stage::SegmentState.name();
        rows.push(Row::new(case, name, "states", &truths, &of(&added), &of(&scratch)));

        let mut states = added.clone();
        let mut scan = Stage::StateScan;
        if self.plan.has_transitions() {
            scan = Stage::TransitionScan;
            let transitions = reference::segment_transition(&self.plan, inputs);
            reference::transition_scan(&self.plan, inputs, &transitions, &mut states);
            let (_, scratch) = self.run(&stages(&[Stage::SegmentTransition]), None).await?;
            let truths = adding.iter().map(|segment| self.transition_truth(segment));
            let truths = truths.collect::<Result<Vec<_>, Error>>()?.concat();
            let begin = (self.plan.scratch().transitions.clone().start / F32_SIZE) as usize;
            let len = truths.len() / adding.len().max(1);
            let of = |all: &[f32]| -> Vec<f32> {
                let of_one = |s: &&Segment| all.chunks(len).nth(s.number).unwrap_or_default();
                adding.iter().flat_map(of_one).copied().collect()
            };
            let name = Stage::SegmentTransition.name();
            let found = of(scratch.get(begin..).unwrap_or_default());
            rows.push(Row::new(case, name, "transitions", &truths, &of(&transitions), &found));
        } else {
            reference::state_scan(&self.plan, inputs, &mut states);
        }
        let (_, scratch) = self.run(&stages(&[scan]), Some(&added)).await?;
        let of = |states: &[f32]| -> Vec<f32> {
            segments.iter().flat_map(|s| self.state(states, s.number)).copied().collect()
        };
        let truths = self.scan_truth(&segments, &added);
        rows.push(Row::new(case, scan.name(), "states", &truths, &of(&states), &of(&scratch)));

        let last = stages(&[Stage::SegmentOutput, Stage::OutputSum]);
        let (found, _) = self.run(&last, Some(&states)).await?;
        rows.extend(compare(case, Stage::SegmentOutput.name(), &truth, &mirror, &found));
        Ok(rows)
    }

    /// Runs some stages on poisoned buffers, with states put into scratch first if they are
    /// given, and returns the output and the states then in scratch.
    async fn run(
        &self,
        stages: &[Stage],
        scratch: Option<&[f32]>,
    ) -> Result<(Output, Vec<f32>), Error> {
        let On { device, queue, blocks } = self.on;
        let buffers = self.buffers(scratch)?;
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        let mut tensors = Tensors::new(&buffers.q, &buffers.k, &buffers.v, &buffers.o);
        if self.plan.shape().slots.is_some() {
            tensors.pool = Some(whole(&buffers.final_state));
        } else {
            tensors.initial_state = buffers.initial_state.as_ref().map(whole);
            tensors.final_state = Some(whole(&buffers.final_state));
        }
        let rule = self.case.config.update_rule;
        tensors.decay = rule.decay().map(|_| whole(&buffers.decay));
        tensors.beta = rule.beta().map(|_| whole(&buffers.beta));
        tensors.gate_weights = rule.needs_gate_weights().then(|| whole(&buffers.gate_weights));
        let sequences = || Sequences::Device(whole(&buffers.sequences));
        tensors.sequences = self.plan.reads_sequences().then(sequences);
        tensors.weights = buffers.weights.as_ref().map(WeightsBuffer::binding);
        let scratch = Some(whole(&buffers.scratch));
        let bound = self.attention.bind(&self.plan, &tensors, scratch)?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
            label: Some("linear_attention.verify"),
        });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for stage in stages {
                self.attention.dispatch_stage(&mut pass, &bound, *stage);
            }
        }
        let sources = [&buffers.o, &buffers.final_state, &buffers.scratch, &buffers.sequences];
        let readback = Readback::record(device, &mut encoder, &sources)?;
        scoped(device, "linear_attention.verify", || queue.submit([encoder.finish()]))?;
        let mut tensors = match blocks {
            #[cfg(not(target_arch = "wasm32"))]
            true => readback.wait::<u8>()?,
            _ => readback.read::<u8>().await?,
        }
        .into_iter();
        let mut next = || tensors.next().unwrap_or_default();
        let o = self.plan.config().dtype.decode(&next(), self.plan.lens().o as usize);
        let output = self.output(o, bytemuck::pod_collect_to_vec(&next()));
        let scratch: Vec<f32> = bytemuck::pod_collect_to_vec(&next());
        let ignored = next().first_chunk().map_or(0, |status| u32::from_ne_bytes(*status));
        if ignored > 0 {
            let message = format!("the shaders ignored {ignored} valid entries");
            return Err(DeviceError::new("linear_attention.sequences", message).into());
        }
        Ok((output, scratch))
    }

    /// The case's own part of the output, and the states of its sequences. Rows of o that belong to
    /// no sequence must be zero, and slots that belong to none must still be NaN: otherwise the
    /// output is empty, which no row accepts.
    fn output(&self, mut o: Vec<f32>, states: Vec<f32>) -> Output {
        let lens = self.known.lens();
        let beyond = o.split_off(lens.o as usize);
        let gaps = self.gaps(o.len());
        let sequences = self.known.shape().sequences() as usize;
        let len = self.state_len();
        let mut of_sequences = Vec::with_capacity(lens.state as usize);
        let mut is_clean = beyond.iter().all(|x| *x == 0.0);
        for at in gaps {
            is_clean &= o[at].is_nan();
            o[at] = 0.0;
        }
        if let Some(slots) = self.plan.shape().slots {
            for n in 0..sequences {
                of_sequences.extend_from_slice(self.state(&states, slot(n, slots)));
            }
            let free = 0..slots as usize - sequences;
            is_clean &= states[..free.end * len].iter().all(|x| x.is_nan());
        } else {
            of_sequences = states[..sequences * len].to_vec();
        }
        if !is_clean {
            of_sequences.clear();
        }
        let (mu, nu) = state::split(sequences, lens.mu as usize, &of_sequences);
        Output::new(o, mu, nu)
    }

    /// Elements of o between its rows, which are the caller's.
    fn gaps(&self, len: usize) -> Vec<usize> {
        let shape = self.known.shape();
        if shape.strides.is_none() {
            return Vec::new();
        }
        let heads = Heads::new(&self.case.config, shape);
        let mut is_gap = vec![true; len];
        let tokens = 0..shape.batch as usize * shape.seq_len as usize;
        for (t, h) in tokens.flat_map(|t| (0..heads.output).map(move |h| (t, h))) {
            let begin = heads.output(t, h);
            is_gap[begin..begin + self.case.config.value_dim as usize].fill(false);
        }
        is_gap.iter().enumerate().filter(|(_, is_gap)| **is_gap).map(|(at, _)| at).collect()
    }

    pub(super) fn state_len(&self) -> usize {
        (self.plan.state_size() / F32_SIZE) as usize
    }

    pub(super) fn state<'s>(&self, states: &'s [f32], number: usize) -> &'s [f32] {
        let len = self.state_len();
        states.get(number * len..(number + 1) * len).unwrap_or_default()
    }

    fn buffers(&self, scratch: Option<&[f32]>) -> Result<Buffers, Error> {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let filled = |label, bytes: &[u8]| init_buffer(self.on.device, label, bytes, usage);
        // Elements that `data` has no value for are poisoned: NaN in every dtype.
        let buffer = |tensor: Tensor, data: &[f32]| {
            let dtype = tensor.dtype(self.plan.config());
            let mut bytes = dtype.encode(data).into_owned();
            bytes.truncate(data.len() * dtype.size() as usize);
            bytes.resize((self.plan.bytes(tensor) as usize).max(4), 0xFF);
            filled(tensor.name(), &bytes)
        };
        let shape = self.plan.shape();
        let sequences = self.known.shape().sequences() as usize;
        let initial = self.sample.initial_state.as_ref();
        let mut initial = initial.map(|(mu, nu)| state::join(sequences, mu, nu));
        let mut final_state = Vec::new();
        if let Some(slots) = shape.slots {
            // A new slot is zero; those of others are poisoned.
            let len = self.state_len();
            let states = initial.take().unwrap_or_else(|| vec![0.0; sequences * len]);
            final_state = vec![f32::NAN; slots as usize * len];
            for (n, state) in states.chunks(len).enumerate() {
                final_state[slot(n, slots) * len..][..len].copy_from_slice(state);
            }
        }
        let weights = self.sample.weights.as_ref();
        let weights =
            weights.map(|weights| WeightsBuffer::new(self.on.device, &self.case.config, weights));
        let mut scratch = scratch.unwrap_or_default().to_vec();
        if !scratch.is_empty() {
            // The scan reads them beside the states of segments.
            let inputs = self.sample.inputs();
            let (decays, transitions) =
                (self.plan.scratch().decays.clone(), self.plan.scratch().transitions.clone());
            if !decays.is_empty() {
                scratch.resize((decays.start / F32_SIZE) as usize, f32::NAN);
                scratch.extend(reference::segment_decays(&self.plan, inputs));
            }
            if !transitions.is_empty() {
                scratch.resize((transitions.start / F32_SIZE) as usize, f32::NAN);
                scratch.extend(reference::segment_transition(&self.plan, inputs));
            }
        }
        scratch.resize(((self.plan.scratch_size() / F32_SIZE) as usize).max(1), f32::NAN);
        Ok(Buffers {
            weights: weights.transpose()?,
            q: buffer(Tensor::Q, &self.sample.q)?,
            k: buffer(Tensor::K, &self.sample.k)?,
            v: buffer(Tensor::V, &self.sample.v)?,
            o: buffer(Tensor::O, &[])?,
            decay: buffer(Tensor::Decay, &self.sample.decay)?,
            beta: buffer(Tensor::Beta, &self.sample.beta)?,
            gate_weights: buffer(Tensor::GateWeights, &self.sample.gate_weights)?,
            initial_state: initial
                .map(|states| buffer(Tensor::InitialState, &states))
                .transpose()?,
            final_state: buffer(self.plan.final_state(), &final_state)?,
            sequences: filled("sequences", bytemuck::cast_slice(&self.sequence_words()))?,
            scratch: filled("scratch", bytemuck::cast_slice(&scratch))?,
        })
    }

    /// The words of `Sequences::Device`: the case's sequences, then unused entries, then words that
    /// may hold anything.
    fn sequence_words(&self) -> Vec<u32> {
        let shape = self.plan.shape();
        let ranges = self.known.shape().token_ranges().unwrap_or_default();
        let mut words = vec![0];
        if shape.has_lengths() {
            let lengths: Vec<u32> = ranges.iter().map(|range| range.len() as u32).collect();
            words.extend(cu_seqlens(shape, &lengths));
        }
        if let Some(slots) = shape.slots {
            let slots = (0..ranges.len()).map(|n| slot(n, slots) as u32);
            words.extend(of_entries(shape, slots, &NO_SLOT));
        }
        words.resize((self.plan.sequences_size() / 4).max(1) as usize, 0xABAB_ABAB);
        words
    }
}

/// The slot of sequence n: the last ones, in reverse.
fn slot(n: usize, slots: u32) -> usize {
    slots as usize - 1 - n
}

pub(super) fn compare(
    case: &Case,
    stage: &'static str,
    truth: &Output64,
    mirror: &Output,
    found: &Output,
) -> Vec<Row> {
    vec![
        Row::new(case, stage, "o", &truth.o, &mirror.o, &found.o),
        Row::new(case, stage, "final mu", &truth.mu, &mirror.mu, &found.mu),
        Row::new(case, stage, "final nu", &truth.nu, &mirror.nu, &found.nu),
    ]
}
