//! Pipelines for one config; tensors bound to them; dispatches recorded.

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::bound::{Bound, BoundStep, DUMMY_SIZE, bind_group};
use crate::bind::options::Options;
use crate::bind::parts::tensors_of;
use crate::bind::pipelines::{Edit, Pipelines};
use crate::bind::tensors;
use crate::bind::tensors::{Checked, Tensors};
use crate::device::buffers::empty_buffer;
use crate::error::{BindError, ConfigError, PlanError};
use crate::kernel::stage::Stage;
use crate::plan::Plan;
use crate::plan::split::Split;
use crate::plan::steps::{States, Step};
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::shape::Shape;

/// The pipelines of one [`Config`] on one device.
///
/// All methods take `&self`; share it in an `Arc`. A pipeline is compiled when it is first
/// needed: by the first [`bind`] that needs it, or before that by [`prepare`]. What calls
/// need depends on their states and segments, and a driver may take seconds for each.
///
/// [`bind`]: LinearAttention::bind
/// [`prepare`]: LinearAttention::prepare
#[derive(Debug)]
pub struct LinearAttention {
    config: Config,
    tuning: Tuning,
    device: wgpu::Device,
    limits: wgpu::Limits,
    pipelines: Pipelines,
    /// Bound where a call has no such tensor; the shaders never touch it.
    dummy: wgpu::Buffer,
}

impl LinearAttention {
    /// Features a device must have for `config`: none, so far.
    #[must_use]
    pub fn required_features(_config: &Config) -> wgpu::Features {
        wgpu::Features::empty()
    }

    /// Limits with which a device runs every call of `config`, but for the rarest of nine storage
    /// buffers. More workgroup memory and larger bindings are used where the device has them: ask for
    /// the adapter's own. With fewer storage buffers it runs the calls that need no more: see
    /// [`kernels`](crate::tuning::kernels).
    #[must_use]
    pub fn required_limits(_config: &Config) -> wgpu::Limits {
        wgpu::Limits::default()
    }

    /// For `config`, with everything else left to this crate. Compiles nothing yet:
    /// see [`LinearAttention::prepare`].
    ///
    /// # Errors
    ///
    /// A config out of range, or limits too small for it.
    pub fn new(device: &wgpu::Device, config: Config) -> Result<Self, ConfigError> {
        Self::with_options(device, config, &Options::default())
    }

