//! The best sizes for a shape on the device at hand, found by measuring.

use std::time::{Duration, Instant};

use wgpu::BufferUsages;

use crate::attention::LinearAttention;
use crate::bind::matrix_units::MatrixUnits;
use crate::bind::options::Options;
use crate::bind::tensors::Tensors;
use crate::bind::weights_buffer::WeightsBuffer;
use crate::device::poll::poll;
use crate::device::scope::scoped;
use crate::device::subgroups::subgroup_lanes;
use crate::error::{DeviceError, Error};
use crate::plan::Plan;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::feature_map::weights::Weights;
use crate::problem::shape::{Lens, Packing, Shape};
use crate::problem::tensor::Tensor;
use crate::serve::batch::{Batch, Entry};
use crate::serve::pool::StatePool;
use crate::serve::sequences::Sequences;

/// A tuning, and the time of a call with it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// The tuning that was measured.
    pub tuning: Tuning,
    /// From submission to completion, without upload and readback.
    pub time: Duration,
}

/// Measures [`Tuning::candidates`] for this shape on this device, and returns the fastest.
///
/// It also sets [`Tuning::max_operations`] to a quarter of a second at the measured speed, but at
/// least to 2^30: a small shape does not show how fast a device is.
///
/// Matrix units that were checked with the config are a candidate, too. Where they win, a call
/// takes both the tuning and [`Options::matrix_units`].
///
/// It compiles and runs each candidate, and blocks until the device is done: a second or so on a
/// GPU, a minute on a CPU adapter. Store the result (feature `serde`) and pass it in
/// [`Options::tuning`]; it fits any shape, but was measured for this one. It needs memory for q, k,
/// v, o and scratch of the shape.
///
/// # Errors
///
/// Anything a step can refuse, or the device's failure.
pub fn tune(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    config: &Config,
    shape: &Shape,
    matrix_units: Option<&MatrixUnits>,
) -> Result<Tuning, Error> {
    let measured = tune_with(device, queue, config, shape, matrix_units, &mut |_| {})?;
    // There is at least the tuning that a device gets unasked.
    let best = measured.iter().min_by_key(|candidate| candidate.time);
    let best =
        best.ok_or_else(|| DeviceError::new("linear_attention.tune", "nothing was measured"))?;
    let plan = Plan::new(config, shape, &device.limits(), &best.tuning)?;
    Ok(best.tuning.with_max_operations(operations_within(SUBMISSION, &plan, best.time)))
}

/// The time of a submission: short beside the two seconds after which drivers reset a device, long
/// beside the microseconds that it takes to submit.
const SUBMISSION: Duration = Duration::from_millis(250);

/// Operations that a device does within a time, as a power of two: at the speed of this plan.
fn operations_within(time: Duration, plan: &Plan, taken: Duration) -> u64 {
    let per_second = plan.operations() as f64 / taken.as_secs_f64().max(1e-9);
    // A float beyond 64 bits becomes the largest of them.
    let operations = (per_second * time.as_secs_f64()) as u64;
    (1 << operations.max(1 << 30).ilog2()).min(1 << 62)
}

/// The same, returning every candidate in the order of [`Tuning::candidates`], matrix units last,
/// and calling `on_candidate` with each as it is measured. Candidates that make the same plan are
/// measured once.
///
/// # Errors
///
/// As [`tune`].
pub fn tune_with(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    config: &Config,
    shape: &Shape,
    matrix_units: Option<&MatrixUnits>,
    on_candidate: &mut dyn FnMut(&Candidate),
) -> Result<Vec<Candidate>, Error> {
    let limits = device.limits();
    let mut plans: Vec<Plan> = Vec::new();
    let (device_type, subgroup) = (device.adapter_info().device_type, subgroup_lanes(device));
    let candidates = Tuning::candidates_with_subgroups(config, &limits, device_type, subgroup)?;
    for tuning in candidates.into_iter().chain(matrix_units.map(|units| *units.tuning())) {
        let plan = Plan::new(config, shape, &limits, &tuning)?;
        let is_same =
            |other: &Plan| other.layout() == plan.layout() && other.same_segmentation(&plan);
        if !plans.iter().any(is_same) {
            plans.push(plan);
        }
    }
    let buffers = Buffers::new(device, queue, &plans)?;
    let mut compiled: Vec<LinearAttention> = Vec::new();
    let mut measured = Vec::with_capacity(plans.len());
    for plan in &plans {
        let tuning = *plan.tuning();
        let index = compiled.iter().position(|a| a.tuning().compiles_like(&tuning));
        let index = match index {
            Some(index) => index,
            None => {
                let has_matrices = tuning.layout.subgroup_size().is_some();
                let options = Options::default()
                    .with_tuning(tuning)
                    .with_matrix_units(matrix_units.filter(|_| has_matrices));
                compiled.push(LinearAttention::with_options(device, config.clone(), &options)?);
                compiled.len() - 1
            }
        };
        let time = buffers.time(device, queue, &compiled[index], plan)?;
        let candidate = Candidate { tuning, time };
        on_candidate(&candidate);
        measured.push(candidate);
    }
    Ok(measured)
}

