//! Attention under sliders, in egui's frame: one call of the gated rule over a window of a noisy
//! signal, whose weights and outputs are painted from the buffer that the call wrote.
//!
//!     cargo run --release                           a window
//!     cargo run --release -- --screenshot FILE      a window for some frames, a PNG, and out
//!     cargo run --release -- --check                no window: o against the f64 reference

mod attention;
mod panels;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use eframe::egui::{self, Align2, Color32, FontId, pos2, vec2};
use egui_wgpu::{WgpuSetup, WgpuSetupCreateNew, wgpu};

use attention::{MAPS, Params, Scene, TOKENS};
use panels::Panel;

/// Frames before a screenshot: egui lays out its widgets in the first.
const FRAMES: u32 = 8;
const CYAN: Color32 = Color32::from_rgb(77, 217, 242);
const ORANGE: Color32 = Color32::from_rgb(255, 158, 51);

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let screenshot = match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--check"] => return check(),
        ["--screenshot", file] => Some(PathBuf::from(file)),
        _ => return Err("expected nothing, --check or --screenshot FILE".into()),
    };

    let taken = Arc::new(Mutex::new(None));
    let app = App {
        map: 0,
        decay: Params::default().log_decay.exp(),
        params: Params::default(),
        moves: screenshot.is_none(),
        position: f64::from(Params::default().first),
        frames: 0,
        taken: screenshot.as_ref().map(|_| taken.clone()),
    };
    let mut options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default().with_inner_size([960.0, 900.0]),
        ..Default::default()
    };
    options.wgpu_options.wgpu_setup = WgpuSetup::CreateNew(WgpuSetupCreateNew {
        device_descriptor: Arc::new(device_descriptor),
        ..WgpuSetupCreateNew::without_display_handle()
    });
    eframe::run_native(
        "Linear attention in egui's frame",
        options,
        Box::new(move |context| {
            let state = context.wgpu_render_state.as_ref().ok_or("egui runs without wgpu")?;
            let worst = panels::set_up(state).map_err(|error| error.to_string())?;
            println!("on {}", state.adapter.get_info().name);
            report(worst);
            Ok(Box::new(app))
        }),
    )?;

    if let Some(file) = screenshot {
        let image = taken.lock().map_err(|_| "the window panicked")?.take();
        let image = image.ok_or("the window closed before the screenshot was taken")?;
        save(&file, &image)?;
        println!("{}", file.display());
    }
    Ok(())
}

/// The limits that attention wants, with bindings and workgroup memory as large as the adapter has
/// them, and textures as large as a window.
fn device_descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
    wgpu::DeviceDescriptor {
        label: Some("egui and attention"),
        required_limits: adapter.limits(),
        ..Default::default()
    }
}

fn check() -> Result<(), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    println!("on {}", adapter.get_info().name);
    let (device, queue) = pollster::block_on(adapter.request_device(&device_descriptor(&adapter)))?;
    report(Scene::new(&device, &panels::module(&device))?.check(&device, &queue)?);
    Ok(())
}

fn report(worst: f64) {
    println!("largest error of {} maps: {worst:.1e} of the largest output", MAPS.len());
}

fn save(file: &Path, image: &egui::ColorImage) -> Result<(), Box<dyn Error>> {
    let [width, height] = image.size;
    let writer = std::fs::File::create(file)
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mut encoder = png::Encoder::new(writer, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let rgb: Vec<u8> = image.pixels.iter().flat_map(|x| [x.r(), x.g(), x.b()]).collect();
    encoder.write_header()?.write_image_data(&rgb)?;
    Ok(())
}

struct App {
    /// The chosen row of [`MAPS`].
    map: usize,
    decay: f32,
    params: Params,
    moves: bool,
    /// The first token of the window, in the endless signal.
    position: f64,
    frames: u32,
    /// The image of a screenshot, if one is wanted.
    taken: Option<Arc<Mutex<Option<Arc<egui::ColorImage>>>>>,
}

impl eframe::App for App {
    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        ui.ctx().set_theme(egui::Theme::Dark);
        ui.ctx().global_style_mut(|style| {
            style.visuals.override_text_color = Some(Color32::from_gray(215));
        });
        egui::Panel::left("sliders").exact_size(268.0).resizable(false).show(ui, |ui| {
            self.sliders(ui);
        });
        egui::CentralPanel::default().show(ui, |ui| self.plots(ui));
        ui.ctx().request_repaint();
        self.take_screenshot(ui.ctx());
    }
}

