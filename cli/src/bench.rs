//! `bench`: the speed of an adapter, beside its memory's and its arithmetic's peak rates.

use std::path::PathBuf;

use linear_attention::tuning::{Candidate, MatrixUnits, tune_with};
use linear_attention::wgpu::{Adapter, Device, DeviceType, Queue};
use linear_attention::{Config, Dtype, FeatureMap, Normalization, UpdateRule};
use linear_attention_measure::model::{DeviceNumbers, Prediction};
use linear_attention_measure::{
    Against, Ceilings, CpuJob, Job, MeasureError, Peers, Report, Row, Sizes, Sweep, Timer, fastest,
    parse_step, standard_sizes, table,
};

use crate::device::{self, Computer};
use crate::failure::Failure;
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::rule::RuleName;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A part of the adapter's name, backend or driver, or cpu for the CPU engine [default: the
    /// best GPU there is, else the CPU engine]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Write the rows to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this shape; may be given several times; V is K where it is not given [default: the
    /// shapes of docs/performance.md, unless there is a --decode or a --sweep]
    #[arg(long = "shape", value_name = "B,T,H,K[,V]", allow_hyphen_values = true)]
    shapes: Vec<Sizes>,
    /// Measure a decode step; may be given several times: one token for each of N sequences whose
    /// states are in a pool
    #[arg(long = "decode", value_name = "N,H,K[,V]", value_parser = parse_step,
          allow_hyphen_values = true)]
    steps: Vec<Sizes>,
    /// Measure with T from FIRST, doubled up to LAST, as far as the device can bind it; without
    /// a value: one head to a million tokens, and eight heads where softmax attention is overtaken
    #[arg(long = "sweep", value_name = "B,FIRST..LAST,H,K[,V]", num_args = 0..,
          default_missing_values = [Sweep::GROWTH, Sweep::SOFTMAX])]
    sweeps: Vec<Sweep>,
    /// The dtype of q, k, v and o
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    dtype: String,
    /// The rule by which a token changes the state; given more than once, each shape is measured
    /// with each
    #[arg(long, value_name = "RULE", default_value = "linear")]
    update_rule: Vec<RuleName>,
    /// φ, as `run` takes it; given more than once, each shape is measured with each [default: elu
    /// with the update rule linear, identity with the others]
    #[arg(long, value_name = "MAP")]
    feature_map: Vec<FeatureMap>,
    /// Compare with the fastest peer of equal sizes in a file that a script of benches/peers
    /// wrote, any number of times
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// First measure the few ways that the device could compute each shape, and take the best
    #[arg(long)]
    tune: bool,
    /// Use matrix units where the device has them for a shape's dtype, rule and map, after they
    /// have computed some cases rightly; with --tune only where they are faster. An experimental
    /// feature of wgpu
    #[arg(long)]
    matrix_units: bool,
    /// Print what a model of time predicts for a device that need not be there, and measure
    /// nothing: a name of the table or three numbers of its vendor
    #[arg(long, value_name = "NAME|GB/S,GFLOP/S,UNITS",
          conflicts_with_all = ["adapter", "json", "against", "tune", "matrix_units", "iterations"])]
    predict: Option<DeviceNumbers>,
    /// Runs of which the median counts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
}

/// The option that asks for a shape; without one, the shapes of the docs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Shape,
    Decode,
    Sweep,
    Nothing,
}

impl Asked {
    /// One that a caller spelt out must fit the device; of the others those that fit are measured.
    fn must_fit(self) -> bool {
        matches!(self, Self::Shape | Self::Decode)
    }

    /// The option and the shape, as the caller would write them.
    fn named(self, sizes: &Sizes) -> String {
        let Sizes { b, h, k, v, .. } = sizes;
        match self {
            Self::Shape => format!("--shape {sizes}"),
            Self::Decode => format!("--decode {b},{h},{k},{v}"),
            Self::Sweep => format!("--sweep at {sizes}"),
            Self::Nothing => sizes.to_string(),
        }
    }
}

