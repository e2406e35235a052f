//! The harness in WebAssembly, on whatever WebGPU the page or program has.

use linear_attention::verify::{self, Options, Row};
use linear_attention::wgpu;
use wasm_bindgen::prelude::*;

/// Runs the cases whose names contain `filter` on the adapter that `navigator.gpu` gives, calls
/// `on_row` with a line for each comparison that fails, and with the name of each case, and returns a
/// line that says how many held.
///
/// # Errors
///
/// No adapter or device; or a comparison that does not hold.
#[wasm_bindgen]
pub async fn check(filter: String, on_line: js_sys::Function) -> Result<String, String> {
    let say = |line: String| {
        let _ = on_line.call1(&JsValue::NULL, &line.into());
    };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&Default::default()).await;
    let adapter = adapter.map_err(|error| error.to_string())?;
    let info = adapter.get_info();
    say(format!("{} ({})", info.name, info.backend));
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let device = adapter.request_device(&descriptor).await;
    let (device, queue) = device.map_err(|error| error.to_string())?;
    let options = Options::default().with_filter(filter);
    let mut last = String::new();
    let report = verify::run_async(&device, &queue, &options, &mut |row: &Row| {
        if row.case != last {
            say(row.case.clone());
            last.clone_from(&row.case);
        }
        if !row.passed {
            let Row { case, stage, tensor, ratio, message, .. } = row;
            say(format!("FAILED {case}, {stage} {tensor}: {ratio:.2} of its bound {message}"));
        }
    })
    .await;
    let held = report.rows.iter().filter(|row| row.passed).count();
    let largest = report.rows.iter().fold(0.0, |largest: f64, row| largest.max(row.ratio));
    let line = format!(
        "{held} of {} comparisons passed, largest error {largest:.2} of its bound, seed {}",
        report.rows.len(),
        report.seed
    );
    if report.passed() { Ok(line) } else { Err(line) }
}
