//! States in a pool, sequences told by a buffer, and any schedule of calls on them.

use libtest_mimic::Failed;
use linear_attention::wgpu::{self, BufferUsages, DeviceType};
use linear_attention::{
    Batch, BindError, Bound, Config, Entry, FeatureMap, Inputs, LinearAttention, Options, Plan,
    PoolError, Readback, Sequences, ShaderChecks, Shape, Slot, StatePool, Status, Tensors, Tuning,
    reference,
};
use proptest::prelude::*;
use proptest::test_runner::{Config as Proptest, TestCaseError, TestRunner};

use super::Test;
use super::properties::{close, numbers};
use crate::common::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("serving::handles", handles),
    ("serving::copies", copies),
    ("serving::snapshots", snapshots),
    ("serving::in_the_callers_buffer", in_the_callers_buffer),
    ("serving::refuses", refuses),
    ("serving::impossible_entries_are_ignored", impossible_entries),
    ("serving::told_by_the_device", told_by_the_device),
    ("serving::any_schedule", any_schedule),
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
    Ok(readback.wait(&gpu.device)?.concat())
}

fn state(states: &[f32], slot: Slot) -> &[f32] {
    &states[slot.index() as usize * STATE..][..STATE]
}

fn handles(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let pool = StatePool::new(&gpu.device, a.config(), 1, 3)?;
    let other = StatePool::new(&gpu.device, a.config(), 1, 3)?;
    let mut encoder = encoder(gpu);
    let [x, y, z] =
        [pool.allocate(&mut encoder)?, pool.allocate(&mut encoder)?, pool.allocate(&mut encoder)?];
    is(pool.available() == 0 && pool.capacity() == 3, "counts")?;
    is(pool.indices(&[x, y, z])? == [0, 1, 2], "numbers in order")?;
    let full = PoolError::Full { required: 1, available: 0, capacity: 3 };
    is(pool.allocate(&mut encoder) == Err(full), "a fourth slot of three")?;
    pool.free(y)?;
    let freed = Err(PoolError::Slot { index: 1, required: "allocated and not freed since" });
    is(pool.free(y) == freed.clone(), "freed twice")?;
    let again = pool.allocate(&mut encoder)?;
    is(again.index() == 1 && again != y, "the slot is used again, the handle is not")?;
    is(pool.zero(&mut encoder, y) == freed.clone(), "an old handle of a slot in use")?;
    is(pool.copy(&mut encoder, x, y) == freed.clone(), "the same as a target")?;
    is(pool.index(y) == freed.clone().map(|()| 0), "the same in a call")?;
    let twice = Err(PoolError::Duplicate { index: 0 });
    is(pool.indices(&[x, again, x]) == twice, "one slot twice in a call")?;
    let stranger = Err(PoolError::Slot { index: 0, required: "of this pool" });
    is(other.zero(&mut encoder, x) == stranger, "a slot of another pool")?;
    // All or none.
    pool.free(z)?;
    let full = PoolError::Full { required: 2, available: 1, capacity: 3 };
    is(pool.fork_many(&mut encoder, x, 2) == Err(full), "two forks for one slot")?;
    is(pool.available() == 1, "a refused fork takes nothing")
}

fn copies(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 6)?;
    let mut encoder = encoder(gpu);
    for slot in &slots[3..] {
        pool.free(*slot)?;
    }
    pool.copy(&mut encoder, slots[0], slots[1])?;
    let forks = pool.fork_many(&mut encoder, slots[0], 2)?;
    pool.zero(&mut encoder, slots[0])?;
    let fork = pool.fork(&mut encoder, slots[2])?;
    gpu.queue.submit([encoder.finish()]);
    let found = states(gpu, &pool)?;
    for copy in [slots[1], forks[0], forks[1]] {
        is(state(&found, copy) == state_of(slots[0].index()), "a copy of the first")?;
    }
    is(state(&found, slots[0]).iter().all(|x| *x == 0.0), "zero")?;
    is(state(&found, slots[2]) == state_of(2) && state(&found, fork) == state_of(2), "a fork")
}