impl Args {
    /// Every shape to measure, each once, and the option that asks for it.
    fn sizes(&self, device_type: DeviceType) -> Vec<(Sizes, Asked)> {
        let of = |asked| move |sizes: &Sizes| (*sizes, asked);
        let mut all: Vec<_> = self.shapes.iter().map(of(Asked::Shape)).collect();
        all.extend(self.steps.iter().map(of(Asked::Decode)));
        let others: Vec<(Sizes, Asked)> = if all.is_empty() && self.sweeps.is_empty() {
            standard_sizes(device_type).iter().map(of(Asked::Nothing)).collect()
        } else {
            let swept = self.sweeps.iter().flat_map(|sweep| sweep.sizes());
            swept.map(|sizes| (sizes, Asked::Sweep)).collect()
        };
        for (sizes, asked) in others {
            if all.iter().all(|(known, _)| *known != sizes) {
                all.push((sizes, asked));
            }
        }
        all
    }
}

impl Args {
    /// Every rule with every map, but for their widths.
    fn configs(&self, dtype: Dtype) -> Vec<Config> {
        let of_rule = |rule: &RuleName| -> Vec<Config> {
            let usual = Config::of_rule(1, 1, rule.with_defaults()).with_dtype(dtype);
            let maps = self.feature_map.iter();
            let configs = maps.map(|map| config(usual.clone().with_feature_map(map.clone())));
            if self.feature_map.is_empty() { vec![usual] } else { configs.collect() }
        };
        self.update_rule.iter().flat_map(of_rule).collect()
    }
}

/// Checks, then times each shape.
pub(crate) fn bench(args: &Args) -> Result<(), Failure> {
    if let Some(device) = &args.predict {
        return predict(args, device);
    }
    let json_file = args.json.as_deref().map(|path| OutputFile::new("--json", path)).transpose()?;
    let peers = args.against.iter().map(|path| {
        Peers::read(path).map_err(|error| Failure::Input(format!("--against {error}")))
    });
    let peers: Vec<Peers> = peers.collect::<Result<_, _>>()?;
    let adapter = match device::choose(args.adapter.as_deref())? {
        Computer::Adapter(adapter) => adapter,
        Computer::Cpu | Computer::Reference => return bench_cpu(args, &peers, json_file),
    };
    let (device, queue) = match args.matrix_units {
        true => device::open_with_matrix_units(&adapter)?,
        false => device::open(&adapter)?,
    };
    // Everything is planned before anything is timed: a bad shape costs no one a wait.
    let dtype = Dtype::from_name(&args.dtype.to_uppercase()).unwrap_or_default();
    let configs = args.configs(dtype);
    let jobs = {
        let sizes = args.sizes(adapter.get_info().device_type);
        plan(&sizes, &configs, |sizes, config| Job::new(&device, sizes, config))?
    };
    let units = match args.matrix_units {
        true => jobs.iter().map(|job| matrix_units((&adapter, &device, &queue), job)).collect(),
        false => vec![None; jobs.len()],
    };
    let jobs = match args.tune {
        true => tuned(&device, &queue, &jobs, &units)?,
        false => on_matrix_units(&device, jobs, &units)?,
    };

    let timer = Timer::new(&device, &queue);
    let iterations = args.iterations as usize;
    println!("{}: median of {iterations} by {}", device::name(&adapter), timer.name());
    let progress = Progress::new(jobs.len() + 1);
    progress.step("measuring the ceilings");
    let ceilings = Ceilings::measure(&timer, iterations)?;
    let mut report = Report::new(&adapter.get_info(), timer.name(), iterations, &ceilings);
    progress.print(&table::ceilings(&ceilings));
    let against = !peers.is_empty();
    progress.print(&table::header(against));
    for job in &jobs {
        progress.step(&format!("measuring {}", job.sizes()));
        let mut row = job.measure(&timer, &ceilings, iterations)?;
        row.against = against_peers(&peers, job.config(), &row);
        progress.print(&table::line(&row, against));
        report.rows.push(row);
    }
    progress.finish();
    println!("\n{}", table::latency_header());
    for row in &report.rows {
        println!("{}", table::latency_line(row));
    }
    write_report(&report, json_file)
}

