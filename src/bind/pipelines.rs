//! A cache of pipelines, each compiled when it is first needed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{BindGroupLayoutEntry, ShaderStages};

use crate::bind::options::{Options, ShaderChecks};
use crate::device::scope::scoped;
use crate::error::DeviceError;
use crate::kernel::assembler::Module;
use crate::kernel::layout::Layout;
use crate::kernel::numbers::Variant;
use crate::kernel::stage::{Binding, Stage};
use crate::problem::config::Config;

/// Changes the text of a module before it is compiled.
pub(crate) type Edit = Arc<dyn Fn(Stage, String) -> String + Send + Sync>;

/// The pipelines of one config in one layout.
pub(crate) struct Pipelines {
    config: Config,
    layout: Layout,
    checks: ShaderChecks,
    cache: Option<wgpu::PipelineCache>,
    edit: Option<Edit>,
    compiled: Mutex<HashMap<(Stage, Variant), Pipeline>>,
}

/// A pipeline, and the layout of its bind groups.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroupLayout,
}

impl Pipelines {
    /// Compiles nothing yet.
    pub(crate) fn new(
        config: Config,
        layout: Layout,
        options: &Options<'_>,
        edit: Option<Edit>,
    ) -> Self {
        // The loops and indices of a caller's own map are unknown.
        let is_ours = config.custom_maps().next().is_none();
        let checks = if is_ours { options.checks } else { ShaderChecks::Checked };
        let cache = options.cache.cloned();
        Self { config, layout, checks, cache, edit, compiled: Mutex::default() }
    }

    /// The pipeline, compiled now if it is the first time. Threads that come at once may
    /// each compile it, and all get the same.
    pub(crate) fn get(
        &self,
        device: &wgpu::Device,
        stage: Stage,
        variant: Variant,
    ) -> Result<Pipeline, DeviceError> {
        let lock = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&(stage, variant)).cloned();
        if let Some(pipeline) = known {
            return Ok(pipeline);
        }
        // Not under the lock: a driver may take seconds.
        let pipeline = self.compile(device, stage, variant)?;
        Ok(lock().entry((stage, variant)).or_insert(pipeline).clone())
    }

    fn compile(
        &self,
        device: &wgpu::Device,
        stage: Stage,
        variant: Variant,
    ) -> Result<Pipeline, DeviceError> {
        let module = stage.module(&self.config, self.layout, variant);
        let wgsl = match &self.edit {
            Some(edit) => edit(stage, module.wgsl.clone()),
            None => module.wgsl.clone(),
        };
        let mut binds = stage.binds(&self.config, self.layout, variant);
        binds.retain(|binding| !variant.unbound.has(*binding as u32));
        let entries = layout_entries(&binds, variant);
        let names = (stage.kernel().label, stage.name());
        // The interpreter knows no cooperative matrices: nobody has proved those indices.
        let is_proved = !stage.is_of_matrices(self.layout);
        let checks = if is_proved { self.checks } else { ShaderChecks::Checked };
        let options = Options { checks, cache: self.cache.as_ref(), ..Options::default() };
        compile(device, names, (&module, wgsl), &entries, &options)
    }
}

/// A pipeline of a module, whose text may have been changed since.
pub(crate) fn compile(
    device: &wgpu::Device,
    (label, entry_point): (&'static str, &'static str),
    (module, wgsl): (&Module, String),
    entries: &[BindGroupLayoutEntry],
    options: &Options<'_>,
) -> Result<Pipeline, DeviceError> {
    let made = scoped(device, label, || {
        let shader = shader_module(device, label, wgsl.into(), options.checks);
        let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(label),
            entries,
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&layout),
            module: &shader,
            entry_point: Some(entry_point),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: options.checks == ShaderChecks::Checked,
            },
            cache: options.cache,
        });
        Pipeline { pipeline, bindings }
    });
    made.map_err(|mut error| {
        error.message = module.locate(&error.message);
        error
    })
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, layout, checks, compiled, .. } = self;
        f.debug_struct("Pipelines")
            .field("config", config)
            .field("layout", layout)
            .field("checks", checks)
            .field("compiled", compiled)
            .finish_non_exhaustive()
    }
}

fn layout_entries(bindings: &[Binding], variant: Variant) -> Vec<BindGroupLayoutEntry> {
    let entries = bindings.iter().map(|binding| BindGroupLayoutEntry {
        binding: *binding as u32,
        visibility: ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                Binding::Params => wgpu::BufferBindingType::Uniform,
                Binding::Q | Binding::K | Binding::V if variant.reads_only => {
                    wgpu::BufferBindingType::Storage { read_only: true }
                }
                _ => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    });
    entries.collect()
}

#[expect(unsafe_code, reason = "the one place where shader modules are made unchecked")]
fn shader_module(
    device: &wgpu::Device,
    label: &'static str,
    wgsl: Cow<'static, str>,
    checks: ShaderChecks,
) -> wgpu::ShaderModule {
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(wgsl) };
    match checks {
        ShaderChecks::Checked => device.create_shader_module(descriptor),
        ShaderChecks::Unchecked => {
            // SAFETY: every loop has a bound that its body does not change, and every
            // index lies inside its binding or workgroup array, because `Plan` and
            // `tensors::check` refuse what is larger: docs/design.md, "Unchecked shaders".
            unsafe {
                device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            }
        }
    }
}
