//! A flock in Bevy that steers by attention: a call of the gated rule in every frame, on Bevy's
//! device and in Bevy's encoder, whose outputs turn the birds and paint the field.
//!
//!     cargo run --release                           a window
//!     cargo run --release -- --screenshot FILE      a window for some frames, a PNG, and out
//!     cargo run --release -- --check                no window: o against the f64 reference

mod flock;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bevy::app::AppExit;
use bevy::asset::{RenderAssetUsages, embedded_asset};
use bevy::camera::visibility::NoFrustumCulling;
use bevy::core_pipeline::tonemapping::Tonemapping;
use bevy::mesh::PrimitiveTopology;
use bevy::prelude::*;
use bevy::render::RenderApp;
use bevy::render::render_resource::{AsBindGroup, Buffer};
use bevy::render::renderer::{
    RenderAdapterInfo, RenderContext, RenderDevice, RenderGraph, RenderGraphSystems, RenderQueue,
};
use bevy::render::view::screenshot::{Screenshot, ScreenshotCaptured};
use bevy::shader::ShaderRef;
use bevy::sprite_render::{Material2d, Material2dPlugin};
use bevy::window::WindowResolution;
use linear_attention::wgpu;

use flock::{BIRDS, Flock, PIXELS};

/// Frames before a screenshot: enough for the flock to find its ways.
const FRAMES: u32 = 100;
/// Sides of a panel: five pixels of the window for each that is asked for.
const SIDE: f32 = 480.0;
const LEFT: Vec2 = Vec2::new(-256.0, -16.0);
const RIGHT: Vec2 = Vec2::new(256.0, -16.0);

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let screenshot = match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--check"] => return check(),
        ["--screenshot", file] => Some(PathBuf::from(file)),
        _ => return Err("expected nothing, --check or --screenshot FILE".into()),
    };
    let window = Window {
        title: "Linear attention in Bevy's frame".to_owned(),
        resolution: WindowResolution::new(1040, 620),
        resizable: false,
        ..default()
    };
    let mut app = App::new();
    app.add_plugins(DefaultPlugins.set(WindowPlugin { primary_window: Some(window), ..default() }))
        .add_plugins((
            Material2dPlugin::<BirdsMaterial>::default(),
            Material2dPlugin::<FieldMaterial>::default(),
            AttentionPlugin,
        ))
        .insert_resource(ClearColor(Color::srgb(0.055, 0.06, 0.085)))
        .add_systems(Startup, set_up);
    if let Some(file) = &screenshot {
        app.insert_resource(Wanted { file: file.clone(), frames: 0 })
            .add_systems(Update, take_screenshot);
    }
    let exit = app.run();
    if let AppExit::Error(code) = exit {
        return Err(format!("Bevy ended with {code}").into());
    }
    if let Some(file) = screenshot {
        let size = std::fs::metadata(&file)
            .map_err(|error| format!("no screenshot at {}: {error}", file.display()))?
            .len();
        println!("{}: {size} bytes", file.display());
    }
    Ok(())
}

fn check() -> Result<(), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    println!("on {}", adapter.get_info().name);
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..Default::default()
    }))?;
    report(Flock::new(&device, &queue)?.check(&device, &queue)?);
    Ok(())
}

fn report(worst: f64) {
    println!("largest error of {BIRDS} birds and {PIXELS} x {PIXELS} pixels: {worst:.1e}");
}

/// The flock, shared by Bevy's two worlds: one shows its buffers, the other records its frames.
#[derive(Resource, Clone)]
struct Attention(Arc<Flock>);

struct AttentionPlugin;

impl Plugin for AttentionPlugin {
    fn build(&self, app: &mut App) {
        embedded_asset!(app, "birds.wesl");
        embedded_asset!(app, "field.wesl");
        if let Some(render_app) = app.get_sub_app_mut(RenderApp) {
            // Before the cameras: passes that draw read what this frame's attention wrote.
            render_app.add_systems(RenderGraph, record_attention.in_set(RenderGraphSystems::Begin));
        }
    }

    // Bevy's device is there from here on.
    fn finish(&self, app: &mut App) {
        let world = app.world();
        let (device, queue) = (world.resource::<RenderDevice>(), world.resource::<RenderQueue>());
        println!("on {}", world.resource::<RenderAdapterInfo>().name);
        let device = device.wgpu_device();
        let made = Flock::new(device, queue).and_then(|flock| {
            report(flock.check(device, queue)?);
            Ok(flock)
        });
        match made {
            Ok(flock) => {
                let attention = Attention(flock.into());
                app.insert_resource(attention.clone());
                if let Some(render_app) = app.get_sub_app_mut(RenderApp) {
                    render_app.insert_resource(attention);
                }
            }
            Err(error) => {
                eprintln!("attention cannot run here: {error}");
                std::process::exit(1);
            }
        }
    }
}

/// The frame's attention, in the encoder that Bevy gives this system and submits with the others.
fn record_attention(
    attention: Res<Attention>,
    queue: Res<RenderQueue>,
    mut context: RenderContext<'_, '_>,
) {
    attention.0.record(&queue, context.command_encoder());
}

/// Birds where the keys say, as the values point.
#[derive(Asset, TypePath, AsBindGroup, Clone)]
struct BirdsMaterial {
    #[uniform(0)]
    panel: Vec4,
    #[storage(1, read_only, buffer)]
    k: Buffer,
    #[storage(2, read_only, buffer)]
    v: Buffer,
}

