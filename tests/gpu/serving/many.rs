//! Many sequences: more of them than a row of workgroups or than 16 bits count, each of a token.

mod entries;

use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use linear_attention::serve::{Batch, Entry, Sequences, Slot, StatePool, Status};
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{self, DeviceType, PollType};
use linear_attention::{
    Bound, Config, Inputs, LinearAttention, Options, Plan, Readback, Shape, Tensors, reference,
};

pub(super) use entries::{any_entries, in_bounded_submissions, that_conflict};

use super::super::properties::{close, numbers};
use super::{buffer, encoder, is};
use crate::adapters::Gpu;

const N: u32 = 70_000;
/// K and V.
const D: usize = 4;
/// Elements of a state.
const STATE: usize = D * D + D;

/// The source of the entries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Host,
    Device,
}

/// A plan bound to buffers of its own: pooled, or with initial and final states.
struct Call {
    bound: Bound,
    o: wgpu::Buffer,
    states: wgpu::Buffer,
    sequences: wgpu::Buffer,
}

/// q, k and v of N tokens and as many states.
struct Given {
    rows: [Vec<f32>; 3],
    states: Vec<f32>,
}

impl Given {
    fn new(n: u32) -> Self {
        let rows = [1, 2, 3].map(|salt| numbers(n as usize * D, salt));
        let states = numbers(n as usize * STATE, 4).iter().map(|x| x.abs() + 0.5).collect();
        Self { rows, states }
    }
}

fn limits(sequences: u32, max_len: u32) -> PackedLimits {
    PackedLimits { sequences, tokens: sequences, max_len }
}

/// Slot n of N, in no order; 7919 is prime and divides no N here.
fn slot_of(n: u32, of: u32) -> u32 {
    (u64::from(n) * 7919 % u64::from(of)) as u32
}

fn call(
    gpu: &Gpu,
    a: &LinearAttention,
    shape: &Shape,
    by: By,
    given: &Given,
    words: &[u32],
) -> Result<Call, Failed> {
    let plan = a.plan(shape)?;
    let device = &gpu.device;
    let [q, k, v] = [0, 1, 2].map(|i| buffer(gpu, bytemuck::cast_slice(&given.rows[i])));
    let o = buffer(gpu, bytemuck::cast_slice(&vec![f32::NAN; plan.lens().o as usize]));
    let scratch = buffer(gpu, &vec![0xAB; plan.scratch_size().max(4) as usize]);
    let sequences = buffer(gpu, &vec![0xAB; plan.sequences_size().max(4) as usize]);
    gpu.queue.write_buffer(&sequences, 0, bytemuck::cast_slice(words));
    let pool = shape.slots.map(|slots| StatePool::new(device, a.config(), 1, slots)).transpose()?;
    let states = match &pool {
        Some(pool) => pool.binding().buffer.clone(),
        None => buffer(gpu, &vec![0; 4 * given.states.len()]),
    };
    gpu.queue.write_buffer(&states, 0, bytemuck::cast_slice(&given.states));
    let mut tensors = Tensors::new(&q, &k, &v, &o);
    let mut batch = None;
    match (&pool, by) {
        (Some(pool), By::Host) => {
            let batch = batch.insert(Batch::new(&plan, pool)?);
            batch.write(&gpu.queue, pool, &entries(gpu, pool, &plan)?)?;
            // Allocation has zeroed them.
            gpu.queue.write_buffer(&states, 0, bytemuck::cast_slice(&given.states));
            tensors = tensors.with_sequences(Sequences::Host(batch));
        }
        (_, By::Device) => {
            let told = Sequences::Device(sequences.as_entire_buffer_binding());
            tensors = tensors.with_sequences(told);
        }
        _ => {}
    }
    tensors = match &pool {
        Some(pool) => tensors.with_pool(pool.binding()),
        None => tensors
            .with_initial_state(states.as_entire_buffer_binding())
            .with_final_state(states.as_entire_buffer_binding()),
    };
    let bound = a.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
    Ok(Call { bound, o, states, sequences })
}

/// A token for every slot of a pool, in the order of `slot_of`.
fn entries(gpu: &Gpu, pool: &StatePool, plan: &Plan) -> Result<Vec<Entry>, Failed> {
    let n = plan.shape().sequences();
    let mut encoder = encoder(gpu);
    let slots: Result<Vec<Slot>, _> = (0..n).map(|_| pool.allocate(&mut encoder)).collect();
    let slots = slots?;
    gpu.queue.submit([encoder.finish()]);
    Ok((0..n).map(|i| Entry::new(slots[slot_of(i, n) as usize], 1)).collect())
}

