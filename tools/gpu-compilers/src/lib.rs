//! Compiles every shader of `linear-attention` for GPUs that are not at hand, and keeps the
//! compiler's statistics.
//!
//! Mesa's driver RADV compiles for any AMD GPU without one: with `RADV_FORCE_FAMILY` it has null
//! hardware, and `VK_KHR_pipeline_executable_properties` gives the compiler's statistics and its
//! code. Nothing is run, so that a row says nothing of results.
//!
//! 1. [`modules`] assembles the modules, each text once.
//! 2. [`Spirv`] is a module as wgpu hands it to Vulkan where nothing is checked.
//! 3. [`Driver`] compiles it for a [`Chip`], and [`Row`] is what is kept.
//! 4. [`table`] writes rows to `docs/gpu-compilers.csv` and `docs/gpu-compilers.md`, [`limits`] compares
//!    them with those.

mod assembly;
mod chip;
mod driver;
pub mod limits;
mod modules;
mod row;
mod spirv;
pub mod table;

use std::error::Error;

pub use assembly::Code;
pub use chip::Chip;
pub use driver::{Compiled, Driver};
pub use modules::{Module, modules};
pub use row::Row;
pub use spirv::Spirv;

/// Every module on every chip, in the order of the table.
///
/// # Errors
///
/// A module that cannot be made or compiled, or no driver with null hardware.
pub fn rows() -> Result<Vec<Row>, Box<dyn Error>> {
    let modules = modules()?;
    let translated: Result<Vec<Spirv>, _> =
        modules.iter().map(|module| Spirv::new(&module.wgsl)).collect();
    let translated = translated?;
    let mut rows = Vec::with_capacity(modules.len() * Chip::ALL.len());
    for chip in Chip::ALL {
        let driver = Driver::open(chip)?;
        let is_there = |spirv: &Spirv| chip.has_matrices() || !spirv.has_matrices;
        let all = modules.iter().zip(&translated);
        for (module, spirv) in all.filter(|(_, spirv)| is_there(spirv)) {
            let compiled = driver
                .compile(spirv)
                .map_err(|error| format!("{} on {}: {error}", module.name, chip.name()))?;
            rows.push(Row::new(chip, module, spirv, &compiled));
        }
    }
    Ok(rows)
}

/// True where a driver with null hardware was given, by `scripts/with-radv`.
#[must_use]
pub fn has_driver() -> bool {
    std::env::var_os("LINEAR_ATTENTION_RADV").is_some()
}
