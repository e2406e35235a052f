//! A continuous-batching loop, as an inference engine has one: users arrive with a shared
//! system prompt and a prompt of their own, get a token a step, and leave; their states are
//! slots of one pool, and some are parked on disk for a while. Every step is one submission
//! with one call for the pieces of prompts and one for the users who decode, both bound once.
//!
//! `cargo run --release --example serve [USERS]` prints tokens a second, bytes a user and how
//! long steps took, and fails where a user's outputs are not those of its sequence run alone.

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use linear_attention::serve::{Batch, Entry, Sequences, Slot, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{Bound, Config, Inputs, LinearAttention, Plan, Readback, Shape, Tensors};

const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const WIDTH: usize = 32;
/// Users at a time, and the prefix that all of them share.
const SLOTS: u32 = 129;
const PREFIX: usize = 100;
/// Tokens of prompts in a step, and of one prompt.
const PROMPT_TOKENS: usize = 512;
const PIECE: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let users: u32 = std::env::args().nth(1).map_or(Ok(300), |given| given.parse())?;
    if users == 0 {
        return Err("expected at least one user".into());
    }
    let mut server = Server::new()?;
    let mut waiting: VecDeque<User> = (1..=users).map(User::new).collect();
    let mut parked: VecDeque<(User, PathBuf)> = VecDeque::new();
    let mut active: Vec<User> = Vec::new();
    let mut done: Vec<User> = Vec::new();
    let folder = std::env::temp_dir().join(format!("linear-attention-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;

    let begin = Instant::now();
    let (mut times, mut tokens) = (Vec::new(), 0);
    while done.len() < users as usize {
        // Those who come back, then those who are new, as long as there are slots.
        while server.pool.available() > 0 {
            if let Some((mut user, file)) = parked.pop_front() {
                user.slot = Some(server.restore(&std::fs::read(&file)?)?);
                std::fs::remove_file(file)?;
                active.push(user);
            } else if let Some(mut user) = waiting.pop_front() {
                user.slot = Some(server.arrive()?);
                active.push(user);
            } else {
                break;
            }
        }
        let start = Instant::now();
        tokens += server.step(&mut active)?;
        times.push(start.elapsed());

        for user in std::mem::take(&mut active) {
            let slot = user.slot.ok_or("an active user has a slot")?;
            if user.fed() == user.len {
                server.pool.free(slot)?;
                done.push(user);
            } else if user.fed() == user.parks_at {
                let file = folder.join(format!("{}.state", user.seed));
                std::fs::write(&file, server.snapshot(slot)?)?;
                server.pool.free(slot)?;
                parked.push_back((User { slot: None, ..user }, file));
            } else {
                active.push(user);
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_dir(folder)?;

    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let state = StatePool::state_size(server.attention.config(), KV_HEADS as u32)?;
    println!(
        "{users} users, {tokens} tokens in {} steps, {:.0} tokens/s",
        times.len(),
        tokens as f64 / seconds
    );
    println!("{state} bytes a user, however long its conversation");
    println!("a step: p50 {:.2?}, p99 {:.2?}", at(0.5), at(0.99));

    let worst = done
        .iter()
        .map(|user| server.difference(user))
        .try_fold(0.0, |worst: f32, found| found.map(|found| worst.max(found)))?;
    println!("largest difference from a sequence run alone: {worst:.1e} of its largest output");
    if worst > 1e-5 {
        return Err(format!("a user's outputs differ by {worst:.1e}").into());
    }
    Ok(())
}

/// A synthetic user: after the shared prefix a prompt, then one token a step.
struct User {
    seed: u32,
    prompt: usize,
    len: usize,
    /// Tokens after which it is parked; beyond `len` for most.
    parks_at: usize,
    slot: Option<Slot>,
    o: Vec<f32>,
}

impl User {
    fn new(seed: u32) -> Self {
        let prompt = 1 + hash(seed, 0) as usize % 300;
        let len = prompt + 1 + hash(seed, 1) as usize % 40;
        let parks_at = if seed.is_multiple_of(7) { prompt } else { usize::MAX };
        Self { seed, prompt, len, parks_at, slot: None, o: Vec::new() }
    }

    fn fed(&self) -> usize {
        self.o.len() / (HEADS * WIDTH)
    }
}

/// q, k and v of some tokens of one conversation, as a model's layer would compute them.
#[derive(Default)]
struct Tokens {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Tokens {
    fn push(&mut self, seed: u32, position: usize) {
        let mut salt = hash(seed, position as u32);
        let mut row = |x: &mut Vec<f32>, heads: usize| {
            x.extend((0..heads * WIDTH).map(|_| {
                salt = hash(salt, 1);
                (salt >> 8) as f32 / (1 << 23) as f32 - 1.0
            }));
        };
        row(&mut self.q, HEADS);
        row(&mut self.k, KV_HEADS);
        row(&mut self.v, KV_HEADS);
    }
}

fn hash(seed: u32, salt: u32) -> u32 {
    let x = (seed ^ salt.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
    let x = (x ^ (x >> 15)).wrapping_mul(0xC2B2_AE35);
    x ^ (x >> 13)
}

/// A plan bound to buffers that its tokens go through.
struct Call {
    plan: Plan,
    bound: Bound,
    batch: Batch,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    o: wgpu::Buffer,
}

struct Server {
    device: wgpu::Device,
    queue: wgpu::Queue,
    attention: LinearAttention,
    pool: StatePool,
    prefix: Slot,
    prompts: Call,
    decode: Call,
}

impl Server {
    fn new() -> Result<Self, Box<dyn Error>> {
        let (device, queue) = open_device()?;
        let config = Config::new(WIDTH as u32, WIDTH as u32);
        let attention = LinearAttention::new(&device, config.clone())?;
        let pool = StatePool::new(&device, &config, KV_HEADS as u32, SLOTS)?;
        let shape = |sequences: u32, tokens, max_len| {
            Shape::packed_up_to(PackedLimits { sequences, tokens, max_len }, HEADS as u32)
                .with_kv_heads(KV_HEADS as u32)
                .with_slots(SLOTS)
        };
        let call = |shape: Shape| Call::new(&device, &attention, &pool, &shape);
        let prompts = call(shape(32, PROMPT_TOKENS as u32, PIECE as u32))?;
        let decode = call(shape(SLOTS, SLOTS, 1))?;

        // The system prompt is computed once; every user begins with a copy of its state.
        let mut encoder = device.create_command_encoder(&Default::default());
        let prefix = pool.allocate(&mut encoder)?;
        let mut tokens = Tokens::default();
        (0..PREFIX).for_each(|position| tokens.push(0, position));
        prompts.write(&queue, &pool, &[Entry::new(prefix, PREFIX as u32)], &tokens)?;
        attention.record(&mut encoder, &prompts.bound);
        queue.submit([encoder.finish()]);
        Ok(Self { device, queue, attention, pool, prefix, prompts, decode })
    }

    fn arrive(&self) -> Result<Slot, Box<dyn Error>> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let slot = self.pool.fork(&mut encoder, self.prefix)?;
        self.queue.submit([encoder.finish()]);
        Ok(slot)
    }

    fn snapshot(&self, slot: Slot) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let snapshot = self.pool.snapshot(&mut encoder, slot)?;
        self.queue.submit([encoder.finish()]);
        Ok(snapshot.wait()?)
    }

    fn restore(&self, bytes: &[u8]) -> Result<Slot, Box<dyn Error>> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let slot = self.pool.restore(&mut encoder, bytes)?;
        self.queue.submit([encoder.finish()]);
        Ok(slot)
    }

    /// A piece of prompt for some users, a token for those who decode; returns how many tokens.
    fn step(&mut self, active: &mut [User]) -> Result<usize, Box<dyn Error>> {
        let mut calls = [(&self.prompts, Vec::new()), (&self.decode, Vec::new())];
        let mut budget = PROMPT_TOKENS;
        for (index, user) in active.iter().enumerate() {
            let left = user.prompt.saturating_sub(user.fed());
            let piece = left.min(PIECE).min(budget);
            if left == 0 {
                calls[1].1.push((index, 1));
            } else if piece > 0 && calls[0].1.len() < self.prompts.plan.shape().sequences() as usize
            {
                calls[0].1.push((index, piece));
                budget -= piece;
            }
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut outputs = Vec::new();
        for (call, parts) in calls.iter().filter(|(_, parts)| !parts.is_empty()) {
            let (mut entries, mut tokens) = (Vec::new(), Tokens::default());
            for (index, count) in parts {
                let user = &active[*index];
                let slot = user.slot.ok_or("an active user has a slot")?;
                entries.push(Entry::new(slot, *count as u32));
                (user.fed()..user.fed() + count)
                    .for_each(|position| tokens.push(user.seed, position));
            }
            call.write(&self.queue, &self.pool, &entries, &tokens)?;
            self.attention.record(&mut encoder, &call.bound);
            outputs.push((parts, &call.o));
        }
        let buffers: Vec<_> = outputs.iter().map(|(_, o)| *o).collect();
        let readback = Readback::record(&self.device, &mut encoder, &buffers)?;
        self.queue.submit([encoder.finish()]);
        let mut count = 0;
        for ((parts, _), o) in outputs.iter().zip(readback.wait()?) {
            let mut rows = o.chunks(HEADS * WIDTH);
            for (index, tokens) in parts.iter() {
                rows.by_ref().take(*tokens).for_each(|row| active[*index].o.extend_from_slice(row));
                count += tokens;
            }
        }
        Ok(count)
    }

    /// The difference of a user's outputs from those of its whole sequence in one call.
    fn difference(&self, user: &User) -> Result<f32, Box<dyn Error>> {
        let mut tokens = Tokens::default();
        (0..PREFIX).for_each(|position| tokens.push(0, position));
        (0..user.len).for_each(|position| tokens.push(user.seed, position));
        let shape = Shape::new(1, (PREFIX + user.len) as u32, HEADS as u32);
        let shape = shape.with_kv_heads(KV_HEADS as u32);
        let inputs = Inputs::new(&tokens.q, &tokens.k, &tokens.v);
        let alone = self.attention.run(&self.queue, &shape, inputs)?.o;
        let alone = &alone[PREFIX * HEADS * WIDTH..];
        let largest = alone.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let differences = alone.iter().zip(&user.o).map(|(x, y)| (x - y).abs());
        if alone.len() != user.o.len() || largest == 0.0 || differences.clone().any(f32::is_nan) {
            return Ok(f32::INFINITY);
        }
        Ok(differences.fold(0.0, f32::max) / largest)
    }
}

impl Call {
    fn new(
        device: &wgpu::Device,
        attention: &LinearAttention,
        pool: &StatePool,
        shape: &Shape,
    ) -> Result<Self, Box<dyn Error>> {
        let plan = attention.plan(shape)?;
        let batch = Batch::new(&plan, pool)?;
        let buffer = |elements: u64| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("tokens"),
                size: 4 * elements.max(1),
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let lens = plan.lens();
        let [q, k, v, o] = [lens.q, lens.k, lens.v, lens.o].map(buffer);
        let scratch = buffer(plan.scratch_size() / 4);
        let tensors = Tensors::new(&q, &k, &v, &o)
            .with_pool(pool.binding())
            .with_sequences(Sequences::Host(&batch));
        let bound = attention.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
        Ok(Self { plan, bound, batch, q, k, v, o })
    }

    fn write(
        &self,
        queue: &wgpu::Queue,
        pool: &StatePool,
        entries: &[Entry],
        tokens: &Tokens,
    ) -> Result<(), Box<dyn Error>> {
        self.batch.write(queue, pool, entries)?;
        queue.write_buffer(&self.q, 0, bytemuck::cast_slice(&tokens.q));
        queue.write_buffer(&self.k, 0, bytemuck::cast_slice(&tokens.k));
        queue.write_buffer(&self.v, 0, bytemuck::cast_slice(&tokens.v));
        Ok(())
    }
}

fn open_device() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    }))?;
    println!("on {}", adapter.get_info().name);
    Ok(pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..Default::default()
    }))?)
}
