//! The model on a wgpu device: its own small kernels around the attention of this crate, all of a
//! step in one compute pass.

use linear_attention::serve::{Batch, Sequences, Slot, StatePool};
use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, Buffer, BufferUsages, ShaderModule};
use linear_attention::{Bound, Config, LinearAttention, Readback, Tensors};

use crate::engine::{Call, MAX_CONVERSATIONS, MAX_STEP_TOKENS, Piece, Pools, States};
use crate::engine::{entries, tokens};
use crate::error::Error;
use crate::model::{Activation, Linear, Model, Operation, Rows};

/// The model on a device.
#[derive(Debug)]
pub struct GpuEngine {
    pub(crate) model: Model,
    device: wgpu::Device,
    queue: wgpu::Queue,
    layers: Vec<Layer>,
    steps: Vec<Step>,
    /// The tokens of a step, and the positions of the last of its sequences.
    tokens: Buffer,
    last: Buffer,
    logits: Buffer,
}

#[derive(Debug)]
struct Layer {
    attention: LinearAttention,
    pool: StatePool,
    /// Of each [`Call`].
    calls: Vec<(Batch, Bound)>,
}

/// An operation of the model.
#[derive(Debug)]
enum Step {
    Dispatch {
        pipeline: wgpu::ComputePipeline,
        bind_group: wgpu::BindGroup,
        /// Workgroups along a row, and the rows that one takes.
        columns: u32,
        rows: u32,
        is_of_sequences: bool,
    },
    Attend {
        layer: usize,
    },
}

impl GpuEngine {
    pub(crate) fn new(
        model: Model,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
    ) -> Result<Self, Error> {
        let buffers = Buffers::new(device, &model);
        let layer = |config: &Config| Layer::new(device, config, &model, &buffers);
        let layers = model.attentions.iter().map(layer).collect::<Result<Vec<_>, Error>>()?;
        let kernels = Kernels::new(device);
        let step = |operation: &Operation| kernels.step(&model, operation, &buffers);
        let steps = model.operations.iter().map(step).collect();
        let logits = buffers.of(Rows::Logits).clone();
        let (device, queue) = (device.clone(), queue.clone());
        let Buffers { tokens, last, .. } = buffers;
        Ok(Self { model, device, queue, layers, steps, tokens, last, logits })
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    pub(crate) async fn snapshots(&self, states: &States) -> Result<Vec<Vec<u8>>, Error> {
        let mut snapshots = Vec::new();
        for (layer, slot) in self.layers.iter().zip(&states.0) {
            let mut encoder = self.encoder();
            let snapshot = layer.pool.snapshot(&mut encoder, *slot)?;
            self.queue.submit([encoder.finish()]);
            snapshots.push(snapshot.read().await?);
        }
        Ok(snapshots)
    }

    pub(crate) async fn step(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, Error> {
        let (tokens, last) = tokens(pieces);
        let call = Call::of(pieces) as usize;
        for (number, layer) in self.layers.iter().enumerate() {
            layer.calls[call].0.write(&self.queue, &layer.pool, &entries(number, pieces))?;
        }
        self.queue.write_buffer(&self.tokens, 0, bytemuck::cast_slice(&tokens));
        self.queue.write_buffer(&self.last, 0, bytemuck::cast_slice(&last));
        let mut encoder = self.encoder();
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for step in &self.steps {
            match step {
                Step::Attend { layer } => {
                    let layer = &self.layers[*layer];
                    layer.attention.dispatch(&mut pass, &layer.calls[call].1);
                }
                Step::Dispatch { pipeline, bind_group, columns, rows, is_of_sequences } => {
                    let count = if *is_of_sequences { last.len() } else { tokens.len() } as u32;
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, bind_group, &[]);
                    pass.dispatch_workgroups(*columns, count.div_ceil(*rows), 1);
                }
            }
        }
        drop(pass);
        let bytes = (last.len() * self.model.width(Rows::Logits) * size_of::<f32>()) as u64;
        let ranges = [(&self.logits, 0, bytes)];
        let readback = Readback::record_ranges(&self.device, &mut encoder, &ranges)?;
        self.queue.submit([encoder.finish()]);
        Ok(readback.read().await?.concat())
    }

    /// Records commands and submits them at once.
    fn submit<T>(
        &self,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut encoder = self.encoder();
        let recorded = record(&mut encoder)?;
        self.queue.submit([encoder.finish()]);
        Ok(recorded)
    }
}

impl Pools for GpuEngine {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn allocate(&self, layer: usize) -> Result<Slot, Error> {
        self.submit(|encoder| Ok(self.layers[layer].pool.allocate(encoder)?))
    }

