//! Pipelines for one config; tensors bound to them; dispatches recorded.

use std::borrow::Cow;

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::bound::{ABSENT_SLOTS, ABSENT_STRIDE, Bound, BoundDispatch, bind_group, variant};
use crate::bind::options::Options;
use crate::bind::parts::tensors_of;
use crate::bind::pipelines::Pipelines;
use crate::bind::tensors;
use crate::bind::tensors::Tensors;
use crate::device::scope::scoped;
use crate::error::{BindError, ConfigError, PlanError};
use crate::kernel::stage::Stage;
use crate::plan::Plan;
use crate::plan::split::Split;
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
    /// To know another device by: wgpu panics where objects of two are mixed.
    device: wgpu::Device,
    limits: wgpu::Limits,
    pipelines: Pipelines,
    /// Bound where a state is absent; the shaders never touch it.
    absent: wgpu::Buffer,
}

impl LinearAttention {
    /// Features a device must have for `config`: none, so far.
    #[must_use]
    pub fn required_features(_config: &Config) -> wgpu::Features {
        wgpu::Features::empty()
    }

    /// Limits a device must have for `config`. More workgroup memory and larger bindings
    /// are used where the device has them: ask for the adapter's own.
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
        Self::with_shaders(device, config, options, |_, wgsl| wgsl)
    }

    /// The same with every shader passed through `edit` first; the harness proves with it
    /// that a wrong shader is caught.
    pub(crate) fn with_shaders(
        device: &wgpu::Device,
        config: Config,
        options: &Options<'_>,
        edit: impl Fn(Stage, Cow<'static, str>) -> Cow<'static, str>,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let limits = device.limits();
        let tuning = match options.tuning {
            Some(tuning) => tuning,
            None => Tuning::new(&config, &limits, device.adapter_info().device_type)?,
        };
        tuning.check(&config, &limits)?;
        let absent = scoped(device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("linear_attention.absent"),
                size: ABSENT_STRIDE * ABSENT_SLOTS,
                usage: BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        })
        .map_err(|message| ConfigError::Device {
            what: "linear_attention.absent".to_owned(),
            message,
        })?;
        let pipelines = Pipelines::new(device, config.clone(), tuning.layout, options, &edit);
        Ok(Self { config, tuning, device: device.clone(), limits, pipelines, absent })
    }

    /// Compiles now what [`LinearAttention::bind`] would compile for this plan, with an
    /// initial and a final state or without: for a program that wants no wait at its first
    /// frame. It does nothing where that has been compiled. A state updated in place with one
    /// segment has a pipeline of its own, which `bind` compiles. A shape with slots has both states.
    ///
    /// # Errors
    ///
    /// What wgpu says of a pipeline.
    pub fn prepare(
        &self,
        device: &wgpu::Device,
        plan: &Plan,
        initial: bool,
        final_: bool,
    ) -> Result<(), ConfigError> {
        self.check_device(device)
            .map_err(|message| ConfigError::Device { what: "device".to_owned(), message })?;
        if plan.layout() != self.pipelines.layout() {
            let required = "that of a plan of this LinearAttention".to_owned();
            return Err(ConfigError::Tuning { what: "layout", required, actual: 0 });
        }
        let in_place = plan.shape().slots.is_some();
        // Told by the host and by the device.
        let tellers: &[bool] = if plan.reads_sequences() { &[false, true] } else { &[false] };
        for stage in plan.dispatches().iter().map(|dispatch| dispatch.stage) {
            for may_clash in tellers {
                let final_ = final_ || in_place;
                let variant = variant(plan, stage, initial, in_place, final_, *may_clash);
                let refused =
                    |message| ConfigError::Device { what: stage.label().to_owned(), message };
                self.pipelines.get(device, stage, variant).map_err(refused)?;
            }
        }
        Ok(())
    }

    fn check_device(&self, device: &wgpu::Device) -> Result<(), String> {
        if device == &self.device {
            return Ok(());
        }
        Err("it must be the device of this LinearAttention, found another".to_owned())
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
        Plan::with_tuning(&self.config, shape, &self.limits, &self.tuning)
    }

    /// Binds tensors to a plan: everything that can fail fails here.
    ///
    /// `scratch` needs [`Plan::scratch_size`] bytes; any binding will do where that is 0.
    /// It may be shared by all that is recorded on one queue.
    ///
    /// # Errors
    ///
    /// Names the first tensor that is too small, misaligned, without `STORAGE`, beyond its
    /// buffer, overlapping another where one is written, or refused by the device, as a
    /// pipeline that is compiled here may be, too. In a browser the last comes to the
    /// caller's own error handler instead.
    pub fn bind(
        &self,
        device: &wgpu::Device,
        plan: &Plan,
        tensors: &Tensors<'_>,
        scratch: BufferBinding<'_>,
    ) -> Result<Bound, BindError> {
        self.check_device(device)
            .map_err(|message| BindError::Device { what: "device".to_owned(), message })?;
        if plan.config() != &self.config {
            return Err(BindError::Plan { what: "config" });
        }
        let pipelines = &self.pipelines;
        if plan.layout() != pipelines.layout() {
            return Err(BindError::Plan { what: "tuning" });
        }
        let checked = tensors::check(plan, tensors, &scratch, &self.limits)?;
        let mut dispatches = Vec::with_capacity(plan.dispatches().len());
        for dispatch in plan.dispatches() {
            let stage = dispatch.stage;
            let variant = variant(
                plan,
                stage,
                checked.initial.is_some(),
                checked.in_place,
                checked.final_.is_some(),
                checked.may_clash,
            );
            let refused = |message| BindError::Device { what: stage.label().to_owned(), message };
            let pipeline = pipelines.get(device, stage, variant).map_err(refused)?;
            let bind_group = scoped(device, || {
                let layout = pipelines.bindings(stage);
                bind_group(device, layout, plan, dispatch, &checked, &self.absent)
            })
            .and_then(|bind_group| bind_group)
            .map_err(refused)?;
            let (pipeline, workgroups) = (pipeline.clone(), dispatch.workgroups);
            dispatches.push(BoundDispatch { stage, pipeline, bind_group, workgroups });
        }
        Ok(Bound { parts: vec![dispatches] })
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
    /// `scratch` needs [`Split::scratch_size`] bytes. Where a sequence is cut, its state goes from
    /// part to part in the final state, which must be bound then.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::bind`]; [`BindError::Missing`] for a final state.
    pub fn bind_split(
        &self,
        device: &wgpu::Device,
        split: &Split,
        tensors: &Tensors<'_>,
        scratch: BufferBinding<'_>,
    ) -> Result<Bound, BindError> {
        if let [part] = split.parts() {
            return self.bind(device, &part.plan, tensors, scratch);
        }
        if split.carries_state() && tensors.final_.is_none() {
            return Err(BindError::Missing { tensor: "final" });
        }
        let mut bound = Bound { parts: Vec::with_capacity(split.parts().len()) };
        for part in split.parts() {
            let tensors = tensors_of(split, part, tensors);
            bound.parts.extend(self.bind(device, &part.plan, &tensors, scratch.clone())?.parts);
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
