//! The backward pass on a device.

pub(crate) mod bound;
mod passes;
pub(crate) mod plan;
mod run;
pub(crate) mod tensors;

use std::sync::{Mutex, PoisonError};

use wgpu::{BufferBinding, ShaderStages};

use crate::attention::LinearAttention;
use crate::backward::bound::BoundBackward;
use crate::backward::passes::Passes;
use crate::backward::plan::BackwardPlan;
use crate::backward::tensors::BackwardTensors;
use crate::bind::options::{Options, ShaderChecks};
use crate::bind::pipelines::{Pipeline, compile};
use crate::error::{BindError, DeviceError, Error, PlanError};
use crate::kernel::gradient::{GradientBinding, GradientStage, RowAccess, map_without_derivative};
use crate::problem::config::Config;
use crate::problem::shape::Shape;

/// The pipelines of the backward pass of one [`Config`] on one device: the gradients of a loss by
/// the inputs of a call, from those by o and the final state.
///
/// It computes what [`reference::backward`](crate::reference::backward) says, in f32, for every
/// update rule, grouped heads and sequences of any lengths, through every feature map but the
/// caller's own, and by the weights of those that have any. There are two recipes:
///
/// - **Sums**, for every rule whose decays, if it has any, are one for each token and head or
///   constant: the forward kernels with the roles of the tensors exchanged, two of four passes in
///   reversed time. States stay in registers, and segments of a sequence run side by side, as the
///   plans of the passes have them. Gradients by decays are computed in blocks of up to 128 tokens
///   between states that the passes keep. With a delta rule what a token adds to the state, and the
///   gradient by it, are computed first, from token to token and columns side by side.
/// - The **recurrence**, for decays of rows, and where a row of features or of v is wider than a row
///   of k may be or the device has no room for the passes: each value head of each
///   sequence is a workgroup's, which goes through the tokens one by one. Where these are fewer than
///   [`Tuning::workgroups`], several share a head, each with some of its columns, and what they add
///   to a gradient is summed up in a fixed order. States are computed again and not kept, but for
///   one before each block of `T^(1/2)` tokens.
///
/// [`Tuning::workgroups`]: crate::tuning::Tuning::workgroups
///
/// The gradients by weights of maps are sums over all tokens, `dW = Σ dy x^T` and `db = Σ dy` with
/// `y = W x + b`, and over all heads that share weights; their order is fixed, so that the same
/// call gives the same bits.
#[derive(Debug)]
pub struct Backward {
    forward: LinearAttention,
    cache: Option<wgpu::PipelineCache>,
    /// `None` where the recurrence computes every call.
    passes: Option<Passes>,
    pipelines: Mutex<Vec<((GradientStage, RowAccess), Pipeline)>>,
}

/// The recipe of a backward pass, for tests of both.
#[doc(hidden)]
#[cfg_attr(not(feature = "mutation"), allow(unreachable_pub, reason = "its export is a feature"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recipe {
    /// Sums where they can be, else the recurrence.
    #[default]
    Best,
    /// The recurrence alone.
    Recurrence,
    /// A mistake: sums all of whose passes are in forward time.
    Unreversed,
}

impl Backward {
    /// For `config`; compiles its pipelines but for those that not every call needs, which the
    /// first [`Backward::bind`] that does compiles: of rows that are not contiguous, of the passes
    /// of sums, and of the recurrence where sums have its place.
    ///
    /// # Errors
    ///
    /// A config out of range, or limits too small for it; [`Error::NoDerivative`] for a feature map
    /// of the caller's own; the device's refusal of a pipeline.
    pub fn new(device: &wgpu::Device, config: Config) -> Result<Self, Error> {
        Self::with_options(device, config, &Options::default())
    }

    /// The same with the caller's [`Options`], of whose sizes a backward pass uses all but the
    /// layout: the occupancy and, in the passes of sums, the lengths of segments. Its own shaders
    /// are checked, whatever they say; the passes are forward kernels, checked as they say.
    ///
    /// # Errors
    ///
    /// As [`Backward::new`].
    pub fn with_options(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
    ) -> Result<Self, Error> {
        Self::with_edit(device, config, options, Recipe::Best, &|_, wgsl| wgsl)
    }

    /// The same by another recipe.
    pub(crate) fn with_recipe(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
        recipe: Recipe,
    ) -> Result<Self, Error> {
        Self::with_edit(device, config, options, recipe, &|_, wgsl| wgsl)
    }

