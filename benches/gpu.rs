//! The shapes of `docs/performance.md` by the device's timestamps, on the first adapter found
//! or the one that `WGPU_ADAPTER_NAME` and `WGPU_BACKEND` name.
//!
//! `cargo bench --bench gpu` first runs the harness and times nothing where it fails. Without
//! `--bench` among its arguments, as `cargo test` runs it, the shapes are tiny and one case
//! of the harness stands for all: a test that this file works, in seconds.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use linear_attention::{verify, wgpu};
use linear_attention_measure::{
    Ceilings, Job, MeasureError, Row, Sizes, Timer, driver, standard_sizes, table,
};

/// Runs of which the median counts.
const ITERATIONS: usize = 20;

/// The shapes of a test: one segment, several segments, and a decode step.
const TINY: [[u32; 5]; 3] = [[1, 64, 4, 16, 16], [1, 1000, 1, 16, 16], [2, 1, 2, 16, 16]];

/// The harness's case that a test runs.
const TINY_CASE: &str = "t65";

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().collect();
    let has = |flag: &str| given.iter().any(|argument| argument == flag);
    // `cargo bench -- --test` gives both.
    if has("--bench") && !has("--test") {
        return match measure_standard() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                eprintln!("error: {}", failed.message().unwrap_or("the bench failed"));
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_iter(given.iter().filter(|argument| *argument != "--bench"));
    let trials = vec![Trial::test("benches::gpu::tiny", measure_tiny)];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn measure_standard() -> Result<(), Failed> {
    let Some(gpu) = Gpu::find()? else { return Ok(()) };
    let sizes = standard_sizes(gpu.device.adapter_info().device_type);
    gpu.measure(None, &sizes, ITERATIONS).map(drop)
}

fn measure_tiny() -> Result<(), Failed> {
    let Some(gpu) = Gpu::find()? else { return Ok(()) };
    let rows = gpu.measure(Some(TINY_CASE), &TINY.map(Sizes::new), 1)?;
    if rows.len() == TINY.len() { Ok(()) } else { Err("a tiny shape has no row".into()) }
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Gpu {
    /// A device with all its adapter has; none where there is no adapter and none is required.
    fn find() -> Result<Option<Self>, Failed> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // As for the tests: OpenGL only where it is asked for, since its drivers compile slowly.
        descriptor.backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::PRIMARY);
        let instance = wgpu::Instance::new(descriptor);
        let found = wgpu::util::initialize_adapter_from_env_or_default(&instance, None);
        let adapter = match pollster::block_on(found) {
            Ok(adapter) => adapter,
            Err(error) => {
                eprintln!("NO ADAPTER FOUND, so nothing is measured: {error}");
                let required = std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU");
                if required.is_some_and(|value| value == "1") {
                    return Err("LINEAR_ATTENTION_REQUIRE_GPU asks for an adapter".into());
                }
                return Ok(None);
            }
        };
        let info = adapter.get_info();
        println!("{} ({}, {})", info.name, info.backend, driver(&info));
        let (device, queue) =
            pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
                label: Some("linear-attention.bench"),
                required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
                required_limits: adapter.limits(),
                ..Default::default()
            }))?;
        Ok(Some(Self { device, queue }))
    }

    /// The harness first, then the table: a wrong device has no meaningful speed.
    fn measure(
        &self,
        case: Option<&str>,
        sizes: &[Sizes],
        iterations: usize,
    ) -> Result<Vec<Row>, Failed> {
        let mut options = verify::Options::default();
        options.filter = case.map(str::to_owned);
        let report = verify::run(&self.device, &self.queue, &options);
        let passed = report.rows.iter().filter(|row| row.passed).count();
        println!("harness: {passed} of {} comparisons passed", report.rows.len());
        if !report.passed() {
            return Err("the harness failed; `linear-attention check` says where".into());
        }

        let timer = Timer::new(&self.device, &self.queue);
        println!("median of {iterations} by {}", timer.name());
        let ceilings = Ceilings::measure(&timer, iterations)?;
        println!("{}\n{}", table::ceilings(&ceilings), table::header(false));
        let mut rows = Vec::with_capacity(sizes.len());
        for sizes in sizes {
            match Job::new(&self.device, sizes, &sizes.config()) {
                Ok(job) => {
                    let row = job.measure(&timer, &ceilings, iterations)?;
                    println!("{}", table::line(&row, false));
                    rows.push(row);
                }
                // Not every device binds the largest.
                Err(MeasureError::Plan(error)) => println!("SKIPPED {sizes}: {error}"),
                Err(error) => return Err(error.into()),
            }
        }
        println!("{}", table::latency_header());
        for row in &rows {
            println!("{}", table::latency_line(row));
        }
        Ok(rows)
    }
}
