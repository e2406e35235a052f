//! The engine that computes a rank's piece.

use std::sync::OnceLock;

use linear_attention::cpu::CpuAttention;
use linear_attention::gradients::{Backward, Gradients, OutputGradients};
use linear_attention::summary::{Summarizer, Summary};
use linear_attention::{Config, Error, Inputs, LinearAttention, Output, Shape, wgpu};

/// An engine that computes pieces. Each rank has one of its own: GPUs and CPUs may be mixed.
pub trait Engine {
    /// The config that it computes, the same on all ranks.
    fn config(&self) -> &Config;

    /// True if a summary takes much less time than an output. Otherwise rank 0, which knows the
    /// state before its piece, computes its outputs and the state after them in one pass, and gives
    /// that state to the others.
    fn has_cheap_summaries(&self) -> bool {
        false
    }

    /// The summary of the tokens of a piece.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::summarize`].
    fn summarize(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Summary, Error>;

    /// The output of a piece and the state after it.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::run`].
    fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error>;

    /// The gradients by the inputs of a piece.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::backward`].
    fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error>;
}

impl Engine for CpuAttention {
    fn config(&self) -> &Config {
        self.config()
    }

    /// True for the rules with a sum, whose summaries have no further columns.
    fn has_cheap_summaries(&self) -> bool {
        self.config().update_rule.beta().is_none()
    }

    fn summarize(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Summary, Error> {
        self.summarize(shape, inputs)
    }

    fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
        self.run(shape, inputs)
    }

    fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        self.backward(shape, inputs, gradients)
    }
}

/// The kernels on a wgpu device. Summaries go through the host, since MPI cannot reach a wgpu
/// buffer.
#[derive(Debug)]
pub struct DeviceEngine {
    device: wgpu::Device,
    queue: wgpu::Queue,
    attention: LinearAttention,
    summarizer: Summarizer,
    /// Made by the first backward pass.
    backward: OnceLock<Backward>,
}

impl DeviceEngine {
    /// For `config` on a device of the caller's. Compiles nothing yet.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::new`] and [`Summarizer::new`].
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, config: Config) -> Result<Self, Error> {
        Ok(Self {
            device: device.clone(),
            queue: queue.clone(),
            attention: LinearAttention::new(device, config.clone())?,
            summarizer: Summarizer::new(device, config)?,
            backward: OnceLock::new(),
        })
    }
}

impl Engine for DeviceEngine {
    fn config(&self) -> &Config {
        self.attention.config()
    }

    fn summarize(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Summary, Error> {
        self.summarizer.run(&self.queue, shape, inputs)
    }

    fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
        self.attention.run(&self.queue, shape, inputs)
    }

    fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let backward = match self.backward.get() {
            Some(backward) => backward,
            None => {
                let made = Backward::new(&self.device, self.config().clone())?;
                self.backward.get_or_init(|| made)
            }
        };
        backward.run(&self.queue, shape, inputs, gradients)
    }
}
