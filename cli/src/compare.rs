//! `compare`: the error of each feature map against softmax attention on real q, k and v, and its
//! cost.

mod draw;
mod measure;

use std::path::PathBuf;

use linear_attention::{Config, Dtype, FeatureMap, reference};
use linear_attention_measure::Timer;
use serde_json::json;

use crate::device;
use crate::failure::Failure;
use crate::file::InputFile;
use crate::maps::{self, Missing};
use crate::output::OutputFile;
use crate::progress::Progress;
use measure::{Compared, Device};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Safetensors file with q `[B,T,H,K]`, k `[B,T,G,K]`, v `[B,T,E,V]`, and
    /// if wanted cu_seqlens `[N+1]`
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Draw the errors to this SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Write the rows to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A map to compare, as `run` takes it; may be given several times [default: all of them, those
    /// with a size of their own with several]
    #[arg(long = "feature-map", value_name = "MAP")]
    maps: Vec<FeatureMap>,
    /// Divide rows of q and k by their lengths before every map
    #[arg(long)]
    l2_norm: bool,
    /// Make q and k smaller or larger, both alike, so that no |q| |k| / K^(1/2) is above this
    #[arg(long, value_name = "NORM", value_parser = positive)]
    norm: Option<f64>,
    /// The seed of weights: random features, and the initial weights of maps that are to be trained
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// A part of an adapter's name, backend or driver
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Runs of which the median counts, for maps that take less than a second
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(format!("expected a number above 0, found {text}")),
    }
}

/// Every map, with sizes that show what they change.
fn all(key_dim: u32) -> Vec<FeatureMap> {
    use FeatureMap::{
        Dpfp, Favor, FavorHyperbolic, Fourier, Hedgehog, HedgehogJoint, Product, Softmax, T2r,
        Taylor,
    };
    let mut maps = FeatureMap::ELEMENT_WISE.to_vec();
    maps.extend([Softmax, Dpfp { nu: 1 }, Dpfp { nu: 3 }, Taylor]);
    maps.extend([64, 256, 1024, 4096].map(|features| Favor { features }));
    maps.extend([256, 1024].map(|features| FavorHyperbolic { features }));
    maps.push(Fourier { features: 1024 });
    maps.extend([
        T2r { features: key_dim },
        Hedgehog,
        HedgehogJoint,
        Product { features: key_dim },
    ]);
    // For very narrow rows some have no such size.
    let is_valid = |map: &FeatureMap| measure::config(map.clone(), key_dim, 1).validate().is_ok();
    maps.retain(is_valid);
    maps
}

/// Compares, prints a table, and draws it if asked to.
pub(crate) fn compare(args: &Args) -> Result<(), Failure> {
    let output = |option, path: &Option<PathBuf>| {
        path.as_deref().map(|path| OutputFile::new(option, path)).transpose()
    };
    let (plot, json_file) = (output("--plot", &args.plot)?, output("--json", &args.json)?);
    let file = InputFile::read(&args.input)?;
    file.check_compare()?;
    let read = |config: &mut Config| {
        let mut input = file.input(config, Missing::DrawAll(args.seed))?;
        if let Some(norm) = args.norm {
            let [_, largest] = measure::norms(config, &input);
            if largest == 0.0 {
                let found = "expected q and k that are not 0 throughout, found q or k that is";
                return Err(Failure::Input(format!("--norm: {found}")));
            }
            // The numbers are no longer those that 16 bits had.
            config.dtype = Dtype::F32;
            input.scale_queries_and_keys((norm / largest).sqrt());
        }
        Ok::<_, Failure>(input)
    };
    // Softmax attention has no feature map and no initial state.
    let mut config = Config::new(1, 1);
    let input = read(&mut config)?;
    input.inputs().check(&config, &input.shape)?;
    if input.shape.max_len() == 0 {
        let found = "expected at least one token to compare, found T = 0";
        return Err(Failure::Input(format!("{}: tensor q: {found}", args.input.display())));
    }
    let maps = if args.maps.is_empty() { all(config.key_dim) } else { args.maps.clone() };
    // An invalid map is refused before anything is computed.
    for map in &maps {
        let config = measure::config(map.clone(), config.key_dim, config.value_dim);
        config.validate().map_err(|error| Failure::Input(maps::explain(&config, &error)))?;
    }
    let adapter = device::pick(args.adapter.as_deref())?;
    let opened = adapter.as_ref().map(device::open).transpose()?;
    let timer = opened.as_ref().map(|(device, queue)| Timer::new(device, queue));
    if adapter.is_none() {
        eprintln!("NO ADAPTER can run this here: the CPU reference computes, and nothing is timed");
        eprintln!("{}", device::DRIVER_HINT);
    }
    let progress = Progress::new(maps.len() + 1);
    progress.step("softmax attention in f64");
    let truth = reference::softmax(&config, &input.shape, input.inputs())?;
    let by = adapter.as_ref().map_or_else(|| "the CPU reference, f64".to_owned(), device::name);
    progress.print(&format!("{}\non {by}", measure::describe(&config, &input)));
    progress.print(&measure::header());
    let on_device = timer.as_ref().map(|timer| Device { timer, iterations: args.iterations });
    let mut rows: Vec<Compared> = Vec::with_capacity(maps.len() + 1);
    rows.push(measure::equal_weights(&config, &input, &truth));
    progress.print(&rows[0].line());
    for map in maps {
        progress.step(&map.to_string());
        let mut config = measure::config(map.clone(), config.key_dim, config.value_dim);
        config.l2_norm = args.l2_norm;
        let input = read(&mut config)?;
        match measure::compare(&config, &input, &truth, on_device.as_ref()) {
            Ok(row) => {
                progress.print(&row.line());
                rows.push(row);
            }
            // Other maps may fit where this one does not.
            Err(failure) if args.maps.is_empty() => {
                progress.print(&format!("{map}: LEFT OUT, {failure}"));
            }
            Err(failure) => return Err(failure),
        }
    }
    progress.finish();
    println!("\n{}", measure::LEGEND);
    if let Some(file) = json_file {
        let json = json!({ "input": args.input.display().to_string(), "by": by, "l2_norm": args.l2_norm, "norm": args.norm, "rows": rows });
        file.write(format!("{json:#}\n").as_bytes())?;
    }
    if let Some(file) = plot {
        let caption = format!("{}; on {by}", measure::describe(&config, &input));
        let svg = draw::svg(&rows, &caption)
            .map_err(|error| Failure::Device(format!("the plot cannot be drawn: {error}")))?;
        file.write(svg.as_bytes())?;
    }
    Ok(())
}
