//! The harness in WebAssembly, on whatever WebGPU the page or program has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use linear_attention::verify::{self, Options, Row};
use linear_attention::{Config, Inputs, LinearAttention, Shape, wgpu};
use wasm_bindgen::prelude::*;

/// Runs the cases whose names contain `filter` on the adapter that `navigator.gpu` gives, calls
/// `on_row` with a line for each comparison that fails, and with the name of each case, and returns
/// a line that says how many held.
///
/// # Errors
///
/// No adapter or device; or a comparison that does not hold.
#[wasm_bindgen]
pub async fn check(filter: String, on_line: js_sys::Function) -> Result<String, String> {
    let say = |line: String| {
        let _ = on_line.call1(&JsValue::NULL, &line.into());
    };
    let (device, queue) = open().await?;
    let info = device.adapter_info();
    say(format!("{} ({})", info.name, info.backend));
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

/// Runs a call again and again, with each object that it asks the browser for refused in turn: each
/// must be an error, and the call after it right. `refuse(number)` has the page refuse that one;
/// `refuse(-1)` stops that and says whether there were so many.
///
/// # Errors
///
/// A refusal that was no error, or one that reached the device's own handler.
#[wasm_bindgen]
pub async fn without_memory(refuse: js_sys::Function) -> Result<String, String> {
    let arm = |number: i32| {
        let answer = refuse.call1(&JsValue::NULL, &number.into());
        answer.is_ok_and(|answer| answer.is_truthy())
    };
    let (device, queue) = open().await?;
    let uncaught = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&uncaught);
    device.on_uncaptured_error(Arc::new(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let attention = LinearAttention::new(&device, Config::new(16, 16));
    let attention = attention.map_err(|error| error.to_string())?;
    let shape = Shape::packed(&[20, 13], 2);
    let data: Vec<f32> = (0..33 * 2 * 16).map(|i| (i % 7) as f32 / 7.0).collect();
    let run = || attention.run_async(&queue, &shape, Inputs::new(&data, &data, &data));
    let expected = run().await.map_err(|error| error.to_string())?;
    for number in 0.. {
        arm(number);
        let found = run().await;
        match (arm(-1), found) {
            (true, Err(_)) => {}
            (false, Ok(_)) if number > 0 => {
                return match uncaught.load(Ordering::Relaxed) {
                    0 => Ok(format!("{number} objects refused, each an error of the call")),
                    count => Err(format!("{count} errors reached the device's handler")),
                };
            }
            (_, found) => return Err(format!("object {number} refused: {found:?}")),
        }
        if run().await.map_err(|error| error.to_string())? != expected {
            return Err(format!("other bits after object {number} was refused"));
        }
    }
    Err("it never ended".to_owned())
}

async fn open() -> Result<(wgpu::Device, wgpu::Queue), String> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&Default::default()).await;
    let adapter = adapter.map_err(|error| error.to_string())?;
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let device = adapter.request_device(&descriptor).await;
    device.map_err(|error| error.to_string())
}
