//! One stage's layout, shader module and pipeline, and wgpu's objections to them.

use std::borrow::Cow;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wgpu::{BindGroupLayoutEntry, ShaderStages};

use crate::stage::Binding;
use crate::{Options, ShaderChecks, Stage};

pub(crate) fn bind_group_layout(device: &wgpu::Device, stage: Stage) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = stage
        .bindings()
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
pub(crate) fn shader_module(
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

pub(crate) fn compute_pipeline(
    device: &wgpu::Device,
    stage: Stage,
    layout: &wgpu::BindGroupLayout,
    module: &wgpu::ShaderModule,
    overrides: &[(&str, f64)],
    options: &Options<'_>,
) -> wgpu::ComputePipeline {
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: Some(stage.label()),
        bind_group_layouts: &[Some(layout)],
        immediate_size: 0,
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(stage.label()),
        layout: Some(&layout),
        module,
        entry_point: Some(stage.name()),
        compilation_options: wgpu::PipelineCompilationOptions {
            constants: overrides,
            zero_initialize_workgroup_memory: options.checks == ShaderChecks::Checked,
        },
        cache: options.cache,
    })
}

/// Runs `make` so that what wgpu finds wrong comes back here and not to the caller's
/// error handler. In a browser the answer comes later; then this has none.
pub(crate) fn scoped<T>(device: &wgpu::Device, make: impl FnOnce() -> T) -> Result<T, String> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let made = make();
    let errors = [now(validation.pop()), now(internal.pop()), now(memory.pop())];
    match errors.into_iter().flatten().next() {
        Some(error) => Err(error.to_string()),
        None => Ok(made),
    }
}

fn now<T>(future: impl Future<Output = Option<T>>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => None,
    }
}