fn snapshots(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 2)?;
    let mut encoder = encoder(gpu);
    let blocking = pool.snapshot(&gpu.device, &mut encoder, slots[1])?;
    let polled = pool.snapshot(&gpu.device, &mut encoder, slots[1])?;
    gpu.queue.submit([encoder.finish()]);
    let bytes = blocking.wait(&gpu.device)?;
    let mut encoder = self::encoder(gpu);
    is(pollster::block_on(polled.read(&gpu.device))? == bytes, "both ways give the same")?;
    let other = StatePool::new(&gpu.device, a.config(), 1, 1)?;
    let mut damaged = bytes.clone();
    damaged[60] ^= 1;
    for (bytes, what) in [
        (&damaged[..], "checksum"),
        (&bytes[..bytes.len() - 4], "length after the header"),
        (&bytes[..10], "length"),
    ] {
        match other.restore(&gpu.device, &mut encoder, bytes) {
            Err(PoolError::Snapshot { what: found, .. }) if found == what => {}
            found => return Err(format!("{found:?} where {what} was due").into()),
        }
    }
    let two_heads = StatePool::new(&gpu.device, a.config(), 2, 1)?;
    let refused = two_heads.restore(&gpu.device, &mut encoder, &bytes);
    is(matches!(refused, Err(PoolError::Snapshot { what: "kv_heads", .. })), "two heads for one")?;
    is(other.available() == 1, "what was refused took no slot")?;
    let restored = other.restore(&gpu.device, &mut encoder, &bytes)?;
    gpu.queue.submit([encoder.finish()]);
    is(state(&states(gpu, &other)?, restored) == state_of(slots[1].index()), "restored")?;
    let full = other.restore(&gpu.device, &mut self::encoder(gpu), &bytes);
    is(matches!(full, Err(PoolError::Full { .. })), "no slot is left")
}

fn in_the_callers_buffer(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let size = StatePool::size(a.config(), 1, 2)?;
    let buffer = |usage| {
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("arena"),
            size: 256 + size,
            usage,
            mapped_at_creation: false,
        })
    };
    let arena = buffer(usage);
    let part = |buffer, offset| wgpu::BufferBinding { buffer, offset, size: None };
    let made = |binding| StatePool::in_buffer(&gpu.device, a.config(), 1, 2, binding);
    let pool = made(part(&arena, 256))?;
    gpu.queue.write_buffer(&arena, 0, &vec![7; 256 + size as usize]);
    let mut encoder = encoder(gpu);
    let slot = pool.allocate(&mut encoder)?;
    gpu.queue.submit([encoder.finish()]);
    is(state(&states(gpu, &pool)?, slot).iter().all(|x| *x == 0.0), "a new slot is zero")?;
    let small = made(part(&arena, 512)).err();
    is(small == Some(PoolError::TooSmall { required: size, actual: size - 256 }), "too small")?;
    let odd = made(part(&arena, 4)).err();
    is(matches!(odd, Some(PoolError::Misaligned { actual: 4, .. })), "misaligned")?;
    let plain = buffer(BufferUsages::STORAGE);
    is(matches!(made(part(&plain, 256)).err(), Some(PoolError::Usage { .. })), "no copies")
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

