//! Pipelines for one config; tensors bound to them; dispatches recorded.

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::bound::{Binder, Bound, BoundStep, BoundSubmission, DUMMY_SIZE, bind_group};
use crate::bind::matrix_units::MatrixUnits;
use crate::bind::options::Options;
use crate::bind::parts::tensors_of;
use crate::bind::pipelines::{Edit, Pipelines};
use crate::bind::tensors;
use crate::bind::tensors::{Checked, Tensors};
use crate::device::buffers::empty_buffer;
use crate::device::subgroups::subgroup_lanes;
use crate::error::{BindError, ConfigError, PlanError};
use crate::kernel::stage::Stage;
use crate::plan::Plan;
use crate::plan::split::Split;
use crate::plan::steps::{Memory, States, Step};
use crate::plan::submissions::Submission;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::shape::Shape;

/// The pipelines of one [`Config`] on one device.
///
/// All methods take `&self`; share it in an `Arc`. A pipeline is compiled when it is first needed:
/// by the first [`bind`] that needs it, or earlier by [`prepare`]. The states and segments of a
/// call decide which pipelines it needs, and a driver may take seconds to compile each.
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
    /// Features a device must have for `config`: none. [`wgpu::Features::SUBGROUP`] is used where
    /// it was granted and [`tune`](crate::tuning::tune) found it faster: see
    /// [`Layout::subgroup_sums`](crate::tuning::Layout::subgroup_sums).
    #[must_use]
    pub fn required_features(_config: &Config) -> wgpu::Features {
        wgpu::Features::empty()
    }

    /// Limits that are enough for every call of `config`, except the rare one that binds nine
    /// storage buffers. Larger bindings and more workgroup memory are used where the device has
    /// them: request the adapter's own limits. A device with fewer storage buffers runs the calls
    /// that need no more: see [`kernels`](crate::tuning::kernels).
    #[must_use]
    pub fn required_limits(_config: &Config) -> wgpu::Limits {
        wgpu::Limits::default()
    }

    /// Attention for `config`, with all sizes chosen by this crate. Compiles no pipeline yet: see
    /// [`LinearAttention::prepare`].
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
    /// As [`LinearAttention::new`]; and a tuning that does not fit, or matrix units that were
    /// checked with something else.
    pub fn with_options(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
    ) -> Result<Self, ConfigError> {
        let own = options.tuning.or(options.matrix_units.map(|units| *units.tuning()));
        let options = options.clone().with_tuning(own);
        let attention = Self::with_edit(device, config, &options, None)?;
        let (config, tuning) = (&attention.config, &attention.tuning);
        MatrixUnits::check(options.matrix_units, device, config, tuning)?;
        Ok(attention)
    }

    /// The same with every shader passed through `edit` first. The harness uses it to prove that a
    /// wrong shader is caught.
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
        tuning.layout.check_subgroups(&config, subgroup_lanes(device))?;
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
        // The host checks the entries of `sequences` that it writes; the shaders check those of a
        // device.
        let is_either = plan.reads_sequences() && plan.shape().checkpoints == 0;
        let trust: &[bool] = if is_either { &[false, true] } else { &[false] };
        // q, k and v with strides may share memory, and are then bound to be read alone.
        let reads: &[bool] = if plan.shape().strides.is_some() { &[false, true] } else { &[false] };
        let memories = trust.iter().flat_map(|is_untrusted| {
            let of = |reads_only: &bool| (*is_untrusted, *reads_only);
            reads.iter().map(of)
        });
        for (is_untrusted, reads_only) in memories {
            let memory = Memory { is_untrusted, reads_only, ..Memory::default() };
            let steps = plan.steps(states, memory);
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

    /// Binds tensors to a plan. Everything that can fail fails here.
    ///
    /// `scratch` needs [`Plan::scratch_size`] bytes, and may be `None` where that is 0. It may be
    /// shared by all that is recorded on one queue.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is missing, too small, misaligned, without `STORAGE`, beyond its
    /// buffer, overlapping another where one is written, or refused by the device; or the stage
    /// that binds more storage buffers than the device has; or a pipeline that the device refuses.
    /// In a browser the device's refusals go to the caller's own error handler instead.
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
        let steps = plan.steps(checked.states(), checked.memory);
        self.check_storage_buffers(&steps)?;
        Ok((checked, steps))
    }

    fn bind_checked(
        &self,
        plan: &Plan,
        (checked, steps): (Checked<'_>, Vec<Step>),
    ) -> Result<Bound, BindError> {
        let (device, pipelines) = (&self.device, &self.pipelines);
        let get = |step: &Step| pipelines.get(device, step.stage, step.variant);
        let pipelines = steps.iter().map(get).collect::<Result<Vec<_>, _>>()?;
        let (checked, dummy) = (&checked, &self.dummy);
        let mut binder = Binder { device, plan, checked, dummy, entries: None };
        let mut submissions = Vec::new();
        for Submission { pieces, operations } in plan.submissions(checked.memory.is_untrusted) {
            let mut bound = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let step = steps.get(piece.dispatch).zip(pipelines.get(piece.dispatch));
                let Some((step, pipeline)) = step else { continue };
                bound.push(BoundStep {
                    stage: step.stage,
                    pipeline: pipeline.pipeline.clone(),
                    bind_group: bind_group(&mut binder, &pipeline.bindings, step, &piece)?,
                    workgroups: piece.workgroups,
                });
            }
            submissions.push(BoundSubmission { steps: bound, operations });
        }
        Ok(Bound { submissions })
    }

    /// Splits a shape into parts that the device can bind: one part where all of it fits, otherwise
    /// several sequences at a time or, where one sequence alone is too large, several of its
    /// tokens.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`], where splitting does not help: a pool, lengths that only a call knows, or
    /// tensors none of whose parts would begin at a multiple of the device's alignment.
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
        if tensors.key_status.is_some() {
            // Each part would count tokens from its own first one.
            return Err(BindError::Unexpected { tensor: "key_status" });
        }
        if split.carries_state() && tensors.final_state.is_none() {
            return Err(BindError::Missing { tensor: "final_state" });
        }
        let check = |part| {
            let tensors = tensors_of(part, tensors);
            Ok((&part.plan, self.check(&part.plan, &tensors, scratch.as_ref())?))
        };
        // All parts are checked before the first pipeline is compiled.
        let checked = split.parts().iter().map(check).collect::<Result<Vec<_>, BindError>>()?;
        let mut bound = Bound { submissions: Vec::with_capacity(checked.len()) };
        for (plan, checked) in checked {
            bound.submissions.extend(self.bind_checked(plan, checked)?.submissions);
        }
        Ok(bound)
    }

    /// Records one compute pass with all dispatches, however much work they are: see
    /// [`LinearAttention::record_submission`]. It allocates nothing and cannot fail.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, bound: &Bound) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("linear_attention"),
            timestamp_writes: None,
        });
        self.dispatch(&mut pass, bound);
    }

    /// Records one compute pass with the work of one submission. The call is all of
    /// [`Bound::submissions`](crate::Bound::submissions), from 0 on, each in a submission of its
    /// own. Drivers reset a device whose submission takes seconds; each of these takes a fraction
    /// of a second, and a caller may report progress and stop between two of them. The result has
    /// the bits of a single submission.
    ///
    /// Until the last has been submitted, nothing else may use the call's scratch. If the caller
    /// stops earlier, o and the final states, or the slots of a pool, are partly written.
    ///
    /// It allocates nothing and cannot fail. An index beyond the last records nothing.
    pub fn record_submission(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bound: &Bound,
        submission: usize,
    ) {
        let Some(submission) = bound.submissions.get(submission) else { return };
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: Some("linear_attention"),
            timestamp_writes: None,
        });
        for step in &submission.steps {
            step.record(&mut pass);
        }
    }

    /// Records all dispatches into the caller's compute pass. It sets the pipeline and
    /// bind group 0 and leaves them set.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, bound: &Bound) {
        for dispatch in bound.steps() {
            dispatch.record(pass);
        }
    }

    /// Records one stage, for a caller who times or inspects stages; nothing where the plan has no
    /// such dispatch.
    pub fn dispatch_stage(&self, pass: &mut wgpu::ComputePass<'_>, bound: &Bound, stage: Stage) {
        for dispatch in bound.steps().filter(|dispatch| dispatch.stage == stage) {
            dispatch.record(pass);
        }
    }
}
