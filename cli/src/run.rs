//! `run`: from a file's q, k and v to a file with o and the final state.

use std::path::PathBuf;
use std::time::Instant;

use linear_attention::cpu::CpuAttention;
use linear_attention::{
    Config, Dtype, LinearAttention, Normalization, Packing, States, UpdateRule, reference,
};
use linear_attention_measure::{TOLERANCE, relative_error};

use crate::device::{self, Computer};
use crate::failure::Failure;
use crate::file::{Input, InputFile, Results};
use crate::maps::{Maps, Missing};
use crate::output::OutputFile;
use crate::rule::RuleName;

/// Tokens up to which the definition, which costs their square, checks the recurrence.
const NAIVE_TOKENS: u32 = 2048;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Safetensors file with q `[B,T,H,K]`, k `[B,T,G,K]`, v `[B,T,E,V]`; with decay `[B,T,E]`,
    /// `[B,T,E,F]` or `[E]` in log space and beta `[B,T,E]` or `[B,T,1]`, where the update rule has
    /// them; and, if wanted, the state to begin with, initial_mu `[N,E,F,V]` and, where o is
    /// normalised, initial_nu `[N,E,F]`; N is B, or with
    /// cu_seqlens `[N+1]` the sequences packed along T. A trained feature map has its weights
    /// there, too: key_weight `[P,K]` or `[G,P,K]` and key_bias `[P]` or `[G,P]`, and where those
    /// of queries are others, query_weight `[P,K]` or `[H,P,K]` and query_bias
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Safetensors file to write: o, final_mu, final_nu
    #[arg(short, long, value_name = "OUT", required_unless_present = "verify")]
    output: Option<PathBuf>,
    /// The rule by which a token changes the state [default: what the file's tensors imply, decay
    /// meaning gated and beta delta]
    #[arg(long, value_name = "RULE")]
    update_rule: Option<RuleName>,
    #[command(flatten)]
    maps: Maps,
    /// Divide by the sum of weights (the default of the rule linear, for maps whose weights cannot
    /// be negative)
    #[arg(long)]
    normalize: bool,
    /// Divide by nothing
    #[arg(long, conflicts_with = "normalize")]
    no_normalize: bool,
    /// Added to the sum of weights, where o is divided by it
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    eps: f32,
    /// Multiplies q after the feature map
    #[arg(long, default_value_t = 1.0, allow_hyphen_values = true)]
    scale: f32,
    /// A part of an adapter's name, backend or driver, or cpu for the CPU engine [default: the best
    /// GPU there is, else the CPU engine]
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// Compute on the CPU in f64, without a GPU
    #[arg(long, conflicts_with = "adapter")]
    reference: bool,
    /// Compare with the CPU reference and fail where the result is off by more than 2e-5
    #[arg(long)]
    verify: bool,
}

impl Args {
    /// The config of a rule but for its sizes.
    fn config(&self, rule: UpdateRule) -> Result<Config, Failure> {
        let mut config = Config::of_rule(1, 1, rule);
        self.maps.apply(&mut config);
        config.scale = self.scale;
        let eps = self.eps;
        if self.normalize && rule.beta().is_some() {
            return Err(Failure::Input(format!(
                "--normalize: expected --no-normalize or neither with the update rule {}, \
                 whose weights have no sum to divide by, found --normalize",
                rule.name()
            )));
        }
        config.normalization = match config.is_non_negative() {
            _ if self.no_normalize => Normalization::None,
            _ if rule != UpdateRule::Linear && !self.normalize => Normalization::None,
            true => Normalization::Sum { eps },
            false if self.normalize => Normalization::SignedSum { eps },
            false => {
                return Err(Failure::Input(format!(
                    "{}: expected --normalize or --no-normalize with a map that can be negative, \
                     found neither",
                    self.maps
                )));
            }
        };
        // K, which some maps depend on, is known with the file.
        let mut numbers = Config::new(1, 1);
        (numbers.scale, numbers.normalization) = (config.scale, config.normalization);
        numbers.validate().map_err(|error| Failure::Input(format!("--{error}")))?;
        Ok(config)
    }
}

