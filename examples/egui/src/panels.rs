//! The callback of egui's renderer: attention goes into egui's encoder before its render pass, and
//! the panels into that pass.

use std::error::Error;

use eframe::egui;
use egui_wgpu::wgpu;
use egui_wgpu::{CallbackResources, CallbackTrait, RenderState, ScreenDescriptor};

use crate::attention::{Params, Scene, entry};

/// The panels, by their fragment shaders.
#[derive(Clone, Copy)]
pub enum Panel {
    Values,
    Weights,
    Outputs,
}

const FRAGMENTS: [&str; 3] = ["paint_values", "paint_weights", "paint_outputs"];

/// Kept by egui's renderer from frame to frame.
struct Resources {
    scene: Scene,
    panels: Vec<(wgpu::RenderPipeline, wgpu::BindGroup)>,
}

/// Makes all that frames need, checks the outputs, and gives both to egui's renderer. Returns the
/// largest error.
pub fn set_up(state: &RenderState) -> Result<f64, Box<dyn Error>> {
    let device = &state.device;
    let module = module(device);
    let scene = Scene::new(device, &module)?;
    let worst = scene.check(device, &state.queue)?;
    let panels = FRAGMENTS
        .map(|fragment| {
            let pipeline = pipeline(device, &module, fragment, state.target_format);
            let all = [entry(0, scene.params()), entry(4, &scene.v), entry(5, &scene.o)];
            // The weights are painted from o alone.
            let without_v = [entry(0, scene.params()), entry(5, &scene.o)];
            let reads_v = fragment != "paint_weights";
            let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(fragment),
                layout: &pipeline.get_bind_group_layout(0),
                entries: if reads_v { &all } else { &without_v },
            });
            (pipeline, bind_group)
        })
        .into();
    state.renderer.write().callback_resources.insert(Resources { scene, panels });
    Ok(worst)
}

pub fn module(device: &wgpu::Device) -> wgpu::ShaderModule {
    device.create_shader_module(wgpu::include_wgsl!("scene.wgsl"))
}

fn pipeline(
    device: &wgpu::Device,
    module: &wgpu::ShaderModule,
    fragment: &str,
    format: wgpu::TextureFormat,
) -> wgpu::RenderPipeline {
    device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some(fragment),
        layout: None,
        vertex: wgpu::VertexState {
            module,
            entry_point: Some("panel"),
            compilation_options: Default::default(),
            buffers: &[],
        },
        primitive: Default::default(),
        depth_stencil: None,
        multisample: Default::default(),
        fragment: Some(wgpu::FragmentState {
            module,
            entry_point: Some(fragment),
            compilation_options: Default::default(),
            targets: &[Some(format.into())],
        }),
        multiview_mask: None,
        cache: None,
    })
}

/// A panel of a frame. One of them has the frame's attention.
struct Painted {
    panel: Panel,
    frame: Option<(usize, Params)>,
}

/// The shape that paints a panel. `frame` is the feature map's index and the sliders, and is given
/// to one panel of a frame: its callback records attention for all of them.
pub fn shape(rect: egui::Rect, panel: Panel, frame: Option<(usize, Params)>) -> egui::Shape {
    egui_wgpu::Callback::new_paint_callback(rect, Painted { panel, frame }).into()
}

impl CallbackTrait for Painted {
    fn prepare(
        &self,
        _device: &wgpu::Device,
        queue: &wgpu::Queue,
        _screen: &ScreenDescriptor,
        egui_encoder: &mut wgpu::CommandEncoder,
        resources: &mut CallbackResources,
    ) -> Vec<wgpu::CommandBuffer> {
        if let (Some((map, params)), Some(found)) = (&self.frame, resources.get::<Resources>()) {
            found.scene.record(queue, egui_encoder, *map, params);
        }
        // egui submits its own encoder: there is no command buffer to add.
        Vec::new()
    }

    fn paint(
        &self,
        _info: egui::PaintCallbackInfo,
        render_pass: &mut wgpu::RenderPass<'static>,
        resources: &CallbackResources,
    ) {
        let Some(found) = resources.get::<Resources>() else { return };
        let Some((pipeline, bind_group)) = found.panels.get(self.panel as usize) else { return };
        render_pass.set_pipeline(pipeline);
        render_pass.set_bind_group(0, bind_group, &[]);
        render_pass.draw(0..3, 0..1);
    }
}