/// The predictions of a model for each shape, without a device.
fn predict(args: &Args, device: &DeviceNumbers) -> Result<(), Failure> {
    let dtype = Dtype::from_name(&args.dtype.to_uppercase()).unwrap_or_default();
    let plans = plan(&args.sizes(device.device_type), &args.configs(dtype), |sizes, config| {
        device.plan(sizes, config)
    })?;
    println!("{device}\n{}", table::prediction_header());
    for plan in &plans {
        println!("{}", table::prediction_line(plan, &Prediction::of(plan, device)));
    }
    Ok(())
}

/// The same on the CPU engine.
fn bench_cpu(args: &Args, peers: &[Peers], json_file: Option<OutputFile>) -> Result<(), Failure> {
    for (option, is_given) in [("--tune", args.tune), ("--matrix-units", args.matrix_units)] {
        if is_given {
            let expected = "expected an adapter of wgpu, found the CPU engine";
            return Err(Failure::Input(format!("{option}: {expected}")));
        }
    }
    let dtype = Dtype::from_name(&args.dtype.to_uppercase()).unwrap_or_default();
    let mut jobs = plan(&args.sizes(DeviceType::Cpu), &args.configs(dtype), CpuJob::new)?;
    let iterations = args.iterations as usize;
    let name = device::cpu_name();
    println!("{name}: median of {iterations} by the clock");
    let progress = Progress::new(jobs.len() + 1);
    progress.step("measuring the ceilings");
    let ceilings = Ceilings::of_cpu(iterations);
    let names = [name, String::new(), "cpu".to_owned()];
    let mut report = Report::of(names, "the clock", iterations, &ceilings);
    progress.print(&table::ceilings(&ceilings));
    progress.print(&table::header(!peers.is_empty()));
    for job in &mut jobs {
        progress.step(&format!("measuring {}", job.sizes()));
        let mut row = job.measure(&ceilings, iterations)?;
        row.against = against_peers(peers, job.config(), &row);
        progress.print(&table::line(&row, !peers.is_empty()));
        report.rows.push(row);
    }
    progress.finish();
    write_report(&report, json_file)
}

/// The fastest peer. The peers have elu + 1 with the rule linear, and no map with the others.
fn against_peers(peers: &[Peers], config: &Config, row: &Row) -> Option<Against> {
    match (config.update_rule, &config.feature_map) {
        (UpdateRule::Linear, FeatureMap::Elu) => fastest(peers, row),
        (UpdateRule::Linear, _) => None,
        (_, FeatureMap::Identity) => fastest(peers, row),
        _ => None,
    }
}

fn write_report(report: &Report, json_file: Option<OutputFile>) -> Result<(), Failure> {
    let Some(file) = json_file else { return Ok(()) };
    let json =
        serde_json::to_string_pretty(report).map_err(|error| Failure::Device(error.to_string()))?;
    file.write(format!("{json}\n").as_bytes())
}

/// The config to measure for a map with the rule linear: with the quotient, except for maps whose
/// features are negative for any rows. Those are measured without, since their quotient could not
/// be checked.
fn config(mut config: Config) -> Config {
    if config.is_normalized() && !config.is_non_negative() {
        config.normalization = match config.feature_map {
            FeatureMap::Identity | FeatureMap::Silu => Normalization::SignedSum { eps: 0.0 },
            _ => Normalization::None,
        };
    }
    config
}

/// The device's matrix units for the config of a job; says why there are none.
fn matrix_units(
    (adapter, device, queue): (&Adapter, &Device, &Queue),
    job: &Job,
) -> Option<MatrixUnits> {
    let found = MatrixUnits::new(adapter, device, queue, job.config());
    match &found {
        Ok(units) => println!("{}: matrix units of {1}x{1}x{1}", job.sizes(), units.size()),
        Err(reason) => println!("{}: no matrix units: {reason}", job.sizes()),
    }
    found.ok()
}