fn refuses(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 4)?;
    let plan = a.plan(&Shape::packed_at_most(2, 8, 6, 1).with_slots(4))?;
    let batch = Batch::new(&gpu.device, &plan, &pool)?;
    let entry = |slot: usize, tokens| Entry { slot: slots[slot], tokens };
    let write = |entries: &[Entry]| batch.write(&gpu.queue, &pool, entries).err();
    let entries = |what, required, actual| Some(PoolError::Entries { what, required, actual });
    is(
        write(&[entry(0, 1), entry(1, 1), entry(2, 1)]) == entries("sequences", 2, 3),
        "three sequences",
    )?;
    is(write(&[entry(0, 7)]) == entries("tokens of a sequence", 6, 7), "seven tokens")?;
    is(write(&[entry(0, 5), entry(1, 4)]) == entries("tokens", 8, 9), "nine tokens in all")?;
    is(write(&[entry(0, 1), entry(0, 1)]) == Some(PoolError::Duplicate { index: 0 }), "twice")?;
    is(write(&[entry(0, 5), entry(1, 3)]).is_none(), "what fits")?;
    let other = StatePool::new(&gpu.device, a.config(), 1, 4)?;
    let refused = batch.write(&gpu.queue, &other, &[]).err();
    is(matches!(refused, Some(PoolError::Pool { what: "pool", .. })), "another pool")?;
    for (heads, slots, what) in [(1, 5, "slots"), (2, 4, "kv_heads")] {
        let other = StatePool::new(&gpu.device, a.config(), heads, slots)?;
        let refused = Batch::new(&gpu.device, &plan, &other).err();
        let found = matches!(&refused, Some(PoolError::Pool { what: found, .. }) if *found == what);
        is(found, &format!("{refused:?} where {what} differ"))?;
    }
    let relu = StatePool::new(&gpu.device, &relu(a), 1, 4)?;
    let refused = Batch::new(&gpu.device, &plan, &relu).err();
    is(matches!(refused, Some(PoolError::Pool { what: "config", .. })), "states of another map")?;
    let dense = a.plan(&Shape::new(2, 4, 1))?;
    let refused = Batch::new(&gpu.device, &dense, &pool).err();
    is(refused == Some(PoolError::NotPooled), "no pool at all")?;

    let [q, k, v, out] = [0; 4].map(|_| buffer(gpu, &[0; 8 * 4 * D]));
    let tensors = Tensors::new(&q, &k, &v, &out);
    let scratch = || q.as_entire_buffer_binding();
    let bind = |tensors: &Tensors<'_>| a.bind(&gpu.device, &plan, tensors, scratch()).err();
    is(bind(&tensors) == Some(BindError::Missing { tensor: "pool" }), "no pool")?;
    let tensors = Tensors { pool: Some(pool.binding()), ..tensors };
    is(bind(&tensors) == Some(BindError::Missing { tensor: "sequences" }), "no sequences")?;
    let tensors = Tensors { sequences: Some(Sequences::Host(&batch)), ..tensors };
    is(bind(&tensors).is_none(), "what it needs")?;
    let strange = Tensors { pool: Some(other.binding()), ..tensors.clone() };
    is(bind(&strange) == Some(BindError::Batch { what: "pool" }), "a batch of another pool")?;
    let two_heads = StatePool::new(&gpu.device, a.config(), 2, 4)?;
    let strange = Tensors { pool: Some(two_heads.binding()), ..tensors.clone() };
    let (required, actual) = (16 * STATE as u64, 32 * STATE as u64);
    is(bind(&strange) == Some(BindError::PoolSize { required, actual }), "a pool of other states")?;
    let longer = a.plan(&Shape::packed_at_most(2, 9, 6, 1).with_slots(4))?;
    let found = a.bind(&gpu.device, &longer, &tensors, scratch()).err();
    is(found == Some(BindError::Batch { what: "plan" }), "a batch of another plan")?;
    let tensors = Tensors { initial: Some(pool.binding()), ..tensors };
    is(bind(&tensors) == Some(BindError::Unexpected { tensor: "initial" }), "two states")
}

fn relu(a: &LinearAttention) -> Config {
    let mut config = *a.config();
    config.feature_map = FeatureMap::Relu;
    config
}

