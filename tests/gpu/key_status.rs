//! Keys whose features leave f32, where buffers are bound and nobody looks at them before.

use libtest_mimic::Failed;
use linear_attention::feature_map::{Weights, WeightsBuffer};
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, FeatureMap, LinearAttention, Options, Readback, Shape, Tensors};

use super::Test;
use super::binding::tensor;
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[("key_status::names_the_first", names_the_first)];

/// The first token and key head is named, in prompts and steps, with rows of each source, of
/// whatever map; a padded key is none.
fn names_the_first(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let (heads, d) = (2usize, 8usize);
    let limits: Limits = gpu.device.limits();
    for (map, device_type) in [
        (FeatureMap::Exp, DeviceType::Cpu),
        (FeatureMap::Exp, DeviceType::Other),
        (FeatureMap::Favor { features: 16 }, DeviceType::Other),
    ] {
        let config = Config::new(d as u32, d as u32).with_feature_map(map);
        let tuning = Tuning::new(&config, &limits, device_type)?;
        let options = Options::default().with_tuning(tuning);
        let a = LinearAttention::with_options(&gpu.device, config.clone(), &options)?;
        let weights = Weights::sample(&config, 1)?;
        let weights = weights.map(|weights| WeightsBuffer::new(&gpu.device, &config, &weights));
        let weights = weights.transpose()?;
        for (t, faults, expected) in [
            (20usize, vec![], None),
            (20, vec![(13, 0), (7, 1), (8, 0)], Some((7, 1))),
            (20, vec![(0, 0)], None),
            (2, vec![(1, 1)], Some((1, 1))),
        ] {
            // The first token is padding.
            let valid = 1..t as u32;
            let valid = std::slice::from_ref(&valid);
            let shape = Shape::padded(valid, t as u32, 2 * heads as u32);
            let shape = shape.with_kv_heads(heads as u32);
            let [q, mut k, v] =
                [(1, 2 * heads), (2, heads), (3, heads)].map(|(salt, h)| numbers(t * h * d, salt));
            for (token, head) in &faults {
                k[(token * heads + head) * d] = f32::NAN;
            }
            let plan = a.plan(&shape)?;
            let [q, k, v] = [q, k, v].map(|x| tensor(gpu, &x));
            let o = tensor(gpu, &vec![0.0; plan.lens().o as usize]);
            let scratch = tensor(gpu, &vec![0.0; plan.scratch_size() as usize / 4 + 1]);
            let status = tensor(gpu, &[0.0]);
            let mut tensors =
                Tensors::new(&q, &k, &v, &o).with_key_status(status.as_entire_buffer_binding());
            tensors.weights = weights.as_ref().map(WeightsBuffer::binding);
            let bound = a.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            a.record(&mut encoder, &bound);
            let readback = Readback::record(&gpu.device, &mut encoder, &[&status])?;
            gpu.queue.submit([encoder.finish()]);
            let word: u32 = readback.wait()?.concat()[0];
            if shape.faulty_key(word) != expected {
                let found = shape.faulty_key(word);
                return Err(format!("{config:?}, {faults:?}: {found:?}").into());
            }
        }
    }
    Ok(())
}