/// o, the states, and the entries that were ignored.
fn run(gpu: &Gpu, a: &LinearAttention, call: &Call) -> Result<(Vec<f32>, Vec<f32>, u32), Failed> {
    let mut first = encoder(gpu);
    first.clear_buffer(&call.sequences, 0, Some(4));
    gpu.queue.submit([first.finish()]);
    for i in 0..call.bound.submissions() {
        let mut encoder = encoder(gpu);
        a.record_submission(&mut encoder, &call.bound, i);
        gpu.queue.submit([encoder.finish()]);
    }
    let mut encoder = encoder(gpu);
    let readback = Readback::record(&gpu.device, &mut encoder, &[&call.o, &call.states])?;
    let sequences = call.sequences.as_entire_buffer_binding();
    let status = Status::record(&gpu.device, &mut encoder, &sequences)?;
    gpu.queue.submit([encoder.finish()]);
    let found: Vec<Vec<f32>> = readback.wait()?;
    let [o, states] = <[Vec<f32>; 2]>::try_from(found).map_err(|_| "two buffers")?;
    Ok((o, states, status.wait()?))
}

/// A token of each of N sequences whose states are given, in f64.
fn truth(config: &Config, given: &Given, slot: impl Fn(usize) -> usize) -> [Vec<f32>; 2] {
    let n = given.rows[0].len() / D;
    let of = |n: usize| given.states[slot(n) * STATE..][..STATE].split_at(D * D);
    let mu: Vec<f32> = (0..n).flat_map(|n| of(n).0).copied().collect();
    let nu: Vec<f32> = (0..n).flat_map(|n| of(n).1).copied().collect();
    let [q, k, v] = &given.rows;
    let inputs = Inputs::new(q, k, v).with_initial_state(&mu, &nu);
    let shape = Shape::new(n as u32, 1, 1);
    let truth = reference::recurrent(config, &shape, inputs).expect("a shape that is allowed");
    let mut states = vec![0.0; given.states.len()];
    for (i, (mu, nu)) in truth.mu.chunks(D * D).zip(truth.nu.chunks(D)).enumerate() {
        let state = mu.iter().chain(nu).map(|x| *x as f32);
        states[slot(i) * STATE..][..STATE].iter_mut().zip(state).for_each(|(to, x)| *to = x);
    }
    [truth.o.iter().map(|x| *x as f32).collect(), states]
}

/// Sequences that the host knows, equal and packed; and what only a buffer says, with and without
/// a pool, from the host and from the device; in one dispatch, and by the kernels for prompts.
pub(super) fn of_one_token(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(D as u32, D as u32);
    let a = LinearAttention::new(&gpu.device, config.clone())?;
    let given = Given::new(N);
    let [o, states] = truth(&config, &given, |n| n);
    let [of_pool, pool] = truth(&config, &given, |n| slot_of(n as u32, N) as usize);
    let lengths: Vec<u32> = (0..=N).collect();
    let slots: Vec<u32> = (0..N).map(|n| slot_of(n, N)).collect();
    let status = [0];
    // Of up to 17 tokens, so that no call is one dispatch.
    let prompts = Shape::packed_up_to(limits(N, 17), 1);
    let packed = Shape::packed_up_to(limits(N, 1), 1);
    let none: &[u32] = &[];
    for (shape, by, words) in [
        (Shape::new(N, 1, 1), By::Host, [none, none]),
        (Shape::packed(&vec![1; N as usize], 1), By::Host, [none, none]),
        (packed.clone(), By::Device, [&lengths, none]),
        (prompts.clone(), By::Device, [&lengths, none]),
        (Shape::new(N, 1, 1).with_slots(N), By::Host, [none, none]),
        (Shape::new(N, 1, 1).with_slots(N), By::Device, [none, &slots]),
        (packed.clone().with_slots(N), By::Host, [none, none]),
        (packed.with_slots(N), By::Device, [&lengths, &slots]),
        (prompts.clone().with_slots(N), By::Host, [none, none]),
        (prompts.with_slots(N), By::Device, [&lengths, &slots]),
    ] {
        let packed = shape.batch == 1;
        let name =
            format!("{by:?}, packed {packed}, {} tokens, {:?} slots", shape.max_len(), shape.slots);
        let call = call(gpu, &a, &shape, by, &given, &[&status[..], words[0], words[1]].concat())?;
        let found = run(gpu, &a, &call)?;
        let (o, states) = if shape.slots.is_some() { (&of_pool, &pool) } else { (&o, &states) };
        is(found.2 == 0, &format!("{name}: {} ignored", found.2))?;
        close(&format!("{name}: o"), o, &found.0)?;
        close(&format!("{name}: states"), states, &found.1)?;
    }
    Ok(())
}