    fn fork(&self, layer: usize, slot: Slot) -> Result<Slot, Error> {
        self.submit(|encoder| Ok(self.layers[layer].pool.fork(encoder, slot)?))
    }

    fn free(&self, layer: usize, slot: Slot) -> Result<(), Error> {
        Ok(self.layers[layer].pool.free(slot)?)
    }

    fn restore(&self, layer: usize, bytes: &[u8]) -> Result<Slot, Error> {
        self.submit(|encoder| Ok(self.layers[layer].pool.restore(encoder, bytes)?))
    }
}

/// The buffers that operations share.
struct Buffers {
    tokens: Buffer,
    last: Buffer,
    /// Of each [`Rows`].
    rows: Vec<Buffer>,
}

impl Buffers {
    fn new(device: &wgpu::Device, model: &Model) -> Self {
        let rows = |rows: Rows| {
            let most = if rows.is_of_sequences() { MAX_CONVERSATIONS } else { MAX_STEP_TOKENS };
            buffer(device, most * model.width(rows))
        };
        Self {
            tokens: buffer(device, MAX_STEP_TOKENS),
            last: buffer(device, MAX_CONVERSATIONS),
            rows: Rows::ALL.into_iter().map(rows).collect(),
        }
    }

    fn of(&self, rows: Rows) -> &Buffer {
        &self.rows[rows as usize]
    }
}

/// A buffer of so many words.
fn buffer(device: &wgpu::Device, len: usize) -> Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("generate"),
        size: (len.max(1) * size_of::<f32>()) as u64,
        usage: BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    })
}

fn constant(device: &wgpu::Device, data: &[f32]) -> Buffer {
    device.create_buffer_init(&BufferInitDescriptor {
        label: Some("generate"),
        contents: bytemuck::cast_slice(data),
        usage: BufferUsages::STORAGE,
    })
}

impl Layer {
    fn new(
        device: &wgpu::Device,
        config: &Config,
        model: &Model,
        buffers: &Buffers,
    ) -> Result<Self, Error> {
        let slots = MAX_CONVERSATIONS as u32;
        let attention = LinearAttention::new(device, config.clone())?;
        let pool = StatePool::new(device, config, model.sizes.heads as u32, slots)?;
        let mut calls = Vec::new();
        for call in Call::ALL {
            let plan = attention.plan(&call.shape(&model.sizes))?;
            let batch = Batch::new(&plan, &pool)?;
            let [q, k, v, o] =
                [Rows::Query, Rows::Key, Rows::Value, Rows::Attended].map(|of| buffers.of(of));
            let mut tensors = Tensors::new(q, k, v, o)
                .with_pool(pool.binding())
                .with_sequences(Sequences::Host(&batch));
            if config.update_rule.decay().is_some() {
                let [decay, beta] = [Rows::Decay, Rows::Beta].map(|of| buffers.of(of));
                tensors = tensors
                    .with_decay(decay.as_entire_buffer_binding())
                    .with_beta(beta.as_entire_buffer_binding());
            }
            let scratch = buffer(device, plan.scratch_size().div_ceil(4) as usize);
            let scratch = (plan.scratch_size() > 0).then(|| scratch.as_entire_buffer_binding());
            let bound = attention.bind(&plan, &tensors, scratch)?;
            calls.push((batch, bound));
        }
        Ok(Self { attention, pool, calls })
    }
}

