//! The stages' pipelines, each compiled when it is first needed.

use std::borrow::Cow;
use std::sync::OnceLock;

use wgpu::{BindGroupLayoutEntry, ShaderStages};

use crate::bind::options::{Options, ShaderChecks};
use crate::device::scope::scoped;
use crate::kernel::layout::Layout;
use crate::kernel::stage::{Binding, Stage, Variant};
use crate::problem::config::Config;

/// The stages of one layout.
#[derive(Debug)]
pub(crate) struct Pipelines {
    config: Config,
    layout: Layout,
    checks: ShaderChecks,
    cache: Option<wgpu::PipelineCache>,
    stages: [StagePipelines; Stage::ALL.len()],
}

#[derive(Debug)]
struct StagePipelines {
    bindings: wgpu::BindGroupLayout,
    wgsl: Cow<'static, str>,
    module: OnceLock<wgpu::ShaderModule>,
    pipelines: [OnceLock<wgpu::ComputePipeline>; Variant::COUNT],
}

impl Pipelines {
    /// Compiles nothing yet.
    pub(crate) fn new(
        device: &wgpu::Device,
        config: Config,
        layout: Layout,
        options: &Options<'_>,
        edit: &dyn Fn(Stage, Cow<'static, str>) -> Cow<'static, str>,
    ) -> Self {
        let stages = Stage::ALL.map(|stage| StagePipelines {
            bindings: bind_group_layout(device, &stage.bindings(&config, layout), stage),
            wgsl: edit(stage, stage.wgsl(&config, layout)),
            module: OnceLock::new(),
            pipelines: std::array::from_fn(|_| OnceLock::new()),
        });
        // Of a caller's own text nothing is known.
        let is_ours = config.custom_maps().next().is_none();
        let checks = if is_ours { options.checks } else { ShaderChecks::Checked };
        Self { config, layout, checks, cache: options.cache.cloned(), stages }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn bindings(&self, stage: Stage) -> &wgpu::BindGroupLayout {
        &self.stages[stage as usize].bindings
    }

    /// The pipeline, compiled now if it is the first time. Threads that come at once may
    /// each compile it, and all get the same.
    pub(crate) fn get(
        &self,
        device: &wgpu::Device,
        stage: Stage,
        variant: Variant,
    ) -> Result<&wgpu::ComputePipeline, String> {
        let of_stage = &self.stages[stage as usize];
        let slot = &of_stage.pipelines[variant.index()];
        if let Some(pipeline) = slot.get() {
            return Ok(pipeline);
        }
        let (module, pipeline) = scoped(device, || {
            let module = of_stage.module.get().cloned().unwrap_or_else(|| {
                shader_module(device, stage, of_stage.wgsl.clone(), self.checks)
            });
            let pipeline = self.compile(device, stage, variant, &module);
            (module, pipeline)
        })?;
        // Kept only now: a module of another device, say, must not stay for the next call.
        let _ = of_stage.module.set(module);
        Ok(slot.get_or_init(|| pipeline))
    }

    fn compile(
        &self,
        device: &wgpu::Device,
        stage: Stage,
        variant: Variant,
        module: &wgpu::ShaderModule,
    ) -> wgpu::ComputePipeline {
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(stage.label()),
            bind_group_layouts: &[Some(self.bindings(stage))],
            immediate_size: 0,
        });
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(stage.label()),
            layout: Some(&layout),
            module,
            entry_point: Some(stage.name()),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &stage.overrides(&self.config, self.layout, variant),
                zero_initialize_workgroup_memory: self.checks == ShaderChecks::Checked,
            },
            cache: self.cache.as_ref(),
        })
    }
}

fn bind_group_layout(
    device: &wgpu::Device,
    bindings: &[Binding],
    stage: Stage,
) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = bindings
        .iter()
        .map(|binding| BindGroupLayoutEntry {
            binding: *binding as u32,
            visibility: ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding {
                    Binding::Params => wgpu::BufferBindingType::Uniform,
                    _ => wgpu::BufferBindingType::Storage { read_only: false },
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(stage.label()),
        entries: &entries,
    })
}

#[expect(unsafe_code, reason = "the one place where shader modules are made unchecked")]
fn shader_module(
    device: &wgpu::Device,
    stage: Stage,
    wgsl: Cow<'static, str>,
    checks: ShaderChecks,
) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(stage.label()),
        source: wgpu::ShaderSource::Wgsl(wgsl),
    };
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
