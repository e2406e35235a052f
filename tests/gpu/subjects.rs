//! The subjects beside the harness's table: properties, bindings, bad input, the async path.

use std::cell::OnceCell;
use std::rc::Rc;

use libtest_mimic::Failed;
use linear_attention::{Config, LinearAttention};

use crate::adapters::Gpu;
use crate::{
    Trial, backward, binding, compile, half, key_status, maps, matrices, memory, onnx, properties,
    serving, split, storage_buffers, strides, submissions, summary, trust, tuning, waiting,
};

pub(crate) type Test = fn(&Gpu, &LinearAttention) -> Result<(), Failed>;

/// One trial a test, those of a process on one pipeline: K = V = 16, elu, normalised.
pub(crate) fn trials(gpu: &Rc<Gpu>) -> Vec<Trial> {
    let attention = Rc::new(OnceCell::new());
    let tests = [
        properties::TESTS,
        backward::TESTS,
        binding::TESTS,
        compile::TESTS,
        half::TESTS,
        key_status::TESTS,
        maps::TESTS,
        matrices::TESTS,
        memory::TESTS,
        serving::TESTS,
        split::TESTS,
        storage_buffers::TESTS,
        strides::TESTS,
        submissions::TESTS,
        summary::TESTS,
        trust::TESTS,
        tuning::TESTS,
        waiting::TESTS,
        onnx::TESTS,
    ];
    let trial = |(name, test): &(&str, Test), is_full: bool| {
        let (gpu, attention, test) = (Rc::clone(gpu), Rc::clone(&attention), *test);
        let name = format!("{}::{name}", gpu.name);
        Trial {
            group: name.clone(),
            name,
            cost: 50,
            is_full,
            test: Box::new(move || {
                if attention.get().is_none() {
                    let new = LinearAttention::new(&gpu.device, Config::new(16, 16))?;
                    let _ = attention.set(new);
                }
                test(&gpu, attention.get().ok_or("not compiled")?)
            }),
        }
    };
    let quick = tests.concat().into_iter().map(|test| (test, false));
    let full =
        backward::FULL.iter().chain(matrices::FULL).chain(summary::FULL).map(|test| (*test, true));
    quick.chain(full).map(|(test, is_full)| trial(&test, is_full)).collect()
}
