//! The backward pass on a device.

pub(crate) mod bound;
pub(crate) mod plan;
mod run;
pub(crate) mod tensors;

use wgpu::{BufferBinding, ShaderStages};

use crate::attention::LinearAttention;
use crate::backward::bound::BoundBackward;
use crate::backward::plan::BackwardPlan;
use crate::backward::tensors::BackwardTensors;
use crate::bind::options::{Options, ShaderChecks};
use crate::bind::pipelines::{Pipeline, compile};
use crate::error::{BindError, Error, PlanError};
use crate::kernel::gradient::{GradientBinding, GradientStage, map_without_derivative};
use crate::problem::config::Config;
use crate::problem::shape::Shape;

/// The pipelines of the backward pass of one [`Config`] on one device: the gradients of a loss by the
/// inputs of a call, from those by o and the final state.
///
/// It computes what [`reference::backward`](crate::reference::backward) says, in f32, for every update
/// rule, grouped heads and sequences of any lengths, through every feature map but the caller's own,
/// and by the weights of those that have any. Each value head of each sequence is a workgroup's, which
/// goes through the tokens one by one: the more heads and sequences there are, the busier is the
/// device. States are computed again and not kept, but for one before each block of `T^(1/2)` tokens.
///
/// The gradients by weights of maps are sums over all tokens, `dW = Σ dy x^T` and `db = Σ dy` with
/// `y = W x + b`, and over all heads that share weights; their order is fixed, so that the same call
/// gives the same bits.
#[derive(Debug)]
pub struct Backward {
    forward: LinearAttention,
    pipelines: Vec<(GradientStage, Pipeline)>,
}

impl Backward {
    /// For `config`; compiles its pipelines.
    ///
    /// # Errors
    ///
    /// A config out of range, or limits too small for it; [`Error::NoDerivative`] for a feature map of
    /// the caller's own; the device's refusal of a pipeline.
    pub fn new(device: &wgpu::Device, config: Config) -> Result<Self, Error> {
        Self::with_options(device, config, &Options::default())
    }

    /// The same with the caller's [`Options`], of which a backward pass has no use for sizes. Its shaders
    /// are checked, whatever they say.
    ///
    /// # Errors
    ///
    /// As [`Backward::new`].
    pub fn with_options(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
    ) -> Result<Self, Error> {
        Self::with_edit(device, config, options, &|_, wgsl| wgsl)
    }

    /// The same with every shader passed through `edit` first; tests prove with it that a wrong shader
    /// is caught.
    #[cfg(feature = "mutation")]
    #[doc(hidden)]
    pub fn with_mutation(
        device: &wgpu::Device,
        config: Config,
        edit: &dyn Fn(GradientStage, String) -> String,
    ) -> Result<Self, Error> {
        Self::with_edit(device, config, &Options::default(), edit)
    }

    fn with_edit(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
        edit: &dyn Fn(GradientStage, String) -> String,
    ) -> Result<Self, Error> {
        let forward = LinearAttention::with_options(device, config, options)?;
        let config = forward.config();
        if let Some(map) = map_without_derivative(config) {
            return Err(Error::NoDerivative { feature_map: map.name().to_owned() });
        }
        let stages = GradientStage::ALL.into_iter().filter(|stage| stage.is_in(config));
        // Nobody has proved yet that every index is in bounds.
        let checked = options.clone().with_checks(ShaderChecks::Checked);
        let pipelines = stages.map(|stage| {
            let module = stage.module(config, forward.tuning().layout);
            let binds = stage.binds(config);
            let entries: Vec<_> = binds.iter().map(|binding| layout_entry(*binding)).collect();
            let names = (stage.label(), stage.name());
            let wgsl = edit(stage, module.wgsl.clone());
            let made = compile(device, names, (&module, wgsl), &entries, &checked);
            made.map(|pipeline| (stage, pipeline))
        });
        let pipelines = pipelines.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { forward, pipelines })
    }

    /// The config it was compiled for.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.forward.config()
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        self.forward.device()
    }

    /// The plan for `shape`.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::plan`]; [`PlanError::Backward`] for a shape with slots, with lengths that
    /// only a call knows, or with strides.
    pub fn plan(&self, shape: &Shape) -> Result<BackwardPlan, PlanError> {
        BackwardPlan::new(self.forward.plan(shape)?, &self.device().limits())
    }

    /// Binds tensors to a plan: everything that can fail fails here. `scratch` needs
    /// [`BackwardPlan::scratch_size`] bytes.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is missing, too small, misaligned, without a usage, beyond its
    /// buffer, overlapping another where one is written, or refused by the device.
    pub fn bind(
        &self,
        plan: &BackwardPlan,
        tensors: &BackwardTensors<'_>,
        scratch: BufferBinding<'_>,
    ) -> Result<BoundBackward, BindError> {
        if plan.forward.config() != self.config() {
            return Err(BindError::Plan { what: "config" });
        }
        let checked = tensors.check(plan, scratch, &self.device().limits())?;
        BoundBackward::new(self.device(), plan, &checked, &self.pipelines)
    }

    /// Records one compute pass. Allocates nothing, cannot fail.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, bound: &BoundBackward) {
        bound.record(encoder);
    }
}

fn layout_entry(binding: GradientBinding) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding {
        GradientBinding::Params => wgpu::BufferBindingType::Uniform,
        _ => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