/// A plan bound to buffers with room for its tokens.
struct Caller {
    plan: Plan,
    bound: Bound,
    tensors: [wgpu::Buffer; 4],
    /// Who tells it: a batch, or a buffer.
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
        let scratch = buffer(gpu, &vec![0xFF; plan.scratch_size().max(4) as usize]);
        let sequences = buffer(gpu, &vec![0; plan.sequences_size() as usize]);
        let batch = by_host.then(|| Batch::new(&gpu.device, &plan, pool)).transpose()?;
        let [q, k, v, out] = &tensors;
        let told = match &batch {
            Some(batch) => Sequences::Host(batch),
            None => Sequences::Device(sequences.as_entire_buffer_binding()),
        };
        let tensors_of = Tensors {
            pool: Some(pool.binding()),
            sequences: Some(told),
            ..Tensors::new(q, k, v, out)
        };
        let scratch = scratch.as_entire_buffer_binding();
        let bound = a.bind(&gpu.device, &plan, &tensors_of, scratch)?;
        Ok(Self { plan, bound, tensors, batch, sequences })
    }

    /// o of a call, NaN where nothing wrote it, and the status.
    fn run(
        &self,
        gpu: &Gpu,
        a: &LinearAttention,
        inputs: [&[f32]; 3],
    ) -> Result<(Vec<f32>, u32), Failed> {
        for (buffer, data) in self.tensors.iter().zip(inputs) {
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
        Ok((readback.wait(&gpu.device)?.concat(), status.wait(&gpu.device)?))
    }
}

/// Entries that cannot be: each is counted and leaves its state and its rows as they were, and
/// the others are computed as if it were not there. Shaders that check themselves and shaders
/// that do not, both layouts, widths of fours and others, one head and several.
fn impossible_entries(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for (heads, kv_heads, config) in [(1, 1, Config::new(16, 16)), (4, 2, Config::new(5, 7))] {
        for device_type in [DeviceType::Other, DeviceType::Cpu] {
            for checks in [ShaderChecks::Checked, ShaderChecks::Unchecked] {
                let limits = gpu.device.limits();
                let mut tuning = Tuning::new(&config, &limits, device_type)?;
                tuning.max_loop_iterations = 65_000;
                let mut options = Options::default();
                options.tuning = Some(tuning);
                options.checks = checks;
                let a = LinearAttention::with_options(&gpu.device, config, &options)?;
                impossible(gpu, &a, heads, kv_heads).map_err(|error| {
                    let message = error.message().unwrap_or_default();
                    format!("{device_type:?} {checks:?} {heads} heads: {message}")
                })?;
            }
        }
    }
    Ok(())
}