/// The sequence metadata of a shape whose slots or lengths are in a buffer: all that it has room
/// for.
struct Metadata {
    pool: Option<(StatePool, Batch)>,
    sequences: Option<wgpu::Buffer>,
}

impl Metadata {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue, plan: &Plan) -> Result<Self, Error> {
        let shape = plan.shape();
        let mut left = shape.seq_len;
        let lengths: Vec<u32> = (0..shape.sequences())
            .map(|n| match &shape.packing {
                Packing::Equal => shape.seq_len,
                Packing::Lengths(lengths) => lengths.get(n as usize).copied().unwrap_or(0),
                Packing::Padded(valid) => {
                    valid.get(n as usize).map_or(0, |range| range.len() as u32)
                }
                Packing::UpTo { .. } => {
                    let len = shape.max_len().min(left);
                    left -= len;
                    len
                }
            })
            .collect();
        if let Some(slots) = shape.slots {
            let pool = StatePool::new(device, plan.config(), shape.value_heads, slots)?;
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut entries = Vec::with_capacity(lengths.len());
            for tokens in lengths.into_iter().take(slots as usize) {
                let slot = pool.allocate(&mut encoder)?;
                entries.push(Entry::new(slot, tokens));
            }
            queue.submit([encoder.finish()]);
            let batch = Batch::new(plan, &pool)?;
            batch.write(queue, &pool, &entries)?;
            return Ok(Self { pool: Some((pool, batch)), sequences: None });
        }
        let mut words = vec![0, 0];
        words.extend(lengths.iter().scan(0u32, |end, len| {
            *end += len;
            Some(*end)
        }));
        let sequences = plan.reads_sequences().then(|| {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("linear_attention.tune.sequences"),
                size: plan.sequences_size(),
                usage: BufferUsages::STORAGE | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
            buffer
        });
        Ok(Self { pool: None, sequences })
    }

    fn add_to<'a>(&'a self, tensors: &mut Tensors<'a>) {
        if let Some((pool, batch)) = &self.pool {
            tensors.pool = Some(pool.binding());
            tensors.sequences = Some(Sequences::Host(batch));
        } else if let Some(sequences) = &self.sequences {
            tensors.sequences = Some(Sequences::Device(sequences.as_entire_buffer_binding()));
        }
    }
}

/// One buffer holds q, k and v, which are only read: any finite values will do. States decay, and
/// betas are positive, so that no sum overflows.
struct Buffers {
    inputs: wgpu::Buffer,
    decay: Option<wgpu::Buffer>,
    beta: Option<wgpu::Buffer>,
    gate_weights: Option<wgpu::Buffer>,
    o: wgpu::Buffer,
    scratch: wgpu::Buffer,
    metadata: Metadata,
    weights: Option<WeightsBuffer>,
}

/// Runs of a candidate that count, after one that does not.
const RUNS: usize = 5;
/// A run this long shows a candidate as slow as it is.
const LONG: Duration = Duration::from_millis(500);

