//! Configs, shapes and limits that no plan accepts, and any numbers in them.

use linear_attention::error::{ConfigError, PlanError};
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, FeatureMap, Normalization, Plan, Shape};
use proptest::prelude::*;

use crate::{plan, plan_within};

#[test]
fn configs_out_of_range_are_refused() {
    let mut config = Config::new(0, 8);
    assert_eq!(
        config.validate(),
        Err(ConfigError::Dim { what: "key_dim", required: 1024, actual: 0 })
    );
    config = Config::new(8, 4097);
    assert_eq!(
        config.validate(),
        Err(ConfigError::Dim { what: "value_dim", required: 4096, actual: 4097 })
    );
    config = Config::new(8, 8);
    config.scale = f32::NAN;
    assert_eq!(config.validate(), Err(ConfigError::Scale { actual: "NaN".to_owned() }));
    config.scale = 1.0;
    config.normalization = Normalization::Sum { eps: -1.0 };
    assert_eq!(config.validate(), Err(ConfigError::Eps { actual: "-1".to_owned() }));
    config.normalization = Normalization::default();
    config.feature_map = FeatureMap::Identity;
    assert_eq!(
        config.validate(),
        Err(ConfigError::SignedSum { feature_map: "identity".to_owned() })
    );
    config.normalization = Normalization::SignedSum { eps: 1e-6 };
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn shapes_out_of_range_are_refused() {
    let config = Config::new(64, 64);
    let refused = |shape: Shape| plan(&config, &shape).unwrap_err();
    assert_eq!(refused(Shape::new(0, 1, 1)), PlanError::Zero { what: "batch" });
    assert_eq!(refused(Shape::new(1, 1, 0)), PlanError::Zero { what: "heads" });
    assert_eq!(
        refused(Shape::new(1, 1, 1).with_kv_heads(0)),
        PlanError::Zero { what: "key_heads" }
    );
    let zero = refused(Shape::new(1, 1, 1).with_value_heads(0));
    assert_eq!(zero, PlanError::Zero { what: "value_heads" });
    assert_eq!(
        refused(Shape::new(1, 1, 6).with_key_heads(4)),
        PlanError::KeyHeads { value_heads: 6, key_heads: 4 }
    );
    assert_eq!(
        refused(Shape::new(1, 1, 6).with_kv_heads(4)),
        PlanError::ValueHeads { heads: 6, value_heads: 4 }
    );
    assert_eq!(
        refused(Shape::new(1, 1 << 26, 1)),
        PlanError::TooManyElements { what: "q", actual: 1 << 32 }
    );
    assert_eq!(
        refused(Shape::new(u32::MAX, u32::MAX, u32::MAX)),
        PlanError::TooManyElements { what: "q", actual: u64::MAX }
    );
    let t = (1 << 31) + 1;
    let long = plan(&Config::new(1, 1), &Shape::new(1, t, 1)).unwrap_err();
    assert_eq!(long, PlanError::SeqLen { required: 1 << 31, actual: t });
    // 256 bytes a token: 2^19 tokens fill the default binding of 128 MiB.
    let error = refused(Shape::new(3, 1 << 18, 1));
    let expected = PlanError::TooLarge {
        what: "q",
        required: 128 << 20,
        actual: 192 << 20,
        largest_batch: Some(2),
    };
    assert_eq!(error, expected);
    assert!(error.to_string().ends_with("batch = 2 fits"), "{error}");
}

#[test]
fn packed_shapes_out_of_range_are_refused() {
    let config = Config::new(16, 16);
    let refused = |shape: Shape| plan(&config, &shape).unwrap_err();
    assert_eq!(refused(Shape::packed(&[], 1)), PlanError::Zero { what: "sequences" });
    assert_eq!(
        refused(Shape::packed_up_to(PackedLimits { sequences: 0, tokens: 8, max_len: 8 }, 1)),
        PlanError::Zero { what: "sequences" }
    );
    assert_eq!(refused(Shape::new(2, 8, 1).with_slots(0)), PlanError::Zero { what: "slots" });
    let mut shape = Shape::packed(&[3, 4], 1);
    shape.batch = 2;
    assert_eq!(refused(shape), PlanError::PackedBatch { actual: 2 });
    let mut shape = Shape::packed(&[3, 4], 1);
    shape.seq_len = 6;
    assert_eq!(refused(shape), PlanError::Lengths { required: 6, actual: 7 });
    for (start, end) in [(3, 7), (5, 4)] {
        assert_eq!(
            refused(Shape::padded(&[0..6, start..end], 6, 1)),
            PlanError::Valid { row: 1, required: 6, start, end }
        );
    }
    let mut shape = Shape::padded(&[0..1, 0..1], 1, 1);
    shape.batch = 3;
    assert_eq!(refused(shape), PlanError::ValidRanges { required: 3, actual: 2 });
    // 17 * 16 * 4 bytes a state: 128 MiB have room for 123,361 of them.
    let error = refused(Shape::new(2, 8, 1).with_slots(200_000));
    let expected = PlanError::PoolTooLarge {
        required: 128 << 20,
        actual: 200_000 * 1088,
        largest: Some(123_361),
    };
    assert_eq!(error, expected);
    assert!(error.to_string().ends_with("; 123361 slots fit"), "{error}");
}

#[test]
fn limits_too_small_are_refused() {
    let limits = Limits { max_compute_workgroup_storage_size: 256, ..Limits::default() };
    let error = plan_within(&Config::new(64, 64), &Shape::new(1, 1, 1), &limits).unwrap_err();
    assert!(
        matches!(
            error,
            PlanError::Config(ConfigError::Limit {
                what: "max_compute_workgroup_storage_size",
                actual: 256,
                ..
            })
        ),
        "{error}"
    );
}

#[test]
fn grids_too_large_are_refused() {
    let limits = Limits { max_compute_workgroups_per_dimension: 4, ..Limits::default() };
    for (tokens, stage) in [(1, "decode_step"), (17, "segment_output")] {
        let error =
            plan_within(&Config::new(4, 4), &Shape::new(1, tokens, 17), &limits).unwrap_err();
        let expected = PlanError::TooManyWorkgroups { stage, required: 16, actual: 17 };
        assert_eq!(error, expected);
    }
}

/// One token for each of many sequences is one dispatch that needs no scratch, however told.
#[test]
fn any_number_of_checkpoints_is_a_plan_or_an_error() {
    let config = Config::new(8, 8);
    for checkpoints in [1 << 16, 1 << 30, u32::MAX] {
        for sequences in [1, 1 << 16, 1 << 30] {
            let limits = PackedLimits { sequences, tokens: 64, max_len: 32 };
            let shape = Shape::packed_up_to(limits, 1).with_slots(1).with_checkpoints(checkpoints);
            for device_type in [DeviceType::Cpu, DeviceType::DiscreteGpu] {
                let limits = Limits::default();
                let tuning = Tuning::new(&config, &limits, device_type).unwrap();
                let plan = Plan::new(&config, &shape, &limits, &tuning);
                assert_eq!(plan.is_ok(), checkpoints <= 1 << 16 && sequences == 1, "{plan:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A plan or an error, never a panic; and what a plan covers is what was asked.
    #[test]
    fn any_numbers(
        b in size(), t in size(), h in size(), g in size(), k in 0u32..300, v in 0u32..300,
        workgroups in size(), least in size(), most in size(),
        kind in 0u32..5, slots in size(), lengths in prop::collection::vec(size(), 0..4),
        maps in [feature_map(), feature_map()], is_apart in any::<bool>(), l2_norm in any::<bool>(),
    ) {
        let mut config = Config::new(k, v);
        let [map, query_map] = maps;
        config.feature_map = map;
        config.query_feature_map = is_apart.then_some(query_map);
        config.l2_norm = l2_norm;
        if !config.is_non_negative() {
            config.normalization = Normalization::None;
        }
        let shape = match kind {
            0 | 1 => Shape::new(b, t, h),
            2 => Shape::packed(&lengths, h),
            _ => Shape::packed_up_to(PackedLimits { sequences: b, tokens: t, max_len: least }, h),
        };
        let mut shape = shape.with_kv_heads(g);
        shape.slots = (kind % 2 == 1).then_some(slots);
        let limits = Limits::default();
        let _ = plan_within(&config, &shape, &limits);
        for device_type in [DeviceType::Cpu, DeviceType::Other] {
            let Ok(mut tuning) = Tuning::new(&config, &limits, device_type) else { continue };
            tuning.workgroups = workgroups;
            tuning.min_segment_len = least;
            tuning.max_segment_len = most;
            if let Ok(plan) = Plan::new(&config, &shape, &limits, &tuning) {
                let covered = u64::from(plan.segments()) * u64::from(plan.segment_len());
                prop_assert!(covered >= u64::from(shape.max_len()));
                // A sequence without tokens has a segment as well.
                let most = u64::from(shape.max_len().max(1));
                prop_assert!(covered - u64::from(plan.segment_len()) < most);
                for dispatch in plan.dispatches() {
                    prop_assert!(dispatch.workgroups.iter().all(|n| (1..=65_535).contains(n)));
                }
                let _ = (plan.bytes_moved(), plan.flops(), plan.scratch_size());
            }
        }
    }
}

fn size() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..70, 1u32..5000, any::<u32>(), Just(u32::MAX)]
}

/// Any map with any numbers in it; elu as often as all others.
fn feature_map() -> impl Strategy<Value = FeatureMap> {
    let sized = (0usize..6, size()).prop_map(|(kind, size)| match kind {
        0 => FeatureMap::T2r { features: size },
        1 => FeatureMap::Product { features: size },
        2 => FeatureMap::Favor { features: size },
        3 => FeatureMap::FavorHyperbolic { features: size },
        4 => FeatureMap::Fourier { features: size },
        _ => FeatureMap::Dpfp { nu: size },
    });
    let others = [
        FeatureMap::Exp,
        FeatureMap::Softmax,
        FeatureMap::Hedgehog,
        FeatureMap::HedgehogJoint,
        FeatureMap::Taylor,
    ];
    prop_oneof![3 => Just(FeatureMap::Elu), 2 => sized, 1 => prop::sample::select(others.to_vec())]
}
