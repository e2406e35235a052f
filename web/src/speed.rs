//! Calls of linear and of softmax attention of the same tensors, to be timed by the page.

use linear_attention::cpu::{CpuAttention, CpuPlan, Tensors as CpuTensors};
use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{
    Bound, Config, Inputs, LinearAttention, Readback, Shape, Tensors, reference,
};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::computer::Computer;
use crate::softmax::{Softmax, softmax};

/// H.
pub(crate) const HEADS: usize = 4;

/// K and V.
pub(crate) const WIDTH: usize = 64;

/// Both kinds of attention for one T, in f32 with H = 4 and K = V = 64.
#[wasm_bindgen]
pub struct Speed {
    tokens: u32,
    inputs: [Vec<f32>; 3],
    on: On,
}

enum On {
    Cpu { plan: Box<CpuPlan>, o: Vec<f32> },
    Gpu(Box<Gpu>),
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    attention: LinearAttention,
    bound: Bound,
    softmax: Softmax,
    o: wgpu::Buffer,
}

#[wasm_bindgen]
impl Speed {
    /// Of random inputs.
    ///
    /// # Errors
    ///
    /// Tensors that are larger than the device binds.
    #[wasm_bindgen(constructor)]
    pub fn new(computer: &Computer, tokens: u32) -> Result<Speed, JsError> {
        let len = tokens as usize * HEADS * WIDTH;
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = || {
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            (random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let inputs: [Vec<f32>; 3] = [(); 3].map(|()| (0..len).map(|_| next()).collect());
        let config = Config::new(WIDTH as u32, WIDTH as u32);
        let shape = Shape::new(1, tokens, HEADS as u32);
        let on = match &computer.gpu {
            None => {
                let plan = Box::new(CpuAttention::new(config)?.plan(&shape)?);
                On::Cpu { plan, o: vec![0.0; len] }
            }
            Some((device, queue)) => {
                On::Gpu(Box::new(Gpu::new(device, queue, config, &shape, &inputs)?))
            }
        };
        Ok(Self { tokens, inputs, on })
    }

    /// Calls linear attention so many times, and waits.
    ///
    /// # Errors
    ///
    /// The device was lost.
    pub async fn linear(&mut self, times: u32) -> Result<(), JsError> {
        match &mut self.on {
            On::Cpu { plan, o } => {
                let [q, k, v] = &self.inputs;
                for _ in 0..times {
                    plan.run(CpuTensors::new(&q[..], &k[..], &v[..], &mut o[..]).without_states())?;
                }
                Ok(())
            }
            On::Gpu(gpu) => {
                gpu.run(times, |encoder| gpu.attention.record(encoder, &gpu.bound)).await
            }
        }
    }

    /// The same of softmax attention.
    ///
    /// # Errors
    ///
    /// The device was lost.
    pub async fn softmax(&mut self, times: u32) -> Result<(), JsError> {
        match &mut self.on {
            On::Cpu { o, .. } => {
                let inputs = self.inputs.each_ref().map(|x| &x[..]);
                (0..times).for_each(|_| softmax(inputs, o));
                Ok(())
            }
            On::Gpu(gpu) => gpu.run(times, |encoder| gpu.softmax.record(encoder)).await,
        }
    }

    /// The largest errors of both against f64, over the largest output, as JSON. It takes a time
    /// that grows with the square of T.
    ///
    /// # Errors
    ///
    /// The device was lost.
    pub async fn errors(&mut self) -> Result<String, JsError> {
        let config = Config::new(WIDTH as u32, WIDTH as u32);
        let shape = Shape::new(1, self.tokens, HEADS as u32);
        let [q, k, v] = self.inputs.each_ref().map(|x| &x[..]);
        let inputs = Inputs::new(q, k, v);
        let linear64 = reference::recurrent(&config, &shape, inputs)?.o;
        let softmax64 = reference::softmax(&config, &shape, inputs)?;
        self.linear(1).await?;
        let linear = error(&self.o().await?, &linear64);
        self.softmax(1).await?;
        let softmax = error(&self.o().await?, &softmax64);
        Ok(json!({ "linear": linear, "softmax": softmax }).to_string())
    }

    async fn o(&self) -> Result<Vec<f32>, JsError> {
        match &self.on {
            On::Cpu { o, .. } => Ok(o.clone()),
            On::Gpu(gpu) => {
                let mut encoder = gpu.device.create_command_encoder(&Default::default());
                let readback = Readback::record(&gpu.device, &mut encoder, &[&gpu.o])?;
                gpu.queue.submit([encoder.finish()]);
                Ok(readback.read().await?.concat())
            }
        }
    }
}

impl Gpu {
    fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        config: Config,
        shape: &Shape,
        inputs: &[Vec<f32>; 3],
    ) -> Result<Self, JsError> {
        let attention = LinearAttention::new(device, config)?;
        let plan = attention.plan(shape)?;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let init = |data: &Vec<f32>| {
            let contents = bytemuck::cast_slice(data);
            device.create_buffer_init(&BufferInitDescriptor {
                label: Some("input"),
                contents,
                usage,
            })
        };
        let empty = |size: u64| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("output"),
                size: size.max(4),
                usage,
                mapped_at_creation: false,
            })
        };
        let [q, k, v] = inputs.each_ref().map(init);
        let (o, scratch) = (empty(q.size()), empty(plan.scratch_size()));
        let tensors = Tensors::new(&q, &k, &v, &o);
        let bound = attention.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
        let softmax = Softmax::new(device, [&q, &k, &v, &o], shape.seq_len);
        let (device, queue) = (device.clone(), queue.clone());
        Ok(Self { device, queue, attention, bound, softmax, o })
    }

    /// Records and submits so many calls, each in a submission of its own, and waits for the last.
    async fn run(
        &self,
        times: u32,
        record: impl Fn(&mut wgpu::CommandEncoder),
    ) -> Result<(), JsError> {
        for _ in 0..times {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            record(&mut encoder);
            self.queue.submit([encoder.finish()]);
        }
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let word = [(&self.o, 0, 4)];
        let readback = Readback::record_ranges(&self.device, &mut encoder, &word)?;
        self.queue.submit([encoder.finish()]);
        readback.read::<u8>().await?;
        Ok(())
    }
}

/// The largest difference, over the largest element; infinite where one is no number.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(x, y)| (f64::from(*x) - y).abs());
    if found.len() != expected.len() || found.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    differences.fold(0.0, f64::max) / largest
}