/// A buffer with room for far more tokens than a call has: rows of o that belong to no sequence are
/// zero, behind the last sequence and between two, whatever one invocation can go through.
pub(super) fn few_of_many(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(D as u32, D as u32);
    let given = Given::new(N);
    let tuned = |device_type| -> Result<LinearAttention, Failed> {
        let tuning = Tuning::new(&config, &gpu.device.limits(), device_type)?;
        let options = Options::default().with_tuning(tuning);
        Ok(LinearAttention::with_options(&gpu.device, config.clone(), &options)?)
    };
    for (device_type, sequences, max_len) in [
        (DeviceType::Cpu, N, 1),
        (DeviceType::Other, N, 1),
        (DeviceType::Cpu, 3, 16),
        (DeviceType::Cpu, 3, N),
        (DeviceType::Other, 3, N),
    ] {
        let a = tuned(device_type)?;
        // One token at either end of a gap, in buffers with room for N.
        let mut lengths = vec![1; sequences as usize + 1];
        lengths[0] = 0;
        lengths[2..].fill(N - 1);
        *lengths.last_mut().ok_or("no lengths")? = N;
        let packed = PackedLimits { sequences, tokens: N, max_len };
        let shape = Shape::packed_up_to(packed, 1).with_slots(N);
        let mut slots: Vec<u32> = (0..sequences).collect();
        // With a `max_len` that allows it, the gap is an entry that is not in use.
        slots[1] = u32::MAX;
        let words = [&[0], &lengths[..], &slots].concat();
        let name = format!("{device_type:?}, {sequences} sequences up to {max_len}");
        let call = call(gpu, &a, &shape, By::Device, &given, &words)?;
        let (o, ..) = run(gpu, &a, &call)?;
        let is_used = |row: usize| row == 0 || row == N as usize - 1;
        let wrong = o.chunks(D).enumerate().find(|(row, o)| {
            if is_used(*row) { o.iter().any(|x| *x == 0.0 || x.is_nan()) } else { **o != [0.0; D] }
        });
        is(wrong.is_none(), &format!("{name}: {wrong:?}"))?;
    }
    Ok(())
}

/// Sequences of a token from 64 to 65,536, in one dispatch: trusted and untrusted. Memory is slower
/// where caches end, so untrusted ones are compared with trusted ones.
pub(super) fn time_grows_no_faster(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let a = LinearAttention::new(&gpu.device, Config::new(D as u32, D as u32))?;
    let mut first: Option<(u32, Duration)> = None;
    for n in [64, 512, 4096, 16_384, 65_536] {
        let given = Given::new(n);
        let lengths: Vec<u32> = (0..=n).collect();
        let slots: Vec<u32> = (0..n).map(|i| slot_of(i, n)).collect();
        let words = [&[0], &lengths[..], &slots].concat();
        let shape = Shape::packed_up_to(limits(n, 1), 1).with_slots(n);
        let calls = [By::Host, By::Device].map(|by| call(gpu, &a, &shape, by, &given, &words));
        let [trusted, untrusted] = calls;
        let (trusted, untrusted) = (trusted?, untrusted?);
        let mut least = [Duration::MAX; 2];
        for _ in 0..6 {
            for (least, call) in least.iter_mut().zip([&trusted, &untrusted]) {
                *least = time(gpu, &a, call)?.min(*least);
            }
        }
        println!("{n} sequences: {:?} trusted, {:?} untrusted", least[0], least[1]);
        if n >= 4096 {
            let ratio = least[1].as_secs_f64() / least[0].as_secs_f64();
            is(ratio < 6.0, &format!("{ratio} times as long untrusted at {n}"))?;
            // A loop over pairs takes 256 times as long for 16 times as many.
            let (fewer, time) = *first.get_or_insert((n, least[0]));
            let growth = least[0].as_secs_f64() / time.as_secs_f64();
            let allowed = 6.0 * f64::from(n / fewer);
            is(growth < allowed, &format!("{growth} times from {fewer} to {n}"))?;
        }
    }
    Ok(())
}

fn time(gpu: &Gpu, a: &LinearAttention, call: &Call) -> Result<Duration, Failed> {
    let mut encoder = encoder(gpu);
    a.record(&mut encoder, &call.bound);
    let commands = encoder.finish();
    let start = Instant::now();
    gpu.queue.submit([commands]);
    gpu.device.poll(PollType::wait_indefinitely())?;
    Ok(start.elapsed())
}
