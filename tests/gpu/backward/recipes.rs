//! The recipe of sums beside the recurrence.

use libtest_mimic::Failed;
use linear_attention::gradients::{Backward, OutputGradients, Recipe};
use linear_attention::{Config, Options, Shape, reference};

use super::{Sample, differences};
use crate::adapters::Gpu;

/// The shape of the samples that both recipes compute.
pub(super) fn shape() -> Shape {
    Shape::new(1, 200, 8).with_kv_heads(4)
}

/// Refuses gradients that are further off than those of the recurrence, in parts of the largest,
/// of samples and what they are called.
pub(super) fn check(
    gpu: &Gpu,
    config: &Config,
    samples: &[(String, Sample)],
) -> Result<(), Failed> {
    let shape = &shape();
    let of_recipe = |recipe| {
        let options = Options::default();
        Backward::with_mutation(&gpu.device, config.clone(), &options, recipe, &|_, wgsl| wgsl)
    };
    let [sums, recurrence] = [of_recipe(Recipe::Best)?, of_recipe(Recipe::Recurrence)?];
    assert_ne!(sums.plan(shape)?.scratch_size(), recurrence.plan(shape)?.scratch_size());
    for (name, sample) in samples {
        let (inputs, of) = (sample.inputs(config), OutputGradients::new(&sample.of_o));
        let expected = reference::backward(config, shape, inputs, of)?;
        let far = |backward: &Backward| {
            let found = backward.run(&gpu.queue, shape, inputs, of)?;
            differences(&found, &expected)
        };
        for (of_sums, of_tokens) in far(&sums)?.into_iter().zip(far(&recurrence)?) {
            let bound = 4.0 * of_tokens.1 + 8.0 * f64::from(f32::EPSILON);
            if of_sums.1 > bound {
                let (tensor, far) = of_sums;
                let message = format!("{config:?}, {name}: {tensor} is {far:e} off");
                return Err(format!("{message}, the recurrence {:e}", of_tokens.1).into());
            }
        }
    }
    Ok(())
}