    /// The same with every shader of its own passed through `edit` first; tests prove with it that
    /// a wrong shader is caught.
    #[cfg(feature = "mutation")]
    #[doc(hidden)]
    pub fn with_mutation(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
        recipe: Recipe,
        edit: &dyn Fn(GradientStage, String) -> String,
    ) -> Result<Self, Error> {
        Self::with_edit(device, config, options, recipe, edit)
    }

    fn with_edit(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
        recipe: Recipe,
        edit: &dyn Fn(GradientStage, String) -> String,
    ) -> Result<Self, Error> {
        let forward = LinearAttention::with_options(device, config, options)?;
        let config = forward.config();
        if let Some(map) = map_without_derivative(config) {
            return Err(Error::NoDerivative { feature_map: map.name().to_owned() });
        }
        let passes = match recipe {
            Recipe::Recurrence => None,
            _ => Passes::new(&forward, options, recipe != Recipe::Unreversed)?,
        };
        let cache = options.cache.cloned();
        let mut pipelines = Vec::new();
        let is_needed = |stage: &GradientStage| match passes {
            _ if !stage.is_in(config) => false,
            Some(_) => !stage.is_of_recurrence(),
            None => !stage.is_of_sums(),
        };
        for stage in GradientStage::ALL.into_iter().filter(is_needed) {
            let access = RowAccess::default();
            let pipeline = compile_stage(&forward, cache.as_ref(), (stage, access), edit)?;
            pipelines.push(((stage, access), pipeline));
        }
        Ok(Self { forward, cache, passes, pipelines: Mutex::new(pipelines) })
    }

    /// The pipeline of a stage for such rows, compiled now if it is the first time.
    fn pipeline(&self, stage: GradientStage, access: RowAccess) -> Result<Pipeline, DeviceError> {
        let access = if stage.has_rows() { access } else { RowAccess::default() };
        let lock = || self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(of, _)| *of == (stage, access)).cloned();
        if let Some((_, pipeline)) = known {
            return Ok(pipeline);
        }
        // Not under the lock: a driver may take seconds.
        let cache = self.cache.as_ref();
        let made = compile_stage(&self.forward, cache, (stage, access), &|_, wgsl| wgsl)?;
        lock().push(((stage, access), made.clone()));
        Ok(made)
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
    /// As [`LinearAttention::plan`]; [`PlanError::Backward`] for a shape with slots, or with
    /// lengths that only a call knows.
    pub fn plan(&self, shape: &Shape) -> Result<BackwardPlan, PlanError> {
        let passes = self.passes.as_ref().map(|passes| &passes.configs);
        BackwardPlan::new(self.forward.plan(shape)?, passes, &self.device().limits())
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
        let access = RowAccess { reads_only: checked.shares_rows()?, ..plan.row_access() };
        let pipeline = |stage| self.pipeline(stage, access);
        BoundBackward::new(self.device(), plan, &checked, &pipeline, self.passes.as_ref())
    }

    /// Records one compute pass. Allocates nothing, cannot fail.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, bound: &BoundBackward) {
        bound.record(encoder);
    }
}

fn compile_stage(
    forward: &LinearAttention,
    cache: Option<&wgpu::PipelineCache>,
    (stage, access): (GradientStage, RowAccess),
    edit: &dyn Fn(GradientStage, String) -> String,
) -> Result<Pipeline, DeviceError> {
    let config = forward.config();
    let module = stage.module(config, forward.tuning().layout, access);
    let binds = stage.binds(config).into_iter();
    let entries: Vec<_> = binds.map(|binding| layout_entry(binding, access)).collect();
    let names = (stage.label(), stage.name());
    let wgsl = edit(stage, module.wgsl.clone());
    // Nobody has proved yet that every index is in bounds.
    let options =
        Options { checks: ShaderChecks::Checked, cache, tuning: None, matrix_units: None };
    compile(forward.device(), names, (&module, wgsl), &entries, &options)
}

fn layout_entry(binding: GradientBinding, access: RowAccess) -> wgpu::BindGroupLayoutEntry {
    use GradientBinding::{K, Q, V};
    let ty = match binding {
        GradientBinding::Params => wgpu::BufferBindingType::Uniform,
        _ => {
            let is_row = matches!(binding, Q | K | V);
            wgpu::BufferBindingType::Storage { read_only: is_row && access.reads_only }
        }
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