fn impossible(gpu: &Gpu, a: &LinearAttention, heads: u32, kv_heads: u32) -> Result<(), Failed> {
    const NONE: u32 = u32::MAX;
    let long = 40u32;
    /// max_len; cu_seqlens; slots; the entries that are ignored.
    type Case = (u32, [u32; 4], [u32; 3], &'static [usize]);
    let cases: [Case; 10] = [
        (4, [0, 3, 4, 8], [0, 1, 2], &[]),
        (4, [0, 3, 4, 8], [0, 5, 2], &[1]),
        (4, [0, 3, 4, 8], [1, 0, 1], &[0, 2]),
        (4, [0, 3, 4, 8], [1, NONE, 4_000_000], &[2]),
        (4, [1, 3, 4, 8], [0, 1, 2], &[0]),
        (4, [0, 4, 2, 5], [0, 1, 2], &[1, 2]),
        (4, [0, 3, 9, 8], [0, 1, 2], &[1, 2]),
        (4, [0, 3, 8, NONE], [0, 1, 2], &[1, 2]),
        (long, [0, 50, 20, 70], [0, 1, 2], &[0, 1, 2]),
        (long, [0, 20, 20, 60], [3, 3, 1], &[0, 1]),
    ];
    let config = a.config();
    let (k_dim, v_dim) = (config.key_dim as usize, config.value_dim as usize);
    let (h, g) = (heads as usize, kv_heads as usize);
    let len = g * (k_dim * v_dim + k_dim);
    let state_of = |slot: usize| -> Vec<f32> {
        numbers(len, 100 + slot as u32).iter().map(|x| x.abs() + 0.5).collect()
    };
    // One plan and one binding for each length, whatever the entries say.
    for max_len in [4, long] {
        let tokens = if max_len == long { 80usize } else { 8 };
        let pool = StatePool::new(&gpu.device, config, kv_heads, 4)?;
        let shape = Shape::packed_at_most(3, tokens as u32, max_len, heads)
            .with_kv_heads(kv_heads)
            .with_slots(4);
        let caller = Caller::new(gpu, a, &pool, &shape, false)?;
        let q = numbers(tokens * h * k_dim, 1);
        let k = numbers(tokens * g * k_dim, 2);
        let v = numbers(tokens * g * v_dim, 3);
        for (_, cu_seqlens, slots, ignored) in cases.iter().filter(|case| case.0 == max_len) {
            for slot in 0..4 {
                let at = (4 * len * slot) as u64;
                let state = state_of(slot);
                gpu.queue.write_buffer(pool.binding().buffer, at, bytemuck::cast_slice(&state));
            }
            let words = [&cu_seqlens[..], slots].concat();
            gpu.queue.write_buffer(&caller.sequences, 4, bytemuck::cast_slice(&words));
            let (o, status) = caller.run(gpu, a, [&q, &k, &v])?;
            let name = format!("{cu_seqlens:?} {slots:?}");
            is(status == ignored.len() as u32, &format!("{name}: status {status}"))?;

            let after = states(gpu, &pool)?;
            let mut written = vec![false; tokens];
            let mut untouched = vec![0, 1, 2, 3];
            for n in (0..3).filter(|n| !ignored.contains(n) && slots[*n] != NONE) {
                let rows = cu_seqlens[n] as usize..cu_seqlens[n + 1] as usize;
                let slot = slots[n] as usize;
                untouched.retain(|other| *other != slot);
                written[rows.clone()].fill(true);
                if rows.is_empty() {
                    is(after[slot * len..][..len] == state_of(slot), "an empty sequence")?;
                    continue;
                }
                let of = |x: &'_ [f32], row: usize| x[rows.start * row..rows.end * row].to_vec();
                let (q, k, v) = (of(&q, h * k_dim), of(&k, g * k_dim), of(&v, g * v_dim));
                let before = state_of(slot);
                let (mu, nu) = before.split_at(g * k_dim * v_dim);
                let shape = Shape::new(1, rows.len() as u32, heads).with_kv_heads(kv_heads);
                let inputs = Inputs::new(&q, &k, &v).with_initial(mu, nu);
                let truth = reference::recurrent(config, &shape, inputs)?;
                let f32s = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
                close(&name, &f32s(&truth.o), &of(&o, h * v_dim))?;
                let truth = [f32s(&truth.mu), f32s(&truth.nu)].concat();
                close(&name, &truth, &after[slot * len..][..len])?;
            }
            for slot in untouched {
                let is_as_it_was = after[slot * len..][..len] == state_of(slot);
                is(is_as_it_was, &format!("{name}: state {slot} changed"))?;
            }
            for (row, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
                let is_as_it_was = o[row * h * v_dim..][..h * v_dim].iter().all(|x| x.is_nan());
                is(is_as_it_was, &format!("{name}: row {row} was written"))?;
            }
        }
    }
    Ok(())
}

/// The host never learns which slots and how many tokens: a dispatch of the caller's writes them,
/// in the encoder in which they are used.
fn told_by_the_device(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, handles) = filled_pool(gpu, a, 8)?;
    let shape = Shape::packed_at_most(4, 8, 2, 1).with_slots(8);
    let caller = Caller::new(gpu, a, &pool, &shape, false)?;
    let wgsl = "@group(0) @binding(0) var<storage, read_write> sequences: array<u32>;
        @compute @workgroup_size(4) fn choose(@builtin(local_invocation_index) n: u32) {
            // 0, 2, 3, 5, 6: sequences of two tokens and of one.
            sequences[1u + n] = (3u * n + 1u) / 2u;
            if (n == 0u) { sequences[5] = 6u; }
            sequences[6u + n] = 7u - 2u * n;
        }";
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("choose"),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("choose"),
        layout: None,
        module: &module,
        entry_point: Some("choose"),
        compilation_options: Default::default(),
        cache: None,
    });
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("choose"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry {
            binding: 0,
            resource: caller.sequences.as_entire_binding(),
        }],
    });
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(8 * D, salt));
    for (buffer, data) in caller.tensors.iter().zip([&q, &k, &v]) {
        gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(data));
    }
    let mut encoder = encoder(gpu);
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        a.dispatch(&mut pass, &caller.bound);
    }
    let readback = Readback::record(&gpu.device, &mut encoder, &[&caller.tensors[3]])?;
    gpu.queue.submit([encoder.finish()]);
    let o = readback.wait(&gpu.device)?.concat();
    let after = states(gpu, &pool)?;
    for (n, tokens) in [0..2, 2..3, 3..5, 5..6].into_iter().enumerate() {
        let slot = handles[7 - 2 * n];
        let before = state_of(slot.index());
        let (mu, nu) = before.split_at(D * D);
        let rows = tokens.start * D..tokens.end * D;
        let inputs = Inputs::new(&q[rows.clone()], &k[rows.clone()], &v[rows.clone()]);
        let inputs = inputs.with_initial(mu, nu);
        let shape = Shape::new(1, tokens.len() as u32, 1);
        let truth = reference::chunked(a.config(), &shape, inputs)?;
        close("o", &truth.o, &o[rows])?;
        close("state", &[truth.mu, truth.nu].concat(), state(&after, slot))?;
    }
    Ok(())
}

