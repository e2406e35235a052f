//! What the harness's table does not say: properties, bindings, bad input, the async path.

mod binding;
mod compile;
mod half;
mod maps;
mod properties;
mod serving;
mod split;
mod trust;
mod tuning;

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use linear_attention::{Config, LinearAttention};

use crate::common::Gpu;

type Test = fn(&Gpu, &LinearAttention) -> Result<(), Failed>;

/// One trial a test, all on one pipeline: K = V = 16, elu, normalised.
pub(crate) fn trials(gpu: &Arc<Gpu>) -> Vec<Trial> {
    let attention = LinearAttention::new(&gpu.device, Config::new(16, 16));
    let attention = match attention {
        Ok(attention) => Arc::new(attention),
        Err(error) => {
            let message = error.to_string();
            return vec![Trial::test(format!("{}::compiles", gpu.name), || {
                Err(Failed::from(message))
            })];
        }
    };
    let tests: Vec<(&str, Test)> = properties::TESTS
        .iter()
        .chain(binding::TESTS)
        .chain(compile::TESTS)
        .chain(half::TESTS)
        .chain(maps::TESTS)
        .chain(serving::TESTS)
        .chain(split::TESTS)
        .chain(trust::TESTS)
        .chain(tuning::TESTS)
        .copied()
        .collect();
    tests
        .into_iter()
        .map(|(name, test)| {
            let (gpu, attention) = (Arc::clone(gpu), Arc::clone(&attention));
            Trial::test(format!("{}::{name}", gpu.name), move || test(&gpu, &attention))
        })
        .collect()
}
