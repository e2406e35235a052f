//! A prompt of a million tokens of 8 heads, K = V = 128, in one call on a device with WebGPU's
//! default limits: q is 4 GiB, and the device binds 128 MiB. `run` uploads and computes it in
//! parts, in submissions of bounded work, and reports its progress. A part of the final state is
//! checked against f64.
//!
//! It takes 9 GB of the host's memory: q, k and v are one slice, and o another.
//!
//! `cargo run --release --example long_prompt [TOKENS] [WIDTH]`

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use linear_attention::{Config, Inputs, LinearAttention, Options, ShaderChecks, Shape, wgpu};

const HEADS: usize = 8;
/// Rows of mu of the first head that are checked.
const ROWS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let argument =
        |at, default: usize| std::env::args().nth(at).map_or(Ok(default), |given| given.parse());
    let (tokens, width) = (argument(1, 1 << 20)?, argument(2, 128)?);
    let (device, queue) = open_device()?;
    let config = Config::new(width as u32, width as u32);
    let options = Options::default().with_checks(ShaderChecks::Unchecked);
    let attention = LinearAttention::with_options(&device, config, &options)?;
    let shape = Shape::new(1, tokens as u32, HEADS as u32);
    let split = attention.split(&shape)?;
    let operations: u64 = split.parts().iter().map(|part| part.plan.operations()).sum();
    let submissions: usize = split.parts().iter().map(|part| part.plan.submission_count()).sum();
    println!("{} parts, {submissions} submissions, {operations} operations", split.parts().len());

    let x = numbers(tokens * HEADS * width);
    let start = Instant::now();
    let (mut before, mut longest, mut shown) = (start, Duration::ZERO, 0);
    let output =
        attention.run_with_progress(&queue, &shape, Inputs::new(&x, &x, &x), |progress| {
            longest = longest.max(before.elapsed());
            before = Instant::now();
            let percent = 100 * progress.operations_done / progress.operations.max(1);
            if percent >= shown + 10 || percent == 100 {
                println!("{percent:>3} % after {:.1} s", start.elapsed().as_secs_f64());
                shown = percent;
            }
            // Break here to cancel.
            ControlFlow::Continue(())
        })?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{tokens} tokens in {seconds:.1} s, {:.0} a second", tokens as f64 / seconds);
    println!("longest time between two submissions: {:.2} s", longest.as_secs_f64());

    let (mu, nu) = truth(&x, width);
    let worst = error(&output.mu[..mu.len()], &mu).max(error(&output.nu[..nu.len()], &nu));
    println!("the final state is {worst:.1e} off");
    // o is an average of values.
    let is_average = |o: &f32| o.abs() <= 1.0;
    if worst > 2e-5 || !output.o.iter().all(is_average) {
        return Err("the device disagrees with f64".into());
    }
    Ok(())
}

/// The first rows of mu of the first head and its nu, in f64.
fn truth(x: &[f32], width: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut mu, mut nu) = (vec![0.0; ROWS * width], vec![0.0; width]);
    for token in x.chunks(HEADS * width) {
        let row = &token[..width];
        for (f, k) in row.iter().enumerate() {
            // elu + 1
            let k = f64::from(*k);
            let k = if k >= 0.0 { k + 1.0 } else { k.exp() };
            nu[f] += k;
            if f < ROWS {
                let of_row = mu[f * width..(f + 1) * width].iter_mut();
                of_row.zip(row).for_each(|(mu, v)| *mu += k * f64::from(*v));
            }
        }
    }
    (mu, nu)
}

/// The largest difference over the largest element.
fn error(found: &[f32], truth: &[f64]) -> f64 {
    let largest = truth.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let errors = found.iter().zip(truth).map(|(x, y)| (f64::from(*x) - y).abs());
    // A NaN would be lost in a maximum.
    let errors = errors.map(|error| if error.is_nan() { f64::INFINITY } else { error });
    errors.fold(0.0, f64::max) / largest
}

/// Numbers between 0 and 1, so that no sum is small because its terms cancel.
fn numbers(len: usize) -> Vec<f32> {
    let mut x = 1u32;
    (0..len)
        .map(|_| {
            x = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let bits = ((x >> ((x >> 28) + 4)) ^ x).wrapping_mul(277_803_737);
            (bits >> 8) as f32 / (1 << 24) as f32
        })
        .collect()
}

fn open_device() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    }))?;
    println!("on {}", adapter.get_info().name);
    Ok(pollster::block_on(adapter.request_device(&Default::default()))?)
}
