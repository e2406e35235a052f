//! Compiles every module for every chip: none may spill, and none may have fewer waves than
//! `docs/gpu-compilers.csv` says. Without a driver, which `scripts/check-gpu-compilers` gives it,
//! it says that it has compiled nothing.

use std::error::Error;
use std::path::Path;

use linear_attention_gpu_compilers::{has_driver, limits, rows, table};

fn main() -> Result<(), Box<dyn Error>> {
    if !has_driver() {
        println!("ignored: no driver with null hardware; scripts/check-gpu-compilers has one");
        return Ok(());
    }
    let csv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(table::CSV);
    let known = table::read(&std::fs::read_to_string(csv)?)?;
    let rows = rows()?;
    let faults = limits::faults(&rows, &known);
    println!("{} rows compiled, {} faults", rows.len(), faults.len());
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}
