//! Plans, threads, types and memory.

use approx::assert_abs_diff_eq;
use half::{bf16, f16};
use linear_attention::cpu::{CpuAttention, SliceMut, Tensors};
use linear_attention::feature_map::Weights;
use linear_attention::shape::PackedLimits;
use linear_attention::{Config, Dtype, FeatureMap, Inputs, Output, Shape, reference};

use crate::{Sample, assert_near, configs, plan, with_threads};

/// A plan computes call after call without a trace of the one before.
#[test]
fn plans_are_reused() {
    let config = Config::new(16, 16);
    let shape = Shape::packed(&[40, 0, 7], 2);
    let mut plan = plan(&config, &shape);
    let x: Vec<f32> = (0..47 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    let y: Vec<f32> = x.iter().rev().copied().collect();
    let mut first = Output::zeros(plan.lens());
    plan.run(Tensors::of(Inputs::new(&x, &x, &x), &mut first)).unwrap();
    let mut output = first.clone();
    plan.run(Tensors::of(Inputs::new(&y, &y, &y), &mut output)).unwrap();
    assert_ne!(first, output);
    plan.run(Tensors::of(Inputs::new(&x, &x, &x), &mut output)).unwrap();
    assert_eq!(first, output);
    let short = plan.run(Tensors::of(Inputs::new(&x[1..], &x, &x), &mut output));
    assert_eq!(short.unwrap_err().to_string(), "q must have 1504 elements, found 1503");
}

/// Slices of columns, segments of tokens and heads in two, of which there are as many as threads ask
/// for, change a result by rounding alone.
#[test]
fn any_number_of_threads() {
    for config in configs(24, 40) {
        let grouped = Shape::new(1, 3000, 6).with_kv_heads(3);
        for shape in [Shape::new(1, 5000, 1), Shape::packed(&[2100, 1, 0, 70], 2), grouped] {
            let sample = Sample::new(&config, &shape, 0.3);
            let inputs = sample.inputs_with_state();
            let attention = CpuAttention::new(config.clone()).unwrap();
            let run = || attention.run(&shape, inputs).unwrap();
            let expected = with_threads(1, run);
            for threads in [2, 7] {
                assert_near(&with_threads(threads, run), &expected);
            }
        }
    }
}

/// One thread of segments agrees with the definition, not only with another cut.
#[test]
fn segments_agree_with_the_recurrence() {
    for config in configs(8, 8).into_iter().take(3) {
        let shape = Shape::new(1, 9000, 1);
        let sample = Sample::new(&config, &shape, 1.7);
        let inputs = sample.inputs_with_state();
        let truth = reference::recurrent(&config, &shape, inputs).unwrap();
        let attention = CpuAttention::new(config).unwrap();
        let found = with_threads(5, || attention.run(&shape, inputs).unwrap());
        for (found, truth) in [(&found.o, &truth.o), (&found.mu, &truth.mu)] {
            let largest = truth.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            for (found, truth) in found.iter().zip(truth) {
                assert_abs_diff_eq!(f64::from(*found), *truth, epsilon = 1e-5 * largest);
            }
        }
    }
}

/// Slices of 16 bits give what their values in f32 give, rounded once.
#[test]
fn types_of_slices() {
    let f16s = |x: &[f32]| -> Vec<f16> { x.iter().map(|x| f16::from_f32(*x)).collect() };
    let bf16s = |x: &[f32]| -> Vec<bf16> { x.iter().map(|x| bf16::from_f32(*x)).collect() };
    for dtype in [Dtype::F16, Dtype::Bf16] {
        for config in configs(24, 40) {
            let config = config.with_dtype(dtype);
            let shape = Shape::packed(&[40, 1], 4).with_kv_heads(2);
            let sample = Sample::new(&config, &shape, 2.9);
            let mut plan = plan(&config, &shape);
            let mut expected = Output::zeros(plan.lens());
            plan.run(Tensors::of(sample.inputs(), &mut expected)).unwrap();
            let mut rest = Output::zeros(plan.lens());
            let len = expected.o.len();
            let (mut in_f16, mut in_bf16) = (vec![f16::NAN; len], vec![bf16::NAN; len]);
            let [q, k, v] = [&sample.q, &sample.k, &sample.v];
            let (fs, bs) = ([q, k, v].map(|x| f16s(x)), [q, k, v].map(|x| bf16s(x)));
            let o = if dtype == Dtype::F16 {
                SliceMut::from(&mut in_f16)
            } else {
                SliceMut::from(&mut in_bf16)
            };
            let mut tensors = Tensors::of(sample.inputs(), &mut rest);
            tensors.o = o;
            (tensors.q, tensors.k, tensors.v) = if dtype == Dtype::F16 {
                ((&fs[0]).into(), (&fs[1]).into(), (&fs[2]).into())
            } else {
                ((&bs[0]).into(), (&bs[1]).into(), (&bs[2]).into())
            };
            plan.run(tensors).unwrap();
            let found: Vec<f32> = match dtype {
                Dtype::F16 => in_f16.iter().map(|x| x.to_f32()).collect(),
                _ => in_bf16.iter().map(|x| x.to_f32()).collect(),
            };
            assert_eq!(found, expected.o);
            assert_eq!([&rest.mu, &rest.nu], [&expected.mu, &expected.nu]);
        }
    }
}

/// A NaN spoils its own sequence and value head from its token on, and no bit of anything else; nor
/// does it stay in the memory of the plan.
#[test]
fn a_nan_stays_where_it_is() {
    for config in configs(12, 20) {
        let shape = Shape::new(2, 75, 2);
        let sample = Sample::new(&config, &shape, 0.4);
        let mut plan = plan(&config, &shape);
        let mut clean = Output::zeros(plan.lens());
        plan.run(Tensors::of(sample.inputs(), &mut clean)).unwrap();
        // Token 37 of the first sequence, its second head.
        let mut v = sample.v.clone();
        v[(37 * 2 + 1) * 20 + 3] = f32::NAN;
        let mut spoilt = clean.clone();
        let mut inputs = sample.inputs();
        inputs.v = &v;
        plan.run(Tensors::of(inputs, &mut spoilt)).unwrap();
        for (row, (found, clean)) in spoilt.o.chunks(20).zip(clean.o.chunks(20)).enumerate() {
            let is_spoilt = row % 2 == 1 && (37..75).contains(&(row / 2));
            assert_eq!(found != clean, is_spoilt, "{row}: {config:?}");
        }
        let state = spoilt.mu.len() / 4;
        assert_eq!(spoilt.mu[..state], clean.mu[..state]);
        assert_eq!(spoilt.mu[2 * state..], clean.mu[2 * state..]);
        plan.run(Tensors::of(sample.inputs(), &mut spoilt)).unwrap();
        assert_eq!(spoilt, clean);
    }
}

/// Nor does it reach a shorter sequence, whose block leaves its token in the memory of the thread.
#[test]
fn a_nan_stays_in_its_sequence() {
    for config in configs(12, 20) {
        let shape = Shape::packed(&[40, 9], 1);
        let sample = Sample::new(&config, &shape, 0.6);
        let of = |inputs| {
            with_threads(1, || CpuAttention::new(config.clone()).unwrap().run(&shape, inputs))
        };
        let clean = of(sample.inputs()).unwrap();
        // Token 9 of the first sequence: the second has as many before its block ends.
        let (mut k, mut v) = (sample.k.clone(), sample.v.clone());
        (k[9 * 12 + 5], v[9 * 20 + 3]) = (f32::NAN, f32::NAN);
        for (k, v) in [(&k, &sample.v), (&sample.k, &v)] {
            let mut inputs = sample.inputs();
            (inputs.k, inputs.v) = (k, v);
            // A plan's call, since `run` refuses what is not finite.
            let (mut plan, mut output) = (plan(&config, &shape), clean.clone());
            with_threads(1, || plan.run(Tensors::of(inputs, &mut output))).unwrap();
            let (found, expected) = (&output.o[40 * 20..], &clean.o[40 * 20..]);
            assert_eq!(found, expected, "{config:?}");
            let state = clean.mu.len() / 2;
            assert_eq!(output.mu[state..], clean.mu[state..], "{config:?}");
            assert!(output.mu[..state] != clean.mu[..state]);
        }
    }
}

#[test]
fn wrong_calls_are_refused() {
    let config = Config::new(4, 4).with_dtype(Dtype::F16);
    let shape = Shape::new(1, 2, 1);
    let mut plan = plan(&config, &shape);
    let (x, halves) = ([0.5f32; 8], [bf16::ONE; 8]);
    let mut o = [7.0f32; 8];
    let message = plan.run(Tensors::new(&x[..], &halves[..], &x[..], &mut o[..])).unwrap_err();
    assert_eq!(message.to_string(), "k must be F16 or F32, found BF16");
    let decay = Tensors::new(&x[..], &x[..], &x[..], &mut o[..]).with_decay(&x[..2]);
    let message = plan.run(decay).unwrap_err().to_string();
    assert_eq!(message, "update rule linear: decay must be absent, found some");
    assert_eq!(o, [7.0; 8]);
    let limits = PackedLimits { sequences: 2, tokens: 8, max_len: 4 };
    for (shape, what) in
        [(shape.with_slots(3), "slots"), (Shape::packed_up_to(limits, 1), "packed_up_to")]
    {
        let mut plan = crate::plan(&config, &shape);
        let message = plan.run(Tensors::new(&x[..], &x[..], &x[..], &mut o[..])).unwrap_err();
        assert!(message.to_string().starts_with(what), "{message}");
    }
}

/// Maps whose rows pass through memory of their own, in both l2_norm and without.
fn configs_of_maps() -> Vec<Config> {
    let maps = [
        FeatureMap::Softmax,
        FeatureMap::T2r { features: 16 },
        FeatureMap::Hedgehog,
        FeatureMap::HedgehogJoint,
        FeatureMap::Favor { features: 16 },
        FeatureMap::Taylor,
        FeatureMap::Dpfp { nu: 2 },
    ];
    let of = |map| {
        let config = Config::new(24, 40).with_feature_map(map);
        [config.clone(), config.with_l2_norm(true)]
    };
    maps.into_iter().flat_map(of).collect()
}

/// A plan has all the memory that its calls need.
#[test]
fn calls_allocate_nothing() {
    for config in configs(24, 40).into_iter().chain(configs_of_maps()) {
        let weights = Weights::sample(&config, 1).unwrap();
        for shape in [Shape::new(1, 200, 2), Shape::packed(&[70, 1, 0], 4).with_kv_heads(2)] {
            let sample = Sample::new(&config, &shape, 0.1);
            let allocations = with_threads(1, || {
                let mut plan = plan(&config, &shape);
                let mut output = Output::zeros(plan.lens());
                allocation_counter::measure(|| {
                    let inputs = sample.inputs_with_state().with_weights(&weights);
                    plan.run(Tensors::of(inputs, &mut output)).unwrap();
                })
            });
            assert_eq!(allocations.count_total, 0, "{config:?}");
        }
    }
}
