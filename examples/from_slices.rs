//! The shortest way in: host slices to host vectors, and the same from the reference.

use linear_attention::{Config, Inputs, LinearAttention, Shape, reference, wgpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, queue) = open_device()?;

    // Two sequences of 300 tokens; eight query heads share two key/value heads.
    let shape = Shape::new(2, 300, 8).with_kv_heads(2);
    let config = Config::new(64, 48);
    let lens = shape.lens(&config)?;
    let q = waves(lens.q, 0.37);
    let k = waves(lens.k, 0.61);
    let v = waves(lens.v, 0.23);
    let inputs = Inputs::new(&q, &k, &v);

    let attention = LinearAttention::new(&device, config.clone())?;
    let output = attention.run(&queue, &shape, inputs)?;
    println!("o has {} elements and begins with {:?}", output.o.len(), &output.o[..4]);
    println!("the final state has {} + {} elements", output.mu.len(), output.nu.len());

    let expected = reference::recurrent(&config, &shape, inputs)?;
    let largest = expected.o.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
    let mut worst = 0.0f64;
    for (x, y) in output.o.iter().zip(&expected.o) {
        let error = (f64::from(*x) - y).abs() / largest;
        if error.is_nan() || error > 2e-5 {
            return Err(format!("{x} where the reference has {y}").into());
        }
        worst = worst.max(error);
    }
    println!("largest difference from f64: {worst:.1e} of the largest output");
    Ok(())
}

/// Numbers between -1 and 1 that need no random generator.
fn waves(len: u64, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}

/// The best adapter, with all it has: larger limits let more be computed at a time.
fn open_device() -> Result<(wgpu::Device, wgpu::Queue), Box<dyn std::error::Error>> {
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