/// Computes, verifies if asked to, writes, and says what it did.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let output_file =
        args.output.as_deref().map(|path| OutputFile::new("--output", path)).transpose()?;
    let file = InputFile::read(&args.input)?;
    let mut config = args.config(file.update_rule(args.update_rule)?)?;
    let input = file.input(&mut config, Missing::DrawRandom(args.maps.seed))?;
    file.check_run(&config, args.update_rule)?;
    input.inputs().check(&config, &input.shape)?;
    let computer = match args.reference {
        true => Computer::Reference,
        false => device::choose(args.adapter.as_deref())?,
    };
    let shape = &input.shape;
    let packed = match shape.packing {
        Packing::Equal => String::new(),
        _ => format!(", {} sequences of at most {} tokens", shape.sequences(), shape.max_len()),
    };
    println!("{}{packed}", input.describe(&config));
    let output = compute(&config, &input, &computer)?;
    if args.verify {
        verify(&config, &input, &output, matches!(computer, Computer::Reference))?;
    }
    if let (Some(file), Some(path)) = (&output_file, &args.output) {
        file.write(&input.encode(&output)?)?;
        let states = if config.is_normalized() { "final_mu and final_nu" } else { "final_mu" };
        println!("wrote o in {} and {states} to {}", input.dtype, path.display());
        let overflows = input.overflows(&output);
        if overflows > 0 {
            eprintln!("note: {overflows} outputs are beyond {} and became infinite", input.dtype);
        }
    }
    Ok(())
}

/// The output, from an adapter, the CPU engine or the reference.
fn compute(config: &Config, input: &Input, computer: &Computer) -> Result<Results, Failure> {
    let adapter = match computer {
        Computer::Adapter(adapter) => adapter,
        Computer::Cpu => {
            let start = Instant::now();
            let engine = CpuAttention::new(config.clone())?;
            let output = engine.run(&input.shape, input.inputs())?;
            println!("on {}: {:.1} ms", device::cpu_name(), milliseconds(start));
            return Ok(output.into());
        }
        Computer::Reference => {
            let start = Instant::now();
            let exact = reference::recurrent(config, &input.shape, input.inputs())?;
            println!("on the CPU reference, f64: {:.1} ms", milliseconds(start));
            return Ok(exact.into());
        }
    };
    let (device, queue) = device::open(adapter)?;
    let start = Instant::now();
    let attention = LinearAttention::new(&device, config.clone())?;
    // A call that is too large to bind has parts, the later of which begin with a state.
    let split = attention.split(&input.shape)?;
    for part in split.parts() {
        // A final state is always written, and a part that continues updates it.
        let states = match (part.continues(), input.inputs().initial_state.is_some()) {
            (true, _) => States::InPlace,
            (false, true) => States::InitialAndFinal,
            (false, false) => States::Final,
        };
        attention.prepare(&part.plan, states)?;
    }
    let compiled = milliseconds(start);
    let start = Instant::now();
    let output = attention.run(&queue, &input.shape, input.inputs())?;
    // Some drivers compile only at the first dispatch.
    println!(
        "on {}: {:.1} ms with upload and download, after {compiled:.1} ms to compile",
        device::name(adapter),
        milliseconds(start),
    );
    Ok(output.into())
}

/// Compares o with a reference that did not compute it. A device has stored o in the file's dtype,
/// and half a unit in the last place of that is no error.
fn verify(
    config: &Config,
    input: &Input,
    output: &Results,
    by_recurrence: bool,
) -> Result<(), Failure> {
    let (shape, inputs) = (&input.shape, input.inputs());
    let (name, expected) = if !by_recurrence {
        ("the recurrence in f64", reference::recurrent(config, shape, inputs)?.o)
    } else if shape.max_len() <= NAIVE_TOKENS {
        ("the definition in f64", reference::naive(config, shape, inputs)?.o)
    } else {
        let mirror = reference::mirror(config, shape, inputs)?;
        ("the mirror in f32", mirror.o.into_iter().map(f64::from).collect())
    };
    // The reference does not round o.
    let stored = if by_recurrence { Dtype::F32 } else { config.dtype };
    let error = relative_error(&output.o, &expected, stored);
    let beyond = match stored {
        Dtype::F32 => String::new(),
        _ => format!(" beyond the rounding to {}", stored.name()),
    };
    let line = format!("largest error {error:.1e} of the largest output{beyond}, against {name}");
    if error <= TOLERANCE {
        println!("{line}: holds (at most {TOLERANCE:.0e})");
        Ok(())
    } else {
        Err(Failure::NotHeld(format!("--verify: expected at most {TOLERANCE:.0e}, found {line}")))
    }
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}
