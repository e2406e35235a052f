//! Writes the table of `docs/gpu-compilers.md`, and the rows it is made of;
//! `scripts/check-gpu-compilers --write` runs it with a driver.

use std::error::Error;
use std::path::Path;

use linear_attention_gpu_compilers::{has_driver, rows, table};

fn main() -> Result<(), Box<dyn Error>> {
    if !has_driver() {
        return Err("expected a driver with null hardware: scripts/check-gpu-compilers".into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let rows = rows()?;
    std::fs::write(root.join(table::CSV), table::csv(&rows))?;
    let path = root.join(table::PAGE);
    let page = std::fs::read_to_string(&path)?;
    std::fs::write(path, table::page(&page, &rows)?)?;
    println!("{} rows in {} and {}", rows.len(), table::CSV, table::PAGE);
    Ok(())
}