/// The same shapes, on matrix units where there are any.
fn on_matrix_units(
    device: &Device,
    jobs: Vec<Job>,
    units: &[Option<MatrixUnits>],
) -> Result<Vec<Job>, Failure> {
    let each = jobs.into_iter().zip(units).map(|(job, units)| match units {
        None => Ok(job),
        Some(units) => {
            let (sizes, tuning) = (job.sizes(), Some(*units.tuning()));
            Ok(Job::with_tuning(device, &sizes, job.config(), tuning, Some(units))?)
        }
    });
    each.collect()
}

/// The same shapes, each with the fastest of the device's candidates.
fn tuned(
    device: &Device,
    queue: &Queue,
    jobs: &[Job],
    units: &[Option<MatrixUnits>],
) -> Result<Vec<Job>, Failure> {
    let progress = Progress::new(jobs.len());
    let mut tuned = Vec::with_capacity(jobs.len());
    for (job, units) in jobs.iter().zip(units) {
        let (sizes, units) = (job.sizes(), units.as_ref());
        progress.step(&format!("tuning {sizes}"));
        let mut best: Option<Candidate> = None;
        tune_with(device, queue, job.config(), job.shape(), units, &mut |candidate| {
            progress.print(&candidate_line(&sizes, candidate));
            if best.is_none_or(|best| candidate.time < best.time) {
                best = Some(*candidate);
            }
        })?;
        let tuning = best.map(|best| best.tuning);
        tuned.push(Job::with_tuning(device, &sizes, job.config(), tuning, units)?);
    }
    progress.finish();
    Ok(tuned)
}

fn candidate_line(sizes: &Sizes, candidate: &Candidate) -> String {
    let (tuning, ms) = (candidate.tuning, 1e3 * candidate.time.as_secs_f64());
    format!("{sizes:<20}{ms:>10.3} ms  {:?}, {} workgroups", tuning.layout, tuning.workgroups)
}

/// The shapes that fit, of which there must be one. A shape that must fit and does not is refused;
/// the others are skipped with a message.
fn plan<J>(
    sizes: &[(Sizes, Asked)],
    configs: &[Config],
    make: impl Fn(&Sizes, &Config) -> Result<J, MeasureError>,
) -> Result<Vec<J>, Failure> {
    let mut jobs = Vec::with_capacity(sizes.len());
    let mut skipped = Vec::new();
    let each = sizes.iter().flat_map(|sizes| configs.iter().map(move |config| (sizes, config)));
    for ((sizes, asked), config) in each {
        match make(sizes, config) {
            Ok(job) => jobs.push(job),
            Err(error @ (MeasureError::Plan(_) | MeasureError::Memory { .. }))
                if !asked.must_fit() =>
            {
                skipped.push((asked, asked.named(sizes), error));
            }
            Err(error) => {
                return Err(match Failure::from(error) {
                    Failure::Input(message) => {
                        Failure::Input(format!("{}: {message}", asked.named(sizes)))
                    }
                    other => other,
                });
            }
        }
    }
    match (jobs.is_empty(), skipped.first()) {
        (true, Some((Asked::Nothing, name, error))) => {
            Err(Failure::Device(format!("none of the usual shapes fits: {name}: {error}")))
        }
        (true, Some((_, name, error))) => Err(Failure::Input(format!("{name}: {error}"))),
        _ => {
            skipped.iter().for_each(|(_, name, error)| eprintln!("SKIPPED {name}: {error}"));
            Ok(jobs)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_named_as_their_options_take_them() {
        let (sizes, step) = (Sizes::new([2, 9, 3, 4, 5]), Sizes::new([7, 1, 3, 4, 5]));
        assert_eq!(Asked::Shape.named(&sizes), "--shape 2,9,3,4,5");
        assert_eq!(Asked::Shape.named(&step), "--shape 7,1,3,4,5");
        assert_eq!(Asked::Decode.named(&step), "--decode 7,3,4,5");
    }
}
