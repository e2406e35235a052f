//! A feature map of your own: a WGSL function for the device, the same as a closure for the
//! reference, and the harness that holds the one to the other.
//!
//!     cargo run --release --example custom_map

use std::error::Error;

use linear_attention::error::ConfigError;
use linear_attention::feature_map::{CustomMap, Weights};
use linear_attention::verify::{self, Options};
use linear_attention::{Config, FeatureMap, Inputs, LinearAttention, Shape, reference, wgpu};

const K: usize = 16;
const TOKENS: usize = 64;

/// cos(x - y) of positions that rotate with the feature, plus 1 so that nothing is negative, and
/// next to it the square of each of four projections that would be trained.
const PHI: &str = "
const RATE: f32 = 0.25;

fn phi(row: Row, feature: u32) -> f32 {
    if (feature < KEY_DIM) {
        return 1.0 + cos(x(row, feature) * RATE);
    }
    let projection = y(row, feature - KEY_DIM);
    return projection * projection;
}
";

fn map() -> Result<CustomMap, ConfigError> {
    let map = CustomMap::new("cosine", PHI, K as u32 + 4, |x, y, features| {
        let (cosines, squares) = features.split_at_mut(x.len());
        for (feature, x) in cosines.iter_mut().zip(x) {
            *feature = 1.0 + (0.25 * x).cos();
        }
        for (feature, y) in squares.iter_mut().zip(y) {
            *feature = y * y;
        }
    })?;
    Ok(map.with_projections(4).non_negative())
}

fn main() -> Result<(), Box<dyn Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;

    // A text that is no map is refused here, before any pipeline exists, with its line.
    let wrong = CustomMap::new("wrong", "fn phi(x: f32) -> f32 { return x; }", 4, |_, _, _| {});
    println!("refused: {}", wrong.err().ok_or("a wrong map was taken")?);

    let config =
        Config::new(K as u32, K as u32).with_feature_map(FeatureMap::Custom(map()?.into()));

    // The harness, on this map alone: the closure against the shader, on a few shapes.
    let options = Options::default().with_config(config.clone());
    let report = verify::run(&device, &queue, &options);
    println!("harness: {} comparisons, passed: {}", report.rows.len(), report.passed());

    // And in use, with weights that would come from training.
    let weights = Weights::sample(&config, 7)?.unwrap_or_default();
    let x = |salt: usize| -> Vec<f32> {
        (0..TOKENS * K).map(|i| ((i * 31 + salt * 17) % 64) as f32 / 16.0 - 2.0).collect()
    };
    let (q, k, v) = (x(1), x(2), x(3));
    let inputs = Inputs::new(&q, &k, &v).with_weights(&weights);
    let shape = Shape::new(1, TOKENS as u32, 1);
    let attention = LinearAttention::new(&device, config.clone())?;
    let found = attention.run(&queue, &shape, inputs)?;
    let exact = reference::recurrent(&config, &shape, inputs)?;
    let errors = found.o.iter().zip(&exact.o).map(|(a, b)| (f64::from(*a) - b).abs());
    let error = errors.fold(0.0, f64::max);
    println!("largest error of o against the closure in f64: {error:.1e}");
    if !report.passed() || error.is_nan() || error > 1e-5 {
        return Err("the shader and the closure are not the same map".into());
    }
    Ok(())
}