/// A step of a schedule; users are counted modulo those there are.
#[derive(Clone, Debug)]
enum Act {
    /// Tokens for some users in one call: a piece of a prompt, or a few to decode.
    Feed(Vec<(usize, u32)>),
    /// A new user with another's tokens so far.
    Fork(usize),
    /// A user leaves the device and comes back to another slot.
    Away(usize),
    /// A user is gone.
    Leave(usize),
    /// A new user.
    Arrive,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let piece = prop::collection::vec((0usize..8, 0u32..30), 1..5).prop_map(Act::Feed);
    let few = prop::collection::vec((0usize..8, 0u32..4), 1..6).prop_map(Act::Feed);
    let act = prop_oneof![
        3 => piece,
        4 => few,
        1 => (0usize..8).prop_map(Act::Fork),
        1 => (0usize..8).prop_map(Act::Away),
        1 => (0usize..8).prop_map(Act::Leave),
        2 => Just(Act::Arrive),
    ];
    prop::collection::vec(act, 1..14)
}

/// A user, all tokens so far, and the outputs as they came.
#[derive(Clone)]
struct User {
    slot: Slot,
    tensors: [Vec<f32>; 3],
    o: Vec<f32>,
}

/// Whatever is called in which order, every user's outputs are those of the whole sequence.
fn any_schedule(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let mut runner =
        TestRunner::new(Proptest { cases: 12, failure_persistence: None, ..Proptest::default() });
    let held = runner.run(&acts(), |acts| {
        follow(gpu, a, &acts).map_err(|error| TestCaseError::fail(format!("{error:?}")))
    });
    held.map_err(|error| Failed::from(error.to_string()))
}

