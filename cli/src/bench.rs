//! `bench`: how fast an adapter computes, beside what its memory and arithmetic allow.

use std::path::PathBuf;
use std::str::FromStr;

use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, BufferUsages, Device, Queue};
use linear_attention::{Config, Inputs, LinearAttention, Plan, Shape, Tensors, reference};
use serde::Serialize;
use serde_json::json;

use crate::ceilings::Ceilings;
use crate::compare::{TOLERANCE, relative_error};
use crate::device;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::random::random;
use crate::timer::Timer;

/// Tokens of the result that is checked before a shape is timed.
const CHECKED_TOKENS: u32 = 512;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A part of the adapter's name, backend or driver
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Write the rows to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to measure, any number of times; V is K where it is not given
    #[arg(long = "shape", value_name = "B,T,H,K[,V]", allow_hyphen_values = true,
          default_values = ["1,4096,8,64", "1,16384,8,64", "1,8192,4,128"])]
    shapes: Vec<Sizes>,
    /// Runs of which the median counts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
}

/// A `--shape`.
#[derive(Clone, Copy)]
struct Sizes {
    shape: Shape,
    config: Config,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
        let (shape, config) = match sizes.as_deref() {
            Ok([b, t, h, k]) => (Shape::new(*b, *t, *h), Config::new(*k, *k)),
            Ok([b, t, h, k, v]) => (Shape::new(*b, *t, *h), Config::new(*k, *v)),
            _ => return Err(format!("expected B,T,H,K or B,T,H,K,V, found {text}")),
        };
        config.validate().map_err(|error| error.to_string())?;
        shape.lens(&config).map_err(|error| error.to_string())?;
        Ok(Self { shape, config })
    }
}

/// A row of the table, and of the JSON file.
#[derive(Serialize)]
struct Row {
    b: u32,
    t: u32,
    h: u32,
    g: u32,
    k: u32,
    v: u32,
    dtype: &'static str,
    ms: f64,
    gb_s: f64,
    copy_share: f64,
    gflop_s: f64,
    fma_share: f64,
    tokens_s: f64,
    scratch_bytes: u64,
}

/// Checks, then times each shape.
pub(crate) fn bench(args: &Args) -> Result<(), Failure> {
    let json_file = args.json.as_deref().map(|path| OutputFile::new("--json", path)).transpose()?;
    let Some(adapter) = device::pick(args.adapter.as_deref())? else {
        return Err(Failure::Device(format!("no adapter to measure: {}", device::DRIVER_HINT)));
    };
    let (device, queue) = device::open(&adapter)?;
    // Everything is planned before anything is timed: a bad shape costs no one a wait.
    let mut jobs = Vec::with_capacity(args.shapes.len());
    for Sizes { shape, config } in &args.shapes {
        let attention = LinearAttention::new(&device, *config)?;
        let plan = attention.plan(shape).map_err(|error| match Failure::from(error) {
            Failure::Input(message) => Failure::Input(format!("--shape: {message}")),
            other => other,
        })?;
        jobs.push((attention, plan));
    }

    let timer = Timer::new(&device, &queue);
    let iterations = args.iterations as usize;
    println!("{}: median of {iterations} by {}", device::name(&adapter), timer.name());
    let progress = Progress::new(jobs.len() + 1);
    progress.step("measuring the ceilings");
    let ceilings = Ceilings::measure(&device, &timer, iterations)?;
    progress.print(&format!(
        "ceilings: copy {:.1} GB/s, multiply-add {:.1} GFLOP/s",
        1e-9 * ceilings.bytes,
        1e-9 * ceilings.flops
    ));
    progress.print(&header());
    let mut rows = Vec::with_capacity(jobs.len());
    for (attention, plan) in &jobs {
        progress.step(&format!("measuring {}", sizes(plan)));
        check(&device, &queue, attention, plan)?;
        let seconds = time(&device, attention, plan, &timer, iterations)?;
        let row = Row::new(plan, seconds, &ceilings);
        progress.print(&row.line(&sizes(plan)));
        rows.push(row);
    }
    progress.finish();
    if let Some(file) = json_file {
        let info = adapter.get_info();
        let report = json!({
            "adapter": info.name,
            "driver": device::driver(&info),
            "backend": info.backend.to_string(),
            "rows": rows,
        });
        file.write(format!("{report:#}\n").as_bytes())?;
    }
    Ok(())
}

