//! `plot`: time over T, from the rows of `bench` and of its peers.

pub(crate) mod draw;
pub(crate) mod panels;

use std::path::PathBuf;

use linear_attention_measure::{Peers, Report};

use crate::failure::Failure;
use crate::output::OutputFile;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows that `bench --sweep --json` wrote
    #[arg(value_name = "ROWS")]
    rows: PathBuf,
    /// Rows of peers that a script of benches/peers wrote
    #[arg(value_name = "PEERS")]
    peers: Vec<PathBuf>,
    /// SVG file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Only peers with this in their name, any number of times
    #[arg(long = "peer", value_name = "SUBSTRING")]
    names: Vec<String>,
}

impl Args {
    fn is_wanted(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Draws milliseconds over T beside the peers, and time per token over T.
pub(crate) fn plot(args: &Args) -> Result<(), Failure> {
    let file = OutputFile::new("--output", &args.output)?;
    let report = Report::read(&args.rows).map_err(|error| Failure::Input(error.to_string()))?;
    let mut peers = Vec::with_capacity(args.peers.len());
    for path in &args.peers {
        let mut read = Peers::read(path).map_err(|error| Failure::Input(error.to_string()))?;
        read.rows.retain(|row| args.is_wanted(&row.peer));
        peers.push(read);
    }
    let panels = panels::panels(&report, &peers).ok_or_else(|| {
        Failure::Input(format!(
            "{}: expected rows that differ in T alone, as `bench --sweep` writes them, found none",
            args.rows.display()
        ))
    })?;
    let drawn = panels[0].series.len() - 1;
    if drawn == 0 && peers.iter().any(|peers| !peers.rows.is_empty()) {
        eprintln!("note: no peer has rows of the sizes drawn ({})", panels[0].title);
    }
    let svg = draw::svg(&panels, &caption(&report, &peers, drawn > 0))
        .map_err(|error| Failure::Device(format!("the plot cannot be drawn: {error}")))?;
    file.write(svg.as_bytes())
}

/// The captions: a line with our device and date and, if they are drawn, one for the peers.
fn caption(report: &Report, peers: &[Peers], with_peers: bool) -> Vec<String> {
    let Report { adapter, driver, date, version, timer, iterations, .. } = report;
    let mut lines = vec![format!(
        "{adapter}, {driver}; {date}; linear-attention {version}, median of {iterations} by {timer}"
    )];
    if with_peers {
        let names: Vec<&str> = peers.iter().map(|peers| peers.adapter.as_str()).collect();
        lines.push(format!("peers: {}", names.join("; ")));
    }
    lines
}
