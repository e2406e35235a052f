//! Numbers that f32 could spoil: common factors of a query, and sums over very many tokens.

use approx::assert_abs_diff_eq;
use linear_attention::cpu::{CpuAttention, StatePool, Tensors};
use linear_attention::serve::Entry;
use linear_attention::{
    Config, FeatureMap, Inputs, Normalization, Output, Shape, UpdateRule, reference,
};

use crate::{Sample, configs, plan, with_threads};

/// A factor common to a query cancels, however small or large: the average of v all the same, in
/// blocks and token by token.
#[test]
fn a_common_factor_cancels() {
    const TOKENS: usize = 40;
    let v: Vec<f32> = (0..TOKENS * 4).map(|i| (i as f32 * 0.7).sin()).collect();
    for (map, q, k) in [
        (FeatureMap::Elu, -60.0, -60.0),
        (FeatureMap::Elu, -80.0, 0.5),
        (FeatureMap::Elu, 1e30, 1e10),
        (FeatureMap::Relu, 1e-30, 1e-10),
        (FeatureMap::Relu, 1e30, 1e10),
    ] {
        let config = Config::new(4, 4).with_feature_map(map);
        let (q, k) = (vec![q; TOKENS * 4], vec![k; TOKENS * 4]);
        let shape = Shape::new(1, TOKENS as u32, 1);
        let attention = CpuAttention::new(config.clone()).unwrap();
        let whole = attention.run(&shape, Inputs::new(&q, &k, &v)).unwrap().o;
        let pool = StatePool::new(&config, 1, 1).unwrap();
        let slot = pool.allocate().unwrap();
        let mut step = plan(&config, &Shape::new(1, 1, 1));
        for t in 0..TOKENS {
            let row = t * 4..t * 4 + 4;
            let mut o = vec![0.0; 4];
            let tensors = Tensors::new(&q[..4], &k[..4], &v[row.clone()], &mut o);
            step.run_in_pool(&pool, &[Entry::new(slot, 1)], tensors).unwrap();
            for (c, (whole, o)) in whole[row].iter().zip(o).enumerate() {
                let sum: f32 = v.iter().skip(c).step_by(4).take(t + 1).sum();
                let average = sum / (t + 1) as f32;
                assert!((whole - average).abs() < 1e-5, "{config:?}: {whole} and {average}");
                assert!((o - average).abs() < 1e-5, "{config:?}, alone: {o} and {average}");
            }
        }
    }
}

/// The same number is added 200,000 times: plain sums of blocks are off by 2e-5 and 6e-5.
#[test]
fn long_sums_do_not_drift() {
    const TOKENS: usize = 200_000;
    let config = Config::new(8, 8);
    let (x, v) = (vec![0.1f32; TOKENS * 8], vec![0.7f32; TOKENS * 8]);
    let shape = Shape::new(1, TOKENS as u32, 1);
    let mut plan = with_threads(1, || plan(&config, &shape));
    let mut output = Output::zeros(plan.lens());
    plan.run(Tensors::of(Inputs::new(&x, &x, &v), &mut output)).unwrap();
    let nu = TOKENS as f64 * f64::from(0.1f32 + 1.0);
    for (found, truth) in [(output.mu, nu * f64::from(0.7f32)), (output.nu, nu)] {
        for x in found {
            assert!((f64::from(x) / truth - 1.0).abs() < 1e-6, "{x} and {truth}");
        }
    }
}

/// Decays of every size, up to those that forget all: a state is divided by their products.
#[test]
fn decays_of_every_size() {
    let sizes = [0.0, -1e-8, -0.02, -3.0, -0.5, -9.0, -15.0, -1e-3, -40.0, f32::NEG_INFINITY, -0.1];
    let has_decays = |config: &Config| config.update_rule.decay().is_some();
    for config in configs(8, 24).into_iter().filter(has_decays) {
        for tokens in [100, 4200] {
            let shape = Shape::new(1, tokens, 1);
            let mut sample = Sample::new(&config, &shape, 0.4);
            for (i, decay) in sample.decay.iter_mut().enumerate() {
                // Each size is that of some tokens in a row.
                *decay = sizes[i * 7 % 64 * i / 99 % sizes.len()];
            }
            let inputs = sample.inputs_with_state();
            let truth = reference::recurrent(&config, &shape, inputs).unwrap();
            let found = with_threads(1, || {
                CpuAttention::new(config.clone()).unwrap().run(&shape, inputs).unwrap()
            });
            let of_all = [(&found.o, &truth.o), (&found.mu, &truth.mu), (&found.nu, &truth.nu)];
            for (found, truth) in of_all {
                let largest = truth.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                for (found, truth) in found.iter().zip(truth) {
                    assert_abs_diff_eq!(f64::from(*found), *truth, epsilon = 1e-6 * largest);
                }
            }
        }
    }
}

/// A state may grow, too, also before anything is in it: the products of its decays are infinite
/// then.
#[test]
fn positive_decays() {
    let is_gated = |config: &Config| matches!(config.update_rule, UpdateRule::Gated(_));
    for config in configs(8, 24).into_iter().filter(is_gated) {
        let config = config.with_feature_map(FeatureMap::Identity);
        let config = config.with_normalization(Normalization::None);
        let shape = Shape::new(1, 60, 1);
        let mut sample = Sample::new(&config, &shape, 0.4);
        sample.decay.fill(2.9);
        sample.k[..40 * 8].fill(0.0);
        let truth = reference::recurrent(&config, &shape, sample.inputs()).unwrap();
        let found = CpuAttention::new(config).unwrap().run(&shape, sample.inputs()).unwrap();
        for (found, truth) in found.o.chunks(24).zip(truth.o.chunks(24)) {
            let largest = truth.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            for (found, truth) in found.iter().zip(truth) {
                assert_abs_diff_eq!(f64::from(*found), *truth, epsilon = 1e-5 * largest);
            }
        }
    }
}