    /// The same with the caller's [`Options`].
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::new`]; and a tuning that does not fit.
    pub fn with_options(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
    ) -> Result<Self, ConfigError> {
        Self::with_edit(device, config, options, None)
    }

    /// The same with every shader passed through `edit` first; the harness proves with it
    /// that a wrong shader is caught.
    pub(crate) fn with_edit(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
        edit: Option<Edit>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let limits = device.limits();
        let device_type = device.adapter_info().device_type;
        let tuning = match options.tuning {
            Some(tuning) => tuning.on(device_type),
            None => Tuning::new(&config, &limits, device_type)?,
        };
        tuning.check(&config, &limits)?;
        let usage = BufferUsages::STORAGE;
        let dummy = empty_buffer(device, "linear_attention.dummy", DUMMY_SIZE, usage)?;
        let pipelines = Pipelines::new(config.clone(), tuning.layout, options, edit);
        Ok(Self { config, tuning, device: device.clone(), limits, pipelines, dummy })
    }

    /// Compiles now the pipelines that [`LinearAttention::bind`] would compile for this plan and
    /// these states, for a program that wants no wait at its first frame. It does nothing where
    /// they have been compiled. The states of a shape with slots are in a pool, whatever `states`
    /// says.
    ///
    /// # Errors
    ///
    /// [`BindError::Plan`] for a plan of another config or tuning; [`BindError::StorageBuffers`]
    /// where a stage has more than the device; the device's refusal of a pipeline.
    pub fn prepare(&self, plan: &Plan, states: States) -> Result<(), BindError> {
        self.check_plan(plan)?;
        // `sequences` written by the host, which checks them, and by the device.
        let trust: &[bool] = if plan.reads_sequences() { &[false, true] } else { &[false] };
        for is_untrusted in trust {
            let steps = plan.steps(states, *is_untrusted);
            self.check_storage_buffers(&steps)?;
            for step in steps {
                self.pipelines.get(&self.device, step.stage, step.variant)?;
            }
        }
        Ok(())
    }

    /// Refuses a stage with more bindings than the device has, before anything is compiled.
    fn check_storage_buffers(&self, steps: &[Step]) -> Result<(), BindError> {
        let actual = self.limits.max_storage_buffers_per_shader_stage;
        match steps.iter().find(|step| step.storage_buffers() > actual) {
            None => Ok(()),
            Some(step) => {
                let (stage, required) = (step.stage.name(), step.storage_buffers());
                Err(BindError::StorageBuffers { stage, required, actual })
            }
        }
    }

    fn check_plan(&self, plan: &Plan) -> Result<(), BindError> {
        if plan.config() != &self.config {
            return Err(BindError::Plan { what: "config" });
        }
        let (ours, theirs) = (&self.tuning, plan.tuning());
        if !ours.compiles_like(theirs) || theirs.max_loop_iterations > ours.max_loop_iterations {
            return Err(BindError::Plan { what: "tuning" });
        }
        Ok(())
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The config it was compiled for.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The sizes it was compiled with.
    #[must_use]
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The plan for `shape` on the device it was compiled for.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`].
    pub fn plan(&self, shape: &Shape) -> Result<Plan, PlanError> {
        Plan::new(&self.config, shape, &self.limits, &self.tuning)
    }

    /// Binds tensors to a plan: everything that can fail fails here.
    ///
    /// `scratch` needs [`Plan::scratch_size`] bytes, and may be `None` where that is 0. It may be
    /// shared by all that is recorded on one queue.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is missing, too small, misaligned, without `STORAGE`, beyond
    /// its buffer, overlapping another where one is written, or refused by the device, as a
    /// pipeline that is compiled here may be, too; or the stage that has more storage buffers than
    /// the device. In a browser the last comes to the caller's own
    /// error handler instead.
    pub fn bind(
        &self,
        plan: &Plan,
        tensors: &Tensors<'_>,
        scratch: Option<BufferBinding<'_>>,
    ) -> Result<Bound, BindError> {
        self.bind_checked(plan, self.check(plan, tensors, scratch.as_ref())?)
    }

    /// The tensors and the steps of a call, if it can run here.
    fn check<'a>(
        &self,
        plan: &Plan,
        tensors: &Tensors<'a>,
        scratch: Option<&BufferBinding<'a>>,
    ) -> Result<(Checked<'a>, Vec<Step>), BindError> {
        self.check_plan(plan)?;
        let checked = tensors::check(plan, tensors, scratch, &self.limits)?;
        let steps = plan.steps(checked.states(), checked.is_untrusted);
        self.check_storage_buffers(&steps)?;
        Ok((checked, steps))
    }

    fn bind_checked(
        &self,
        plan: &Plan,
        (checked, resolved): (Checked<'_>, Vec<Step>),
    ) -> Result<Bound, BindError> {
        let (device, pipelines) = (&self.device, &self.pipelines);
        let mut steps = Vec::with_capacity(resolved.len());
        for step in resolved {
            let pipeline = pipelines.get(device, step.stage, step.variant)?;
            let bind_group =
                bind_group(device, &pipeline.bindings, plan, &step, &checked, &self.dummy)?;
            let (stage, workgroups) = (step.stage, step.workgroups);
            steps.push(BoundStep { stage, pipeline: pipeline.pipeline, bind_group, workgroups });
        }
        Ok(Bound { parts: vec![steps] })
    }

    /// A shape in parts that the device binds: one part where all of it fits, otherwise some of
    /// the batch or, where a sequence alone is too large, of its tokens at a time.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`], where parts do not help either: packed sequences, a pool, tensors that
    /// no part of which begins where the device can bind it.
    pub fn split(&self, shape: &Shape) -> Result<Split, PlanError> {
        Split::new(&self.config, shape, &self.limits, &self.tuning)
    }

    /// Binds whole tensors to a shape in parts, each of which binds its own range of them.
    ///
    /// `scratch` needs [`Split::scratch_size`] bytes, as for [`LinearAttention::bind`]. Where a
    /// sequence has several parts, its state goes from part to part in the final state, which must
    /// be bound then.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::bind`]; [`BindError::Missing`] for a final state.
    pub fn bind_split(
        &self,
        split: &Split,
        tensors: &Tensors<'_>,
        scratch: Option<BufferBinding<'_>>,
    ) -> Result<Bound, BindError> {
        if let [part] = split.parts() {
            return self.bind(&part.plan, tensors, scratch);
        }
        if split.carries_state() && tensors.final_state.is_none() {
            return Err(BindError::Missing { tensor: "final_state" });
        }
        let check = |part| {
            let tensors = tensors_of(split, part, tensors);
            Ok((&part.plan, self.check(&part.plan, &tensors, scratch.as_ref())?))
        };
        // All parts before the first compiles.
        let checked = split.parts().iter().map(check).collect::<Result<Vec<_>, BindError>>()?;
        let mut bound = Bound { parts: Vec::with_capacity(checked.len()) };
        for (plan, checked) in checked {
            bound.parts.extend(self.bind_checked(plan, checked)?.parts);
        }
        Ok(bound)
    }

    /// Records one compute pass with all dispatches. Allocates nothing, cannot fail.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("linear_attention"),
            timestamp_writes: None,
        });
        self.dispatch(&mut pass, bound);
    }

    /// Records all dispatches into the caller's compute pass. It sets the pipeline and
    /// bind group 0 and leaves them set.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, bound: &Bound) {
        for dispatch in bound.parts.iter().flatten() {
            dispatch.record(pass);
        }
    }

    /// Records one stage, for a caller who times or inspects each; nothing where the plan
    /// has no such dispatch.
    pub fn dispatch_stage(&self, pass: &mut wgpu::ComputePass<'_>, bound: &Bound, stage: Stage) {
        for dispatch in bound.parts.iter().flatten().filter(|dispatch| dispatch.stage == stage) {
            dispatch.record(pass);
        }
    }
}
