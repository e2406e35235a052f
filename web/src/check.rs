//! The harness: every case against f64.

use js_sys::Function;
use linear_attention::cpu::CpuAttention;
use linear_attention::gradients::OutputGradients;
use linear_attention::verify::{self, Case, Options, Row};
use linear_attention::{Config, Inputs, Shape, wgpu};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::computer::Computer;

/// The groups of a check in the order in which it comes to them, as a JSON array of names and
/// counts of cases.
#[wasm_bindgen]
pub fn groups(computer: &Computer, filter: &str) -> String {
    let mut groups: Vec<(&str, u32)> = Vec::new();
    for case in &cases(computer, filter) {
        match groups.iter_mut().find(|(name, _)| *name == case.group()) {
            Some((_, count)) => *count += 1,
            None => groups.push((case.group(), 1)),
        }
    }
    json!(groups).to_string()
}

fn cases(computer: &Computer, filter: &str) -> Vec<Case> {
    let options = Options::default().with_filter(filter);
    let limits = match &computer.gpu {
        Some((device, _)) => device.limits(),
        None => wgpu::Limits::default(),
    };
    verify::cases_of_run(&limits, &options)
}

/// Runs the cases whose names contain `filter`, and calls `on_row` with each comparison as JSON, as
/// it is found. Returns the seed.
///
/// On the CPU engine it runs to its end without a pause, as a worker may.
#[wasm_bindgen]
pub async fn check(computer: &Computer, filter: String, on_row: Function) -> f64 {
    let options = Options::default().with_filter(filter);
    let mut on_row = |row: &Row| {
        // As the program's `check --json` writes it. A row is always JSON, and an exception of the
        // page has no other receiver.
        let row = serde_json::to_string(row).unwrap_or_default();
        let _ = on_row.call1(&JsValue::NULL, &row.into());
    };
    let report = match &computer.gpu {
        Some((device, queue)) => verify::run_async(device, queue, &options, &mut on_row).await,
        None => check_cpu(&options, &mut on_row),
    };
    report.seed as f64
}

fn check_cpu(options: &Options, on_row: &mut dyn FnMut(&Row)) -> verify::Report {
    let mut compute = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
        CpuAttention::new(config.clone())?.run(shape, inputs)
    };
    let mut report = verify::run_host(options, &mut compute, on_row);
    let mut backward =
        |config: &Config, shape: &Shape, inputs: Inputs<'_>, gradients: OutputGradients<'_>| {
            CpuAttention::new(config.clone())?.backward(shape, inputs, gradients)
        };
    report.rows.extend(verify::run_host_backward(options, &mut backward, on_row).rows);
    report
}
