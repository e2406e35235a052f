//! States in a pool, sequences told by a buffer, and any schedule of calls on them.

mod checkpoints;
mod entries;
mod many;
mod padding;
mod pool;
mod schedule;

use libtest_mimic::Failed;
use linear_attention::serve::{Batch, Sequences, Slot, StatePool, Status};
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{Bound, LinearAttention, Plan, Readback, Shape, Tensors};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("serving::handles", pool::handles),
    ("serving::copies", pool::copies),
    ("serving::snapshots", pool::snapshots),
    ("serving::to_the_cpu_and_back", pool::to_the_cpu_and_back),
    ("serving::in_the_callers_buffer", pool::in_the_callers_buffer),
    ("serving::refuses", pool::refuses),
    ("serving::impossible_entries_are_ignored", entries::impossible_entries),
    ("serving::told_by_the_device", entries::told_by_the_device),
    ("serving::several_steps_in_one_submission", entries::several_steps_in_one_submission),
    ("serving::padded_rows", padding::padded_rows),
    ("many_sequences::of_one_token", many::of_one_token),
    ("many_sequences::that_conflict", many::that_conflict),
    ("many_sequences::any_entries", many::any_entries),
    ("bounded_submissions::of_a_pool", many::in_bounded_submissions),
    ("many_sequences::few_of_many", many::few_of_many),
    ("many_sequences::time_grows_no_faster_than_their_number", many::time_grows_no_faster),
    ("serving::states_on_the_way", checkpoints::states_on_the_way),
    ("serving::rollback", checkpoints::rollback),
    ("serving::refused_checkpoints", checkpoints::refusals),
    ("serving::any_schedule", schedule::any_schedule),
    ("serving::any_schedule_of_rules", schedule::any_schedule_of_rules),
];

const D: usize = 16;
const STATE: usize = D * D + D;

fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
    gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}

fn is(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(Failed::from(what.to_owned())) }
}

/// A pool of one key/value head, with states that no other slot has.
fn filled_pool(
    gpu: &Gpu,
    a: &LinearAttention,
    slots: u32,
) -> Result<(StatePool, Vec<Slot>), Failed> {
    let pool = StatePool::new(&gpu.device, a.config(), 1, slots)?;
    let mut encoder = encoder(gpu);
    let handles: Result<Vec<_>, _> = (0..slots).map(|_| pool.allocate(&mut encoder)).collect();
    let handles = handles?;
    gpu.queue.submit([encoder.finish()]);
    for slot in &handles {
        write_state(gpu, &pool, *slot, &state_of(slot.index()));
    }
    Ok((pool, handles))
}

fn state_of(index: u32) -> Vec<f32> {
    numbers(STATE, 100 + index).iter().map(|x| x.abs() + 0.5).collect()
}

fn write_state(gpu: &Gpu, pool: &StatePool, slot: Slot, state: &[f32]) {
    let binding = pool.binding();
    let at = binding.offset + u64::from(slot.index()) * 4 * STATE as u64;
    gpu.queue.write_buffer(binding.buffer, at, bytemuck::cast_slice(state));
}

/// Every state of a pool.
fn states(gpu: &Gpu, pool: &StatePool) -> Result<Vec<f32>, Failed> {
    let binding = pool.binding();
    let size = binding.size.map_or(0, u64::from);
    let mut encoder = encoder(gpu);
    let ranges = [(binding.buffer, binding.offset, size)];
    let readback = Readback::record_ranges(&gpu.device, &mut encoder, &ranges)?;
    gpu.queue.submit([encoder.finish()]);
    Ok(readback.wait()?.concat())
}

fn state(states: &[f32], slot: Slot) -> &[f32] {
    &states[slot.index() as usize * STATE..][..STATE]
}

fn buffer(gpu: &Gpu, bytes: &[u8]) -> wgpu::Buffer {
    let buffer = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("test"),
        size: bytes.len() as u64,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    gpu.queue.write_buffer(&buffer, 0, bytes);
    buffer
}

/// A plan bound to buffers with room for its tokens.
struct Caller {
    plan: Plan,
    bound: Bound,
    tensors: [wgpu::Buffer; 4],
    /// decay and beta, where the update rule has them.
    gates: [wgpu::Buffer; 2],
    /// The source of the sequences: a batch, or a buffer.
    batch: Option<Batch>,
    sequences: wgpu::Buffer,
}

impl Caller {
    fn new(
        gpu: &Gpu,
        a: &LinearAttention,
        pool: &StatePool,
        shape: &Shape,
        by_host: bool,
    ) -> Result<Self, Failed> {
        let plan = a.plan(shape)?;
        let lens = plan.lens();
        let tensors =
            [lens.q, lens.k, lens.v, lens.o].map(|len| buffer(gpu, &vec![0; 4 * len as usize]));
        let gates =
            [lens.decay, lens.beta].map(|len| buffer(gpu, &vec![0; 4 * (len as usize).max(1)]));
        let rule = plan.config().update_rule;
        let scratch = buffer(gpu, &vec![0xFF; plan.scratch_size().max(4) as usize]);
        let sequences = buffer(gpu, &vec![0; plan.sequences_size() as usize]);
        let batch = by_host.then(|| Batch::new(&plan, pool)).transpose()?;
        let [q, k, v, o] = &tensors;
        let told = match &batch {
            Some(batch) => Sequences::Host(batch),
            None => Sequences::Device(sequences.as_entire_buffer_binding()),
        };
        let mut tensors_of =
            Tensors::new(q, k, v, o).with_pool(pool.binding()).with_sequences(told);
        tensors_of.decay = rule.decay().map(|_| gates[0].as_entire_buffer_binding());
        tensors_of.beta = rule.beta().map(|_| gates[1].as_entire_buffer_binding());
        let scratch = Some(scratch.as_entire_buffer_binding());
        let bound = a.bind(&plan, &tensors_of, scratch)?;
        Ok(Self { plan, bound, tensors, gates, batch, sequences })
    }

    /// o of a call, NaN where nothing wrote it, and the status.
    fn run(
        &self,
        gpu: &Gpu,
        a: &LinearAttention,
        inputs: [&[f32]; 3],
    ) -> Result<(Vec<f32>, u32), Failed> {
        self.run_with_gates(gpu, a, inputs, [&[], &[]])
    }

    /// The same with decays and betas.
    fn run_with_gates(
        &self,
        gpu: &Gpu,
        a: &LinearAttention,
        inputs: [&[f32]; 3],
        gates: [&[f32]; 2],
    ) -> Result<(Vec<f32>, u32), Failed> {
        let all = self.tensors.iter().zip(inputs).chain(self.gates.iter().zip(gates));
        for (buffer, data) in all {
            gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(data));
        }
        let poison = vec![f32::NAN; self.plan.lens().o as usize];
        gpu.queue.write_buffer(&self.tensors[3], 0, bytemuck::cast_slice(&poison));
        let mut encoder = encoder(gpu);
        encoder.clear_buffer(&self.sequences, 0, Some(4));
        a.record(&mut encoder, &self.bound);
        let readback = Readback::record(&gpu.device, &mut encoder, &[&self.tensors[3]])?;
        let sequences = self.sequences.as_entire_buffer_binding();
        let status = Status::record(&gpu.device, &mut encoder, &sequences)?;
        gpu.queue.submit([encoder.finish()]);
        Ok((readback.wait()?.concat(), status.wait()?))
    }
}
