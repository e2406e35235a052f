//! The program `linear-attention`: linear causal attention on safetensors files.
//!
//! Exit status 0 where everything asked for was done and held; 2 for bad arguments or bad
//! input, with one line on stderr; 1 where the machine failed or a check did not hold.

mod adapters;
mod attention_mask;
mod bench;
mod check;
mod compare;
mod conformance;
mod cu_seqlens;
mod device;
mod failure;
mod file;
#[cfg(test)]
mod fuzzed;
mod header;
mod maps;
mod output;
mod plot;
mod progress;
mod rule;
mod run;
mod taken;
mod tensors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

#[derive(Parser)]
#[command(name = "linear-attention", version, about = "Linear causal attention on any GPU")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the adapters that wgpu finds here, and the kernels that each can run
    Adapters,
    /// Compute o and the final state from the q, k and v of a file
    Run(run::Args),
    /// Compare this machine's adapters with the CPU reference, case by case
    Check(check::Args),
    /// Measure how fast an adapter computes, beside what its memory and arithmetic allow
    Bench(bench::Args),
    /// Measure how near each feature map comes to softmax attention on a file, and what it costs
    Compare(compare::Args),
    /// Join what check found on many devices into one table
    Conformance(conformance::Args),
    /// Draw how time grows with T, from the rows that bench wrote
    Plot(plot::Args),
}

fn main() -> ExitCode {
    quiet_wayland();
    // A pipe whose reader has gone ends the program silently, as it ends others, without a panic of
    // println!.
    sigpipe::reset();
    let done = parse().and_then(|cli| match cli.command {
        Command::Adapters => adapters::adapters(),
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Conformance(args) => conformance::conformance(&args),
        Command::Plot(args) => plot::plot(&args),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", one_line(&failure.to_string()));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Keeps libwayland's complaint about a missing XDG_RUNTIME_DIR off stderr, where it would
/// stand beside the one line of an error: looking for OpenGL adapters calls it, though this
/// program opens no window.
fn quiet_wayland() {
    const VARIABLE: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: this is the first thing the program does, so no other thread runs yet.
        unsafe { std::env::set_var(VARIABLE, "/nonexistent") };
    }
}

/// The arguments. Help and version print themselves and leave with status 0.
fn parse() -> Result<Cli, Failure> {
    Cli::try_parse().map_err(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        let text = error.to_string();
        // A bare `linear-attention` gets the help as its error; one line has to do.
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let expected =
                "expected a command: adapters, run, check, bench, compare, conformance or plot (see --help)";
            return Failure::Input(expected.to_owned());
        }
        // clap says what is wrong first, then how to use the program: keep the first.
        let lines = text.lines().take_while(|line| {
            !["Usage:", "For more information"].iter().any(|start| line.starts_with(start))
        });
        let message = lines.collect::<Vec<_>>().join("\n");
        Failure::Input(message.trim_start_matches("error: ").to_owned())
    })
}

/// `text` on one line, as scripts that read the first line of an error want it.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
