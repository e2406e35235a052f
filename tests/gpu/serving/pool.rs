//! The pool by itself: handles, copies, snapshots, and what does not belong together.

use libtest_mimic::Failed;
use linear_attention::cpu;
use linear_attention::error::{BindError, PoolError};
use linear_attention::serve::{Batch, Entry, Sequences, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{Config, FeatureMap, LinearAttention, Shape, Tensors};

use super::{D, STATE, buffer, encoder, filled_pool, is, state, state_of, states};
use crate::adapters::Gpu;

pub(super) fn handles(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
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

pub(super) fn copies(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
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

pub(super) fn snapshots(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 2)?;
    let mut encoder = encoder(gpu);
    let blocking = pool.snapshot(&mut encoder, slots[1])?;
    let polled = pool.snapshot(&mut encoder, slots[1])?;
    gpu.queue.submit([encoder.finish()]);
    let bytes = blocking.wait()?;
    let mut encoder = super::encoder(gpu);
    is(pollster::block_on(polled.read())? == bytes, "both ways give the same")?;
    let other = StatePool::new(&gpu.device, a.config(), 1, 1)?;
    let mut damaged = bytes.clone();
    damaged[60] ^= 1;
    for (bytes, what) in [
        (&damaged[..], "checksum"),
        (&bytes[..bytes.len() - 4], "length after the header"),
        (&bytes[..10], "length"),
    ] {
        match other.restore(&mut encoder, bytes) {
            Err(PoolError::Snapshot { what: found, .. }) if found == what => {}
            found => return Err(format!("{found:?} where {what} was due").into()),
        }
    }
    let two_heads = StatePool::new(&gpu.device, a.config(), 2, 1)?;
    let refused = two_heads.restore(&mut encoder, &bytes);
    is(
        matches!(refused, Err(PoolError::Snapshot { what: "value_heads", .. })),
        "two heads for one",
    )?;
    is(other.available() == 1, "what was refused took no slot")?;
    let restored = other.restore(&mut encoder, &bytes)?;
    gpu.queue.submit([encoder.finish()]);
    is(state(&states(gpu, &other)?, restored) == state_of(slots[1].index()), "restored")?;
    let full = other.restore(&mut super::encoder(gpu), &bytes);
    is(matches!(full, Err(PoolError::Full { .. })), "no slot is left")
}

/// The pool of the CPU engine holds the same states, and makes the same bytes of them.
pub(super) fn to_the_cpu_and_back(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 2)?;
    let mut encoder = encoder(gpu);
    let snapshot = pool.snapshot(&mut encoder, slots[1])?;
    gpu.queue.submit([encoder.finish()]);
    let bytes = snapshot.wait()?;
    let on_the_cpu = cpu::StatePool::new(a.config(), 1, 2)?;
    let there = on_the_cpu.restore(&bytes)?;
    is(on_the_cpu.snapshot(there)? == bytes, "the same bytes from the CPU")?;
    let mut encoder = super::encoder(gpu);
    pool.free(slots[0])?;
    let back = pool.restore(&mut encoder, &on_the_cpu.snapshot(on_the_cpu.fork(there)?)?)?;
    gpu.queue.submit([encoder.finish()]);
    is(state(&states(gpu, &pool)?, back) == state_of(slots[1].index()), "back on the device")
}

pub(super) fn in_the_callers_buffer(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
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

pub(super) fn refuses(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 4)?;
    let plan = a.plan(
        &Shape::packed_up_to(PackedLimits { sequences: 2, tokens: 8, max_len: 6 }, 1).with_slots(4),
    )?;
    let batch = Batch::new(&plan, &pool)?;
    let entry = |slot: usize, tokens| Entry::new(slots[slot], tokens);
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
    for (heads, slots, what) in [(1, 5, "slots"), (2, 4, "value_heads")] {
        let other = StatePool::new(&gpu.device, a.config(), heads, slots)?;
        let refused = Batch::new(&plan, &other).err();
        let found = matches!(&refused, Some(PoolError::Pool { what: found, .. }) if *found == what);
        is(found, &format!("{refused:?} where {what} differ"))?;
    }
    let relu = StatePool::new(&gpu.device, &relu(a), 1, 4)?;
    let refused = Batch::new(&plan, &relu).err();
    is(matches!(refused, Some(PoolError::Pool { what: "config", .. })), "states of another map")?;
    let dense = a.plan(&Shape::new(2, 4, 1))?;
    let refused = Batch::new(&dense, &pool).err();
    is(refused == Some(PoolError::NotPooled), "no pool at all")?;

    let [q, k, v, o] = [0; 4].map(|_| buffer(gpu, &[0; 8 * 4 * D]));
    let tensors = Tensors::new(&q, &k, &v, &o);
    let scratch = || Some(q.as_entire_buffer_binding());
    let bind = |tensors: &Tensors<'_>| a.bind(&plan, tensors, scratch()).err();
    is(bind(&tensors) == Some(BindError::Missing { tensor: "pool" }), "no pool")?;
    let tensors = tensors.with_pool(pool.binding());
    is(bind(&tensors) == Some(BindError::Missing { tensor: "sequences" }), "no sequences")?;
    let tensors = tensors.with_sequences(Sequences::Host(&batch));
    is(bind(&tensors).is_none(), "what it needs")?;
    let strange = tensors.clone().with_pool(other.binding());
    is(bind(&strange) == Some(BindError::Batch { what: "pool" }), "a batch of another pool")?;
    let two_heads = StatePool::new(&gpu.device, a.config(), 2, 4)?;
    let strange = tensors.clone().with_pool(two_heads.binding());
    let (required, actual) = (16 * STATE as u64, 32 * STATE as u64);
    is(bind(&strange) == Some(BindError::PoolSize { required, actual }), "a pool of other states")?;
    let longer = a.plan(
        &Shape::packed_up_to(PackedLimits { sequences: 2, tokens: 9, max_len: 6 }, 1).with_slots(4),
    )?;
    let found = a.bind(&longer, &tensors, scratch()).err();
    is(found == Some(BindError::Batch { what: "plan" }), "a batch of another plan")?;
    let tensors = tensors.with_initial_state(pool.binding());
    is(bind(&tensors) == Some(BindError::Unexpected { tensor: "initial_state" }), "two states")
}

fn relu(a: &LinearAttention) -> Config {
    let mut config = a.config().clone();
    config.feature_map = FeatureMap::Relu;
    config
}