impl Material2d for BirdsMaterial {
    fn vertex_shader() -> ShaderRef {
        "embedded://linear_attention_bevy/birds.wesl".into()
    }

    fn fragment_shader() -> ShaderRef {
        "embedded://linear_attention_bevy/birds.wesl".into()
    }
}

/// The rows of o that the pixels asked for.
#[derive(Asset, TypePath, AsBindGroup, Clone)]
struct FieldMaterial {
    #[uniform(0)]
    sizes: UVec4,
    #[storage(1, read_only, buffer)]
    o: Buffer,
}

impl Material2d for FieldMaterial {
    fn fragment_shader() -> ShaderRef {
        "embedded://linear_attention_bevy/field.wesl".into()
    }
}

fn set_up(
    mut commands: Commands<'_, '_>,
    attention: Res<Attention>,
    mut meshes: ResMut<Assets<Mesh>>,
    mut birds: ResMut<Assets<BirdsMaterial>>,
    mut fields: ResMut<Assets<FieldMaterial>>,
    mut colors: ResMut<Assets<ColorMaterial>>,
) {
    let flock = &attention.0;
    // The shaders choose their colours themselves.
    commands.spawn((Camera2d, Tonemapping::None));

    let square = meshes.add(Rectangle::from_length(SIDE));
    commands.spawn((
        Mesh2d(square.clone()),
        MeshMaterial2d(colors.add(Color::srgb(0.085, 0.092, 0.125))),
        Transform::from_translation(LEFT.extend(0.0)),
    ));
    // A bird's number does not fit into a vertex's index, which counts the mesh's neighbours too.
    let corners: Vec<[f32; 3]> = (0..BIRDS)
        .flat_map(|bird| [0.0, 1.0, 2.0].map(|z| [(bird % 256) as f32, (bird / 256) as f32, z]))
        .collect();
    let mesh = Mesh::new(PrimitiveTopology::TriangleList, RenderAssetUsages::RENDER_WORLD)
        .with_inserted_attribute(Mesh::ATTRIBUTE_POSITION, corners);
    commands.spawn((
        Mesh2d(meshes.add(mesh)),
        MeshMaterial2d(birds.add(BirdsMaterial {
            panel: LEFT.extend(SIDE - 12.0).extend(0.0),
            k: flock.k.clone().into(),
            v: flock.v.clone().into(),
        })),
        Transform::from_xyz(0.0, 0.0, 1.0),
        NoFrustumCulling,
    ));

    let mut field = |is_wheel| {
        let sizes = UVec4::new(BIRDS, PIXELS, is_wheel, 0);
        MeshMaterial2d(fields.add(FieldMaterial { sizes, o: flock.o.clone().into() }))
    };
    commands.spawn((Mesh2d(square), field(0), Transform::from_translation(RIGHT.extend(0.0))));
    commands.spawn((
        Mesh2d(meshes.add(Rectangle::from_length(46.0))),
        field(1),
        Transform::from_xyz(RIGHT.x + SIDE / 2.0 - 24.0, 270.0, 0.0),
    ));

    let mut text = |x: f32, y: f32, size: f32, color: Color, text: &str| {
        commands.spawn((
            Text2d::new(text),
            TextFont::from_font_size(size),
            TextColor(color),
            bevy::sprite::Anchor::CENTER_LEFT,
            Transform::from_xyz(x, y, 2.0),
        ));
    };
    let (white, gray) = (Color::WHITE, Color::srgb(0.66, 0.69, 0.76));
    let (left, right) = (LEFT.x - SIDE / 2.0, RIGHT.x - SIDE / 2.0);
    text(left, 278.0, 20.0, white, "Written: 1,024 birds, a token each");
    text(left, 248.0, 15.0, gray, "k = its position, v = its heading");
    text(left, -282.0, 15.0, gray, "q = k: a bird turns to its own row of o");
    text(right, 278.0, 20.0, white, "Read: 96 x 96 pixels");
    text(right, 248.0, 15.0, gray, "q = its position, o = the mean v near it");
    text(right, -282.0, 15.0, gray, "Each frame: one call, 10,240 tokens, on the GPU");
    text(right + SIDE - 142.0, 278.0, 15.0, gray, "direction");
}

/// A screenshot that was asked for.
#[derive(Resource)]
struct Wanted {
    file: PathBuf,
    frames: u32,
}

fn take_screenshot(mut commands: Commands<'_, '_>, mut wanted: ResMut<Wanted>) {
    wanted.frames += 1;
    if wanted.frames == FRAMES {
        let file = wanted.file.clone();
        commands.spawn(Screenshot::primary_window()).observe(
            move |captured: On<ScreenshotCaptured>, mut exit: MessageWriter<AppExit>| {
                exit.write(match save(&file, &captured.image) {
                    Ok(()) => AppExit::Success,
                    Err(error) => {
                        eprintln!("{}: {error}", file.display());
                        AppExit::error()
                    }
                });
            },
        );
    }
}

/// Writes a PNG that is smaller than Bevy's own, for a page.
fn save(file: &Path, image: &Image) -> Result<(), Box<dyn Error>> {
    let image = image.clone().try_into_dynamic()?.to_rgb8();
    let mut encoder =
        png::Encoder::new(std::fs::File::create(file)?, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(&image)?;
    Ok(())
}