impl Buffers {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue, plans: &[Plan]) -> Result<Self, Error> {
        let largest = |size: &dyn Fn(&Plan) -> u64| plans.iter().map(size).max().unwrap_or(0);
        let input_len = largest(&|plan| {
            let lens = plan.lens();
            plan.config().dtype.bytes(lens.q.max(lens.k).max(lens.v))
        });
        let out_len = largest(&|plan| plan.config().dtype.bytes(plan.lens().o));
        let scratch_len = largest(&|plan| plan.scratch_size().max(4));
        scoped(device, "linear_attention.tune", || {
            let buffer = |label, size| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage: BufferUsages::STORAGE | BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            };
            let inputs = buffer("linear_attention.tune.inputs", input_len);
            // Zeros would do for the arithmetic, but some devices are faster with them.
            let block: Vec<f32> = (0u32..4096)
                .map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0)
                .collect();
            let fill = |buffer: &wgpu::Buffer, block: &[u8]| {
                for at in (0..buffer.size()).step_by(block.len()) {
                    let len = (buffer.size() - at).min(block.len() as u64) as usize;
                    queue.write_buffer(buffer, at, &block[..len]);
                }
            };
            fill(&inputs, bytemuck::cast_slice(&block));
            // All plans are of one shape and config.
            let config = plans.first().map(Plan::config);
            let filled = |label, len: &dyn Fn(&Lens) -> u64, tensor: Tensor, value: f32| {
                let lens = plans.first().map(Plan::lens).filter(|lens| len(lens) > 0);
                lens.zip(config).map(|(lens, config)| {
                    let dtype = tensor.dtype(config);
                    let buffer = buffer(label, dtype.bytes(len(lens)).next_multiple_of(4));
                    fill(&buffer, &dtype.encode(&[value; 4096]));
                    buffer
                })
            };
            let decay = filled("linear_attention.tune.decay", &|l| l.decay, Tensor::Decay, -0.01);
            let beta = filled("linear_attention.tune.beta", &|l| l.beta, Tensor::Beta, 0.5);
            let label = "linear_attention.tune.gate_weights";
            let gate_weights = filled(label, &|l| l.gate_weights, Tensor::GateWeights, 0.0);
            let weights = config.map(|config| Weights::sample(config, 0)).transpose()?.flatten();
            let upload = |weights: &Weights, config| WeightsBuffer::new(device, config, weights);
            let weights = weights.zip(config).map(|(weights, config)| upload(&weights, config));
            let metadata =
                plans.first().map(|plan| Metadata::new(device, queue, plan)).transpose()?;
            Ok(Self {
                inputs,
                decay,
                beta,
                gate_weights,
                o: buffer("linear_attention.tune.o", out_len),
                scratch: buffer("linear_attention.tune.scratch", scratch_len),
                metadata: metadata.unwrap_or(Metadata { pool: None, sequences: None }),
                weights: weights.transpose()?,
            })
        })?
    }

    /// The least time of a few runs: whatever else the device does only makes it longer.
    fn time(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        attention: &LinearAttention,
        plan: &Plan,
    ) -> Result<Duration, Error> {
        let mut tensors = Tensors::new(&self.inputs, &self.inputs, &self.inputs, &self.o);
        self.metadata.add_to(&mut tensors);
        let [decay, beta, gate_weights] = [&self.decay, &self.beta, &self.gate_weights]
            .map(|buffer| buffer.as_ref().map(wgpu::Buffer::as_entire_buffer_binding));
        (tensors.decay, tensors.beta, tensors.gate_weights) = (decay, beta, gate_weights);
        tensors.weights = self.weights.as_ref().map(WeightsBuffer::binding);
        let scratch = Some(self.scratch.as_entire_buffer_binding());
        let bound = attention.bind(plan, &tensors, scratch)?;
        let mut least = Duration::MAX;
        for run in 0..=RUNS {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
                label: Some("linear_attention.tune"),
            });
            attention.record(&mut encoder, &bound);
            let commands = encoder.finish();
            let start = Instant::now();
            let label = "linear_attention.tune";
            scoped(device, label, || queue.submit([commands]))?;
            poll(device, label, wgpu::PollType::wait_indefinitely())?;
            // The first run may compile, upload and fault pages in.
            if run > 0 {
                least = least.min(start.elapsed());
            }
            if least < Duration::MAX && least > LONG {
                break;
            }
        }
        Ok(least)
    }
}
