//! A million tokens in pieces, at constant memory: one state is updated where it lies, and
//! every piece goes through the same buffers. The final state is checked against f64.
//!
//! `cargo run --release --example long_context [TOKENS]`

use std::error::Error;
use std::time::Instant;

use linear_attention::wgpu::{self, BufferUsages};
use linear_attention::{Config, LinearAttention, Readback, Shape, Tensors};

const WIDTH: usize = 32;
const PIECE: usize = 1 << 14;

fn main() -> Result<(), Box<dyn Error>> {
    let tokens: usize = std::env::args().nth(1).map_or(Ok(1 << 20), |given| given.parse())?;
    if tokens == 0 || !tokens.is_multiple_of(PIECE) {
        return Err(format!("expected a multiple of {PIECE} tokens, found {tokens}").into());
    }
    let (device, queue) = open_device()?;
    let attention = LinearAttention::new(&device, Config::new(WIDTH as u32, WIDTH as u32))?;
    let plan = attention.plan(&Shape::new(1, PIECE as u32, 1))?;
    if !plan.updates_in_place() {
        return Err("this plan reads the state from several places: bind two and swap them".into());
    }
    let buffer = |size: u64| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("long_context"),
            size: size.max(4),
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    };
    let size = 4 * (PIECE * WIDTH) as u64;
    let [q, k, v, o] = [0; 4].map(|_| buffer(size));
    // wgpu's buffers begin as zeros, as does a sequence.
    let (state, scratch) = (buffer(plan.state_size()), buffer(plan.scratch_size()));
    let tensors = Tensors::new(&q, &k, &v, &o)
        .with_initial_state(state.as_entire_buffer_binding())
        .with_final_state(state.as_entire_buffer_binding());
    let bound = attention.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
    println!("{} bytes of state, {} on the device in all", state.size(), {
        4 * size + state.size() + scratch.size()
    });

    let mut truth = vec![0.0f64; WIDTH * WIDTH + WIDTH];
    let mut found = Vec::new();
    let mut seconds = 0.0;
    for piece in 0..tokens / PIECE {
        let [q_piece, k_piece, v_piece] = [0, 1, 2].map(|tensor| numbers(3 * piece + tensor));
        let start = Instant::now();
        for (buffer, data) in [(&q, &q_piece), (&k, &k_piece), (&v, &v_piece)] {
            queue.write_buffer(buffer, 0, bytemuck::cast_slice(data));
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        attention.record(&mut encoder, &bound);
        let readback = Readback::record(&device, &mut encoder, &[&state])?;
        queue.submit([encoder.finish()]);
        found = readback.wait()?.concat();
        seconds += start.elapsed().as_secs_f64();
        add(&mut truth, &k_piece, &v_piece);
        if (piece + 1).is_power_of_two() {
            println!("{:>9} tokens: state {:.1e} off", (piece + 1) * PIECE, error(&found, &truth));
        }
    }
    println!("{tokens} tokens in {seconds:.2} s, {:.0} a second", tokens as f64 / seconds);
    let error = error(&found, &truth);
    // The state is f32: what a piece's last segment adds is rounded to the size of the state.
    if error > 2e-5 {
        return Err(format!("the final state is {error:.1e} off").into());
    }
    Ok(())
}

/// The sums in f64: mu, then nu.
fn add(state: &mut [f64], k: &[f32], v: &[f32]) {
    let (mu, nu) = state.split_at_mut(WIDTH * WIDTH);
    for (k, v) in k.chunks(WIDTH).zip(v.chunks(WIDTH)) {
        for (f, k) in k.iter().enumerate() {
            // elu + 1
            let k = f64::from(*k);
            let k = if k >= 0.0 { k + 1.0 } else { k.exp() };
            nu[f] += k;
            for (mu, v) in mu[f * WIDTH..].iter_mut().zip(v) {
                *mu += k * f64::from(*v);
            }
        }
    }
}

/// The largest difference over the largest element.
fn error(found: &[f32], truth: &[f64]) -> f64 {
    let largest = truth.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let errors = found.iter().zip(truth).map(|(x, y)| (f64::from(*x) - y).abs());
    if found.len() != truth.len() || errors.clone().any(f64::is_nan) {
        return f64::INFINITY;
    }
    errors.fold(0.0, f64::max) / largest
}

/// A piece of q, k or v: numbers between -1 and 1, another for each salt. That of v is never
/// negative, so that no sum is small because its terms cancel.
fn numbers(salt: usize) -> Vec<f32> {
    let mut x = salt as u32 + 1;
    let is_v = salt % 3 == 2;
    (0..PIECE * WIDTH)
        .map(|_| {
            x = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let bits = ((x >> ((x >> 28) + 4)) ^ x).wrapping_mul(277_803_737);
            let number = (bits >> 8) as f32 / (1 << 23) as f32 - 1.0;
            if is_v { number.abs() } else { number }
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
    Ok(pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..Default::default()
    }))?)
}