fn follow(gpu: &Gpu, a: &LinearAttention, acts: &[Act]) -> Result<(), Failed> {
    const SLOTS: u32 = 9;
    let pool = StatePool::new(&gpu.device, a.config(), 1, SLOTS)?;
    // Both are bound once, whoever comes and goes.
    let of = |shape: Shape| Caller::new(gpu, a, &pool, &shape.with_slots(SLOTS), true);
    let prefill = of(Shape::packed_at_most(4, 70, 29, 1))?;
    let decode = of(Shape::packed_at_most(6, 14, 3, 1))?;
    let mut users: Vec<User> = Vec::new();
    let mut salt = 0;
    for act in acts {
        let mut encoder = encoder(gpu);
        match act {
            Act::Arrive => {
                if let Ok(slot) = pool.allocate(&mut encoder) {
                    users.push(User { slot, tensors: Default::default(), o: Vec::new() });
                }
            }
            _ if users.is_empty() => {}
            Act::Fork(user) => {
                let user = users[user % users.len()].clone();
                if let Ok(slot) = pool.fork(&mut encoder, user.slot) {
                    users.push(User { slot, ..user });
                }
            }
            Act::Leave(user) => {
                let user = users.remove(user % users.len());
                pool.free(user.slot)?;
            }
            Act::Away(user) => {
                let index = user % users.len();
                let snapshot = pool.snapshot(&gpu.device, &mut encoder, users[index].slot)?;
                gpu.queue.submit([encoder.finish()]);
                let bytes = snapshot.wait(&gpu.device)?;
                pool.free(users[index].slot)?;
                // Someone takes the slot meanwhile, if there is another for the one who returns.
                encoder = self::encoder(gpu);
                let other = pool.allocate(&mut encoder)?;
                if pool.available() == 0 {
                    pool.free(other)?;
                }
                users[index].slot = pool.restore(&gpu.device, &mut encoder, &bytes)?;
                if pool.index(other).is_ok() {
                    pool.free(other)?;
                }
            }
            Act::Feed(wanted) => {
                let mut entries: Vec<(usize, u32)> = Vec::new();
                for (user, tokens) in wanted {
                    let user = user % users.len();
                    if entries.iter().all(|(other, _)| *other != user) {
                        entries.push((user, *tokens));
                    }
                }
                let is_few = entries.iter().all(|(_, tokens)| *tokens <= 3);
                let caller = if is_few { &decode } else { &prefill };
                let shape = caller.plan.shape();
                entries.truncate(shape.sequences() as usize);
                while entries.iter().map(|(_, tokens)| tokens).sum::<u32>() > shape.seq_len {
                    entries.pop();
                }
                feed(gpu, a, &pool, caller, &mut users, &entries, &mut salt)?;
            }
        }
        gpu.queue.submit([encoder.finish()]);
    }
    for user in &users {
        let tokens = user.o.len() / D;
        if tokens == 0 {
            continue;
        }
        let [q, k, v] = &user.tensors;
        let shape = Shape::new(1, tokens as u32, 1);
        let truth = reference::recurrent(a.config(), &shape, Inputs::new(q, k, v))?;
        let truth: Vec<f32> = truth.o.iter().map(|x| *x as f32).collect();
        close("o", &truth, &user.o)?;
    }
    Ok(())
}

fn feed(
    gpu: &Gpu,
    a: &LinearAttention,
    pool: &StatePool,
    caller: &Caller,
    users: &mut [User],
    entries: &[(usize, u32)],
    salt: &mut u32,
) -> Result<(), Failed> {
    let mut tensors: [Vec<f32>; 3] = Default::default();
    for (user, tokens) in entries {
        for (all, own) in tensors.iter_mut().zip(&mut users[*user].tensors) {
            *salt += 1;
            let new = numbers(*tokens as usize * D, *salt);
            own.extend_from_slice(&new);
            all.extend_from_slice(&new);
        }
    }
    let told: Vec<Entry> = entries
        .iter()
        .map(|(user, tokens)| Entry { slot: users[*user].slot, tokens: *tokens })
        .collect();
    let batch = caller.batch.as_ref().ok_or("told by the host")?;
    batch.write(&gpu.queue, pool, &told)?;
    let [q, k, v] = &tensors;
    let (o, _) = caller.run(gpu, a, [q, k, v])?;
    let mut begin = 0;
    for (user, tokens) in entries {
        let end = begin + *tokens as usize * D;
        users[*user].o.extend_from_slice(&o[begin..end]);
        begin = end;
    }
    Ok(())
}
