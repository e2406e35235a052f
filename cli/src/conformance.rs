//! `conformance`: the results of `check --json` on many devices, as one table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;
use crate::output::OutputFile;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files that `check --json` wrote, a column for each adapter in them
    #[arg(value_name = "ROWS", required = true)]
    rows: Vec<PathBuf>,
    /// Markdown file to write; the table is printed where it is not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Deserialize)]
struct File {
    adapters: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    adapter: String,
    driver: String,
    backend: String,
    checked: bool,
    default_limits: bool,
    date: String,
    rows: Vec<Comparison>,
}

#[derive(Deserialize)]
struct Comparison {
    case: String,
    group: String,
    ratio: Option<f64>,
    passed: bool,
}

/// The comparisons of one group on one device.
#[derive(Default)]
struct Cell {
    held: usize,
    all: usize,
    largest: f64,
    failed: Vec<String>,
}

impl Cell {
    fn add(&mut self, row: &Comparison) {
        self.all += 1;
        self.held += usize::from(row.passed);
        // JSON has no infinity.
        self.largest = self.largest.max(row.ratio.unwrap_or(f64::INFINITY));
        if !row.passed && !self.failed.contains(&row.case) {
            self.failed.push(row.case.clone());
        }
    }

    fn text(&self) -> String {
        match self.failed.is_empty() {
            true => format!("{} ({:.2})", self.all, self.largest),
            false => format!("**{} of {}**: {}", self.held, self.all, self.failed.join(", ")),
        }
    }
}

/// Reads, joins and writes.
pub(crate) fn conformance(args: &Args) -> Result<(), Failure> {
    let output =
        args.output.as_deref().map(|path| OutputFile::new("--output", path)).transpose()?;
    let mut columns = Vec::new();
    for path in &args.rows {
        columns.extend(read(path)?.adapters);
    }
    let text = table(&columns);
    match output {
        Some(file) => file.write(text.as_bytes())?,
        None => print!("{text}"),
    }
    let failed: usize =
        columns.iter().flat_map(|column| &column.rows).filter(|row| !row.passed).count();
    if failed > 0 || columns.is_empty() {
        let found = format!("{failed} of them that do not, on {} devices", columns.len());
        return Err(Failure::NotHeld(format!("expected comparisons that hold, found {found}")));
    }
    Ok(())
}

fn read(path: &Path) -> Result<File, Failure> {
    let expected = "expected a file that `check --json` wrote, found";
    let refuse = |what: String| Failure::Input(format!("{}: {expected} {what}", path.display()));
    let bytes = fs::read(path).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
}

/// Groups down, devices across.
fn table(columns: &[Column]) -> String {
    let mut groups: BTreeMap<&str, Vec<Cell>> = BTreeMap::new();
    for (index, column) in columns.iter().enumerate() {
        for row in &column.rows {
            let cells = groups.entry(&row.group).or_default();
            cells.resize_with(columns.len(), Cell::default);
            cells[index].add(row);
        }
    }
    let mut lines = vec![row("", columns.iter().map(|column| column.adapter.clone()))];
    lines.push(row("---", columns.iter().map(|_| "---".to_owned())));
    let mut say = |what: &str, of: &dyn Fn(&Column) -> String| {
        lines.push(row(what, columns.iter().map(of)));
    };
    say("driver", &|column| column.driver.clone());
    say("backend", &|column| column.backend.clone());
    say("shaders", &|column| if column.checked { "checked" } else { "unchecked" }.to_owned());
    say("limits", &|column| if column.default_limits { "default" } else { "its own" }.to_owned());
    say("date", &|column| column.date.clone());
    for (group, mut cells) in groups {
        cells.resize_with(columns.len(), Cell::default);
        lines.push(row(
            group,
            cells.iter().map(|cell| match cell.all {
                0 => "not run".to_owned(),
                _ => cell.text(),
            }),
        ));
    }
    lines.join("\n") + "\n"
}

fn row(name: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {name} | {} |", cells.join(" | "))
}
