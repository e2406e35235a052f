//! A conversation that moves between engines: the GPU computes its prompt, the CPU decodes tokens,
//! and the GPU continues. The state moves as a snapshot, which the pools of both make and restore;
//! the whole is compared with the f64 reference.

use std::error::Error;

use linear_attention::cpu::{self, CpuAttention};
use linear_attention::serve::{Batch, Entry, Sequences, Slot, StatePool};
use linear_attention::wgpu::util::DeviceExt;
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{Config, Inputs, LinearAttention, Readback, Shape, Tensors, reference};

const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/minilm-layer0-t512-f16.safetensors");

/// Tokens of the prompt, and of the conversation when it leaves the CPU.
const PROMPT: usize = 384;
const DECODED: usize = 448;

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = std::fs::read(FILE)?;
    let text = Text::of(&safetensors::SafeTensors::deserialize(&bytes)?)?;
    let config = Config::new(text.width as u32, text.width as u32);
    let gpu = Gpu::new(&config, &text)?;

    let mut encoder = gpu.encoder();
    let slot = gpu.pool.allocate(&mut encoder)?;
    gpu.queue.submit([encoder.finish()]);
    let mut o = gpu.run(&text, 0, PROMPT, slot)?;
    let prompt = gpu.snapshot(slot)?;
    gpu.pool.free(slot)?;
    println!("{PROMPT} tokens on the GPU, a state of {} bytes", prompt.len());

    // A plan for one token, made once.
    let pool = cpu::StatePool::new(&config, text.heads as u32, 1)?;
    let slot = pool.restore(&prompt)?;
    let mut plan = CpuAttention::new(config.clone())?.plan(&Shape::new(1, 1, text.heads as u32))?;
    let mut row = vec![0.0; text.heads * text.width];
    for t in PROMPT..DECODED {
        let [q, k, v] = text.rows(t, t + 1);
        let tensors = cpu::Tensors::new(q, k, v, &mut row);
        plan.run_in_pool(&pool, &[Entry::new(slot, 1)], tensors)?;
        o.extend_from_slice(&row);
    }
    println!("{} tokens on the CPU, one by one", DECODED - PROMPT);

    let mut encoder = gpu.encoder();
    let slot = gpu.pool.restore(&mut encoder, &pool.snapshot(slot)?)?;
    gpu.queue.submit([encoder.finish()]);
    o.extend(gpu.run(&text, DECODED, text.tokens, slot)?);
    println!("{} tokens on the GPU again", text.tokens - DECODED);

    let shape = Shape::new(1, text.tokens as u32, text.heads as u32);
    let inputs = Inputs::new(&text.q, &text.k, &text.v);
    let expected = reference::recurrent(&config, &shape, inputs)?.o;
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let errors = o.iter().zip(&expected).map(|(o, expected)| (f64::from(*o) - expected).abs());
    let worst = errors.fold(0.0, f64::max) / largest;
    println!("largest error {worst:.1e} of the largest output");
    if o.len() == expected.len() && worst < 1e-5 {
        return Ok(());
    }
    Err("the outputs are not those of the whole conversation".into())
}

/// q, k and v of one sequence: `[T,H,K]`.
struct Text {
    tokens: usize,
    heads: usize,
    width: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Text {
    fn of(file: &safetensors::SafeTensors<'_>) -> Result<Self, Box<dyn Error>> {
        let [q, k, v] = [file.tensor("q")?, file.tensor("k")?, file.tensor("v")?];
        let &[1, tokens, heads, width] = q.shape() else {
            return Err(format!("q must be [1,T,H,K], found {:?}", q.shape()).into());
        };
        // The file holds f16, little-endian.
        let [q, k, v] = [q, k, v].map(|tensor| {
            let (pairs, _) = tensor.data().as_chunks::<2>();
            pairs.iter().map(|pair| half::f16::from_le_bytes(*pair).to_f32()).collect()
        });
        Ok(Self { tokens, heads, width, q, k, v })
    }

    /// Rows of some tokens, which lie side by side.
    fn rows(&self, from: usize, to: usize) -> [&[f32]; 3] {
        let row = self.heads * self.width;
        [&self.q, &self.k, &self.v].map(|x| &x[from * row..to * row])
    }
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    attention: LinearAttention,
    pool: StatePool,
}

impl Gpu {
    fn new(config: &Config, text: &Text) -> Result<Self, Box<dyn Error>> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        }))?;
        println!("on {}", adapter.get_info().name);
        let (device, queue) =
            pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
                required_limits: adapter.limits(),
                ..Default::default()
            }))?;
        let attention = LinearAttention::new(&device, config.clone())?;
        let pool = StatePool::new(&device, config, text.heads as u32, 1)?;
        Ok(Self { device, queue, attention, pool })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&Default::default())
    }

    /// o of some tokens, which the state of a slot has not seen yet.
    fn run(
        &self,
        text: &Text,
        from: usize,
        to: usize,
        slot: Slot,
    ) -> Result<Vec<f32>, Box<dyn Error>> {
        let tokens = (to - from) as u32;
        let shape = Shape::new(1, tokens, text.heads as u32).with_slots(1);
        let plan = self.attention.plan(&shape)?;
        let batch = Batch::new(&plan, &self.pool)?;
        batch.write(&self.queue, &self.pool, &[Entry::new(slot, tokens)])?;
        let [q, k, v] = text.rows(from, to).map(|x| {
            self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: None,
                contents: bytemuck::cast_slice(x),
                usage: BufferUsages::STORAGE,
            })
        });
        let buffer = |size: u64| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size.max(4),
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let (o, scratch) = (buffer(q.size()), buffer(plan.scratch_size()));
        let tensors = Tensors::new(&q, &k, &v, &o)
            .with_pool(self.pool.binding())
            .with_sequences(Sequences::Host(&batch));
        let binding = (plan.scratch_size() > 0).then(|| scratch.as_entire_buffer_binding());
        let bound = self.attention.bind(&plan, &tensors, binding)?;
        let mut encoder = self.encoder();
        self.attention.record(&mut encoder, &bound);
        let readback = Readback::record(&self.device, &mut encoder, &[&o])?;
        self.queue.submit([encoder.finish()]);
        Ok(readback.wait()?.concat())
    }

    fn snapshot(&self, slot: Slot) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut encoder = self.encoder();
        let snapshot = self.pool.snapshot(&mut encoder, slot)?;
        self.queue.submit([encoder.finish()]);
        Ok(snapshot.wait()?)
    }
}