impl App {
    fn sliders(&mut self, ui: &mut egui::Ui) {
        ui.spacing_mut().slider_width = 150.0;
        ui.add_space(8.0);
        ui.heading("Linear attention, live");
        ui.add_space(6.0);
        ui.label(
            "A noisy signal of beats, a token for each sample. q and k say where in its beat a token \
             is, v is the sample. So o averages the earlier samples from the same part of a beat: \
             the noise goes, the beat stays.",
        );
        ui.add_space(10.0);
        ui.strong("Feature map φ");
        for (index, (_, name)) in MAPS.iter().enumerate() {
            ui.radio_value(&mut self.map, index, *name);
        }
        ui.add_space(10.0);
        ui.strong("Scale of q and k");
        ui.add(egui::Slider::new(&mut self.params.sharpness, 0.1..=12.0));
        ui.label("How sharply a phase is told from its neighbours.");
        ui.add_space(10.0);
        ui.strong("Decay per token (gated rule)");
        ui.add(egui::Slider::new(&mut self.decay, 0.9..=1.0).fixed_decimals(3));
        ui.label("The factor by which a token's weight shrinks with each token after it.");
        let mut forgets = self.params.forgets > 0.0;
        ui.checkbox(&mut forgets, "forget all where the rhythm changes");
        ui.add_space(10.0);
        ui.strong("Noise");
        ui.add(egui::Slider::new(&mut self.params.noise, 0.0..=1.0));
        ui.add_space(10.0);
        ui.checkbox(&mut self.moves, "let time run");
        ui.add_space(14.0);
        ui.separator();
        ui.label(
            "Every frame records a pass that writes q, k, v and the decays, one call of attention, \
             and these three panels, which read o where it lies: egui's device, egui's encoder, \
             no readback.",
        );

        self.params.log_decay = self.decay.ln();
        self.params.forgets = if forgets { 1.0 } else { 0.0 };
        if self.moves {
            self.position += 12.0 * f64::from(ui.input(|input| input.stable_dt).min(0.1));
            self.params.first = self.position as u32;
        }
    }

    fn plots(&mut self, ui: &mut egui::Ui) {
        let space = ui.available_rect_before_wrap();
        let label = 22.0;
        let plot = 128.0;
        let side = (space.height() - 2.0 * plot - 3.0 * label - 8.0).min(space.width());
        let left = space.center().x - side / 2.0;
        let row = |top: f32, height: f32| {
            egui::Rect::from_min_size(pos2(left, space.top() + top), vec2(side, height))
        };
        let values = row(label, plot);
        let weights = row(values.bottom() - space.top() + label, side);
        let outputs = row(weights.bottom() - space.top() + label, plot);

        let pointer = ui.interact(weights, ui.scope_id().with("weights"), egui::Sense::hover());
        // A screenshot does not depend on the pointer.
        if let Some(at) = pointer.hover_pos().filter(|_| self.taken.is_none()) {
            let query = (at.y - weights.top()) / side * TOKENS as f32;
            self.params.selected = (query.max(0.0) as u32).min(TOKENS - 1);
        }

        let painter = ui.painter();
        painter.add(panels::shape(values, Panel::Values, Some((self.map, self.params))));
        painter.add(panels::shape(weights, Panel::Weights, None));
        painter.add(panels::shape(outputs, Panel::Outputs, None));

        let text = |rect: egui::Rect, text: String, color| {
            let at = rect.left_top() - vec2(0.0, 4.0);
            painter.text(at, Align2::LEFT_BOTTOM, text, FontId::proportional(14.0), color);
        };
        let query = self.params.selected;
        text(
            values,
            format!("v: the samples, bright where token {query} attends to them"),
            Color32::WHITE,
        );
        text(
            weights,
            "weights: row i is what token i attends to (hover to choose one)".to_owned(),
            Color32::WHITE,
        );
        text(outputs, "o: the samples averaged by the weights".to_owned(), ORANGE);
        let at = outputs.right_top() - vec2(0.0, 4.0);
        painter.text(
            at,
            Align2::RIGHT_BOTTOM,
            "thin line: the signal without noise",
            FontId::proportional(13.0),
            Color32::GRAY,
        );
        let future = weights.right_top() + vec2(-side * 0.3, side * 0.22);
        let font = FontId::proportional(15.0);
        painter.text(future, Align2::CENTER_CENTER, "the future: unseen", font, Color32::GRAY);
        let forgotten = self.params.forgotten();
        if forgotten > 40 {
            let at = vec2(0.5 * forgotten as f32, query as f32) * (side / TOKENS as f32);
            let font = FontId::proportional(15.0);
            let text = "another rhythm:\nforgotten";
            painter.text(
                weights.left_top() + at - vec2(0.0, 60.0),
                Align2::CENTER_CENTER,
                text,
                font,
                Color32::GRAY,
            );
        }
        let row = weights.top() + (query as f32 + 0.5) / TOKENS as f32 * side;
        let font = FontId::proportional(13.0);
        let name = format!("token {query}");
        painter.text(pos2(left - 6.0, row), Align2::RIGHT_CENTER, name, font, CYAN);
    }

    /// After some frames asks for an image of the next one, and closes the window when it is there.
    fn take_screenshot(&mut self, context: &egui::Context) {
        let Some(taken) = &self.taken else { return };
        self.frames += 1;
        if self.frames == FRAMES {
            let taken = taken.clone();
            let callback = egui::ScreenshotCallback::new(move |image| {
                if let Ok(mut taken) = taken.lock() {
                    *taken = Some(image);
                }
            });
            context.send_viewport_cmd(egui::ViewportCommand::Screenshot(callback));
        }
        if taken.lock().is_ok_and(|taken| taken.is_some()) {
            context.send_viewport_cmd(egui::ViewportCommand::Close);
        }
    }
}