/// The kernels around attention.
struct Kernels<'a> {
    device: &'a wgpu::Device,
    gather: ShaderModule,
    norm: ShaderModule,
    linear: ShaderModule,
}

impl<'a> Kernels<'a> {
    fn new(device: &'a wgpu::Device) -> Self {
        Self {
            device,
            gather: device.create_shader_module(wgpu::include_wgsl!("../shaders/gather.wgsl")),
            norm: device.create_shader_module(wgpu::include_wgsl!("../shaders/norm.wgsl")),
            linear: device.create_shader_module(wgpu::include_wgsl!("../shaders/linear.wgsl")),
        }
    }

    fn step(&self, model: &Model, operation: &Operation, buffers: &Buffers) -> Step {
        match operation {
            Operation::Attend { layer } => Step::Attend { layer: *layer },
            Operation::Embed { to } => {
                let embedding = constant(self.device, &model.embedding);
                self.gather(model, &embedding, &buffers.tokens, (buffers, *to))
            }
            Operation::TakeLast { from, to } => {
                self.gather(model, buffers.of(*from), &buffers.last, (buffers, *to))
            }
            Operation::Norm { from, gamma, to } => {
                let parts = model.width(*from) / gamma.len();
                let constants = [("WIDTH", gamma.len() as f64), ("PARTS", parts as f64)];
                let gamma = constant(self.device, gamma);
                let tensors = [buffers.of(*from), &gamma, buffers.of(*to)];
                self.dispatch((&self.norm, &constants), &tensors, (parts, 1), *to)
            }
            Operation::Linear { from, linear, to, adds } => {
                let [weights, bias] = self.weights(linear);
                let constants = [
                    ("INPUTS", linear.inputs as f64),
                    ("OUTPUTS", linear.outputs as f64),
                    ("ACTIVATION", f64::from(linear.activation.number())),
                    ("ADDS", f64::from(u8::from(*adds))),
                ];
                let tensors = [buffers.of(*from), &weights, &bias, buffers.of(*to)];
                let columns = linear.outputs.div_ceil(16);
                self.dispatch((&self.linear, &constants), &tensors, (columns, 4), *to)
            }
        }
    }

    fn gather(
        &self,
        model: &Model,
        from: &Buffer,
        index: &Buffer,
        (buffers, to): (&Buffers, Rows),
    ) -> Step {
        let width = model.width(to);
        let constants = [("WIDTH", width as f64)];
        let tensors = [from, index, buffers.of(to)];
        self.dispatch((&self.gather, &constants), &tensors, (width.div_ceil(64), 1), to)
    }

    /// W, and the bias with rates behind it.
    fn weights(&self, linear: &Linear) -> [Buffer; 2] {
        let mut bias = linear.bias.clone();
        match &linear.activation {
            Activation::Decay { rates } => bias.extend(rates),
            _ => bias.resize(2 * linear.outputs, 0.0),
        }
        [&linear.weights, &bias].map(|data| constant(self.device, data))
    }

    /// A kernel whose tensors are its bindings in this order.
    fn dispatch(
        &self,
        (module, constants): (&ShaderModule, &[(&str, f64)]),
        tensors: &[&Buffer],
        (columns, rows): (usize, u32),
        to: Rows,
    ) -> Step {
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("generate"),
            layout: None,
            module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        let resources = tensors.iter().map(|tensor| tensor.as_entire_binding());
        let entry = |(binding, resource)| wgpu::BindGroupEntry { binding, resource };
        let entries: Vec<_> = (0..).zip(resources).map(entry).collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("generate"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let is_of_sequences = to.is_of_sequences();
        Step::Dispatch { pipeline, bind_group, columns: columns as u32, rows, is_of_sequences }
    }
}

impl Activation {
    fn number(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Silu => 1,
            Self::Sigmoid => 2,
            Self::Decay { .. } => 3,
        }
    }
}
