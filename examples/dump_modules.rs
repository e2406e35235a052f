//! Writes the WGSL modules of a plan to a folder, for tools that look at shaders.
//!
//! `cargo run --example dump_modules -- FOLDER K V [cpu | ROWS,COLUMNS,COLUMN_THREADS,CHUNK]`

use linear_attention::plan::Stage;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, Tuning};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Plan, Shape, States};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, k, v, kind @ ..] = &arguments[..] else {
        return Err(
            "usage: dump_modules FOLDER K V [cpu | ROWS,COLUMNS,COLUMN_THREADS,CHUNK]".into()
        );
    };
    let config = Config::new(k.parse()?, v.parse()?);
    let is_cpu = kind.first().is_some_and(|kind| kind == "cpu");
    let device_type = if is_cpu { DeviceType::Cpu } else { DeviceType::DiscreteGpu };
    let limits = Limits { max_compute_workgroup_storage_size: 32 << 10, ..Limits::default() };
    let mut tuning = Tuning::new(&config, &limits, device_type)?;
    if let Some(numbers) = kind.first().filter(|_| !is_cpu) {
        let numbers: Result<Vec<u32>, _> = numbers.split(',').map(str::parse).collect();
        let [rows, columns, column_threads, chunk] = numbers?[..] else {
            return Err("a layout has four numbers".into());
        };
        tuning = tuning.with_layout(Layout::workgroup(rows, columns, column_threads, chunk));
    }
    println!("{:?}", tuning.layout);
    std::fs::create_dir_all(folder)?;
    let decode = PackedLimits { sequences: 32, tokens: 32, max_len: 1 };
    for shape in [Shape::new(1, 4096, 8), Shape::packed_up_to(decode, 8).with_slots(40)] {
        let plan = Plan::new(&config, &shape, &limits, &tuning)?;
        for stage in Stage::ALL {
            if let Some(wgsl) = plan.wgsl(stage, States::None) {
                std::fs::write(format!("{folder}/{}.wgsl", stage.name()), wgsl)?;
            }
        }
    }
    Ok(())
}
