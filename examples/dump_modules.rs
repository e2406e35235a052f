//! Writes the WGSL modules of a plan, and of its backward pass, to a folder, for tools that look at
//! shaders.
//!
//! `cargo run --example dump_modules -- FOLDER K V [RULE] [cpu |
//! ROWS,COLUMNS,COLUMN_THREADS,CHUNK[,subgroups]]`
//!
//! RULE is gated, gated-rows, delta, gated-delta or gated-delta-rows.

use linear_attention::gradients::GradientStage;
use linear_attention::plan::Stage;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, Tuning};
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Plan, Shape, States};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, k, v, kind @ ..] = &arguments[..] else {
        return Err(
            "usage: dump_modules FOLDER K V [RULE] [cpu | ROWS,COLUMNS,COLUMN_THREADS,CHUNK[,subgroups]]"
                .into(),
        );
    };
    let (head, row, beta) = (Decay::per_head(), Decay::per_row(), Beta::per_head());
    let rule = match kind.first().map(String::as_str) {
        Some("gated") => Some(UpdateRule::Gated(head)),
        Some("gated-rows") => Some(UpdateRule::Gated(row)),
        Some("delta") => Some(UpdateRule::Delta(beta)),
        Some("gated-delta") => Some(UpdateRule::GatedDelta(head, beta)),
        Some("gated-delta-rows") => Some(UpdateRule::GatedDelta(row, beta)),
        _ => None,
    };
    let kind = if rule.is_some() { &kind[1..] } else { kind };
    let config = Config::of_rule(k.parse()?, v.parse()?, rule.unwrap_or_default());
    let is_cpu = kind.first().is_some_and(|kind| kind == "cpu");
    let device_type = if is_cpu { DeviceType::Cpu } else { DeviceType::DiscreteGpu };
    let limits = Limits { max_compute_workgroup_storage_size: 32 << 10, ..Limits::default() };
    let mut tuning = Tuning::new(&config, &limits, device_type)?;
    if let Some(numbers) = kind.first().filter(|_| !is_cpu) {
        let (numbers, subgroup_sums) = match numbers.strip_suffix(",subgroups") {
            Some(numbers) => (numbers, true),
            None => (numbers.as_str(), false),
        };
        let numbers: Result<Vec<u32>, _> = numbers.split(',').map(str::parse).collect();
        let [rows, columns, column_threads, chunk] = numbers?[..] else {
            return Err("a layout has four numbers".into());
        };
        let layout = Layout::workgroup(rows, columns, column_threads, chunk);
        tuning = tuning.with_layout(layout.with_subgroup_sums(subgroup_sums));
    }
    println!("{:?}", tuning.layout);
    std::fs::create_dir_all(folder)?;
    let decode = PackedLimits { sequences: 32, tokens: 32, max_len: 1 };
    for shape in [Shape::new(1, 4096, 8), Shape::packed_up_to(decode, 8).with_slots(40)] {
        let plan = Plan::new(&config, &shape, &limits, &tuning)?;
        for stage in Stage::ALL {
            let path = format!("{folder}/{}.wgsl", stage.name());
            // A delta rule decodes with the stages of prompts.
            if let Some(wgsl) = plan.wgsl(stage, States::None)
                && !std::path::Path::new(&path).exists()
            {
                std::fs::write(path, wgsl)?;
            }
        }
    }
    for stage in GradientStage::ALL {
        if let Some(wgsl) = stage.wgsl(&config)? {
            std::fs::write(format!("{folder}/{}.wgsl", stage.name()), wgsl)?;
        }
    }
    Ok(())
}
