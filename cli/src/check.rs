//! `check`: the library's own cases on this machine's adapters.

use std::path::PathBuf;

use linear_attention::cpu::CpuAttention;
use linear_attention::gradients::OutputGradients;
use linear_attention::verify::{self, Report, Row};
use linear_attention::wgpu::{Adapter, Backend, Limits};
use linear_attention::{Config, Inputs, ShaderChecks, Shape};
use linear_attention_measure::today;
use serde_json::{Value, json};

use crate::device;
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::progress::Progress;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only adapters with this in their name, backend or driver, or cpu for the CPU engine
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Write every comparison to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only the cases with this in their name
    #[arg(long, value_name = "SUBSTRING")]
    case: Option<String>,
    /// Let wgpu check every index and count every loop of the shaders, as debug builds do
    #[arg(long)]
    checked: bool,
    /// Ask the device for no more than WebGPU's default limits
    #[arg(long)]
    default_limits: bool,
    /// The seed of the inputs, to repeat a run
    #[arg(long, default_value_t = verify::Options::default().seed)]
    seed: u64,
}

/// Runs every case on every adapter, prints what fails and a line for each adapter.
pub(crate) fn check(args: &Args) -> Result<(), Failure> {
    let json_file = args.json.as_deref().map(|path| OutputFile::new("--json", path)).transpose()?;
    let adapters = match args.adapter.as_deref() {
        Some(device::CPU) => Vec::new(),
        Some(wanted) => device::matching(wanted)?,
        None => device::all(),
    };
    let (mut checked, mut failed) = (Vec::new(), 0);
    if args.adapter.as_deref().is_none_or(|wanted| wanted == device::CPU) {
        let report = check_cpu(args)?;
        failed += usize::from(!report.passed());
        checked.push(report_to_json([&device::cpu_name(), "", "cpu"], false, false, &report));
    }
    for adapter in &adapters {
        // Adapters that are not asked for by name may be skipped, with a message.
        if args.adapter.is_none()
            && let Some(reason) = reason_to_skip(adapter, &adapters)
        {
            println!("{}: skipped, {reason}", device::name(adapter));
            continue;
        }
        let report = check_one(adapter, args)?;
        failed += usize::from(!report.passed());
        checked.push(to_json(adapter, args, &report));
    }
    let count = checked.len();
    if let Some(file) = json_file {
        file.write(format!("{:#}\n", json!({ "adapters": checked })).as_bytes())?;
    }
    if count == 0 {
        return Err(Failure::Device(format!("no adapter to check: {}", device::DRIVER_HINT)));
    }
    if failed > 0 {
        return Err(Failure::NotHeld(format!("{failed} of {count} adapters failed")));
    }
    Ok(())
}

/// The reason that an adapter is not checked: it cannot run, or OpenGL is a second way to a device
/// that another backend reaches.
fn reason_to_skip(adapter: &Adapter, adapters: &[Adapter]) -> Option<String> {
    if let Some(obstacle) = device::obstacle(adapter) {
        return Some(format!("cannot run: {obstacle}"));
    }
    let info = adapter.get_info();
    let mut others = adapters.iter().filter(|other| {
        let other_info = other.get_info();
        other_info.backend != Backend::Gl
            && other_info.name == info.name
            && device::obstacle(other).is_none()
    });
    let other = others.next().filter(|_| info.backend == Backend::Gl)?;
    Some(format!("the same device as {}; --adapter gl checks it", device::name(other)))
}

/// Every case, on the CPU engine.
fn check_cpu(args: &Args) -> Result<Report, Failure> {
    let name = device::cpu_name();
    println!("{name}: seed {}", args.seed);
    let mut options = verify::Options::default();
    options.seed = args.seed;
    options.filter.clone_from(&args.case);
    let mut compute = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
        CpuAttention::new(config.clone())?.run(shape, inputs)
    };
    let mut on_row = |row: &Row| {
        if !row.passed {
            println!("{}", failure(row));
        }
    };
    let mut report = verify::run_host(&options, &mut compute, &mut on_row);
    let mut backward =
        |config: &Config, shape: &Shape, inputs: Inputs<'_>, gradients: OutputGradients<'_>| {
            CpuAttention::new(config.clone())?.backward(shape, inputs, gradients)
        };
    let of_backward = verify::run_host_backward(&options, &mut backward, &mut on_row);
    report.rows.extend(of_backward.rows);
    if let (true, Some(case)) = (report.rows.is_empty(), &args.case) {
        return Err(no_case(case));
    }
    print_summary(&name, &report);
    Ok(report)
}

fn no_case(case: &str) -> Failure {
    let expected = "expected a part of a case's name, as `check` prints them";
    Failure::Input(format!("--case {case}: {expected}, found none"))
}

fn check_one(adapter: &Adapter, args: &Args) -> Result<Report, Failure> {
    let name = device::name(adapter);
    let (device, queue) = match args.default_limits {
        true => device::open_with(adapter, Limits::default())?,
        false => device::open(adapter)?,
    };
    println!("{name}: seed {}", args.seed);
    let mut options = verify::Options::default();
    if args.checked {
        options.checks = ShaderChecks::Checked;
    }
    options.seed = args.seed;
    options.filter.clone_from(&args.case);
    let count = verify::cases_of_run(&device.limits(), &options).len();
    if let (0, Some(case)) = (count, &args.case) {
        return Err(no_case(case));
    }
    let progress = Progress::new(count);
    let mut last = String::new();
    let report = verify::run_with(&device, &queue, &options, &mut |row| {
        // The rows of a case come one after the other.
        if row.case != last {
            progress.step(&row.case);
            last.clone_from(&row.case);
        }
        if !row.passed {
            progress.print(&failure(row));
        }
    });
    progress.finish();
    print_summary(&name, &report);
    Ok(report)
}

fn print_summary(name: &str, report: &Report) {
    let passed = report.rows.iter().filter(|row| row.passed).count();
    let closest = report.rows.iter().fold(0.0, |most: f64, row| most.max(row.ratio));
    println!(
        "{name}: {passed} of {} comparisons passed, largest error {closest:.2} of its bound",
        report.rows.len()
    );
}

fn failure(row: &Row) -> String {
    let Row { case, stage, tensor, error, bound, message, .. } = row;
    if message.is_empty() {
        format!("FAILED {case}, {stage}, {tensor}: error {error:.3e}, bound {bound:.3e}")
    } else {
        format!("FAILED {case}, {stage}: {message}")
    }
}

fn to_json(adapter: &Adapter, args: &Args, report: &Report) -> Value {
    let info = adapter.get_info();
    report_to_json(
        [&info.name, &device::driver(&info), &info.backend.to_string()],
        args.checked || cfg!(debug_assertions),
        args.default_limits,
        report,
    )
}

fn report_to_json(
    [adapter, driver, backend]: [&str; 3],
    checked: bool,
    default_limits: bool,
    report: &Report,
) -> Value {
    json!({
        "adapter": adapter,
        "driver": driver,
        "backend": backend,
        "checked": checked,
        "default_limits": default_limits,
        "date": today(),
        "seed": report.seed,
        "rows": report.rows,
    })
}