/// Whether the first tokens of this shape come out right: a wrong result has no speed.
fn check(
    device: &Device,
    queue: &Queue,
    attention: &LinearAttention,
    plan: &Plan,
) -> Result<(), Failure> {
    let mut shape = *plan.shape();
    shape.seq_len = shape.seq_len.min(CHECKED_TOKENS);
    let lens = shape.lens(plan.config())?;
    let [q, k, v] = [(lens.q, 1), (lens.k, 2), (lens.v, 3)].map(|(len, seed)| random(len, seed));
    let inputs = Inputs::new(&q, &k, &v);
    let found = attention.run(device, queue, &shape, inputs)?;
    let expected = reference::recurrent(plan.config(), &shape, inputs)?;
    let error = relative_error(&found.o, &expected.o);
    if error <= TOLERANCE {
        return Ok(());
    }
    Err(Failure::NotHeld(format!(
        "--shape {}: expected an error of at most {TOLERANCE:.0e} of the largest output, found {error:.1e}",
        sizes(plan)
    )))
}

fn time(
    device: &Device,
    attention: &LinearAttention,
    plan: &Plan,
    timer: &Timer<'_>,
    iterations: usize,
) -> Result<f64, Failure> {
    let lens = plan.lens();
    let [q, k, v] = [(lens.q, 1), (lens.k, 2), (lens.v, 3)].map(|(len, seed)| {
        device.create_buffer_init(&BufferInitDescriptor {
            label: Some("linear-attention.input"),
            contents: bytemuck::cast_slice(&random(len, seed)),
            usage: BufferUsages::STORAGE,
        })
    });
    let [out, scratch] = [4 * lens.o, plan.scratch_size().max(4)].map(|size| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("linear-attention.output"),
            size,
            usage: BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    });
    let tensors = Tensors::new(&q, &k, &v, &out);
    let bound = attention
        .bind(device, plan, &tensors, scratch.as_entire_buffer_binding())
        .map_err(|error| Failure::Device(error.to_string()))?;
    timer.median(iterations, &|pass| attention.dispatch(pass, &bound))
}

impl Row {
    fn new(plan: &Plan, seconds: f64, ceilings: &Ceilings) -> Self {
        let (shape, config) = (plan.shape(), plan.config());
        let bytes = plan.bytes_moved() as f64 / seconds;
        let flops = plan.flops() as f64 / seconds;
        Self {
            b: shape.batch,
            t: shape.seq_len,
            h: shape.heads,
            g: shape.kv_heads,
            k: config.key_dim,
            v: config.value_dim,
            dtype: config.dtype.name(),
            ms: 1e3 * seconds,
            gb_s: 1e-9 * bytes,
            copy_share: bytes / ceilings.bytes,
            gflop_s: 1e-9 * flops,
            fma_share: flops / ceilings.flops,
            tokens_s: f64::from(shape.batch) * f64::from(shape.seq_len) / seconds,
            scratch_bytes: plan.scratch_size(),
        }
    }

    fn line(&self, sizes: &str) -> String {
        format!(
            "{sizes:<20}{:>10.3}{:>10.1}{:>8.0} %{:>10.1}{:>8.0} %{:>13.0}{:>12}",
            self.ms,
            self.gb_s,
            100.0 * self.copy_share,
            self.gflop_s,
            100.0 * self.fma_share,
            self.tokens_s,
            self.scratch_bytes
        )
    }
}

fn header() -> String {
    let names = ["ms", "GB/s", "of copy", "GFLOP/s", "of fma", "tokens/s", "scratch B"];
    let [ms, gb, copy, gflop, fma, tokens, scratch] = names;
    format!(
        "{:<20}{ms:>10}{gb:>10}{copy:>10}{gflop:>10}{fma:>10}{tokens:>13}{scratch:>12}",
        "B,T,H,K,V"
    )
}

fn sizes(plan: &Plan) -> String {
    let (shape, config) = (plan.shape(), plan.config());
    let Shape { batch, seq_len, heads, .. } = shape;
    format!("{batch},{seq_len},{heads},{},{}", config.key_dim, config.value_dim)
}
