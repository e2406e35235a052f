//! Config, Shape and Plan: arithmetic that refuses rather than wraps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use linear_attention::error::{ConfigError, PlanError};
use linear_attention::plan::Stage;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, RowSource, Tuning};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, FeatureMap, Normalization, Plan, Shape};
use proptest::prelude::*;

fn plan(config: &Config, shape: &Shape) -> Result<Plan, PlanError> {
    plan_within(config, shape, &Limits::default())
}

fn plan_within(config: &Config, shape: &Shape, limits: &Limits) -> Result<Plan, PlanError> {
    Plan::new(config, shape, limits, &Tuning::new(config, limits, DeviceType::Other)?)
}

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

#[test]
fn one_segment_moves_every_tensor_once() {
    let config = Config::new(64, 64);
    let shape = Shape::new(1, 100, 3);
    let plan = plan(&config, &shape).unwrap();
    assert_eq!(plan.segments(), 1);
    assert_eq!(plan.scratch_size(), 0);
    assert_eq!(plan.dispatches().len(), 1);
    assert_eq!(plan.dispatches()[0].stage, Stage::SegmentOutput);
    assert_eq!(plan.bytes_moved(), 4 * 100 * 3 * (64 + 64 + 64 + 64));
    assert_eq!(plan.flops(), 100 * 3 * (4 * 64 * 64 + 64 + 2 * 64 + 64));
}

/// On every kind of device; and with query heads that share keys, which threads of one
/// workgroup read once.
#[test]
fn one_segment_moves_every_tensor_once_in_every_layout() {
    let limits = Limits::default();
    for (k, v) in [(64, 64), (128, 128), (32, 32), (60, 36), (17, 33), (256, 256)] {
        let config = Config::new(k, v);
        for device_type in [DeviceType::Other, DeviceType::Cpu] {
            let mut tuning = Tuning::new(&config, &limits, device_type).unwrap();
            tuning.min_segment_len = u32::MAX;
            let shape = Shape::new(2, 100, 4);
            let plan = Plan::new(&config, &shape, &limits, &tuning).unwrap();
            assert_eq!((plan.segments(), plan.scratch_size()), (1, 0));
            // A work item without the memory for all of V loads q and k again; the threads of a CPU
            // adapter's workgroup load the same rows.
            let items = if tuning.layout.row_source == RowSource::Direct { 8 } else { 1 };
            let slices = v.div_ceil(tuning.layout.block_columns()).div_ceil(items);
            let rows = 2 * 100 * 4;
            let expected = 4 * rows * u64::from(slices * 2 * k + 2 * v);
            assert_eq!(plan.bytes_moved(), expected, "{k} {v} {device_type:?}");
        }
    }
    let config = Config::new(64, 64);
    let tuning = Tuning::new(&config, &limits, DeviceType::Cpu).unwrap();
    let shape = Shape::new(1, 100, 8).with_kv_heads(2);
    let plan = Plan::new(&config, &shape, &limits, &tuning).unwrap();
    assert_eq!(plan.bytes_moved(), 4 * 100 * (8 + 2 + 2 + 8) * 64);
}

#[test]
fn more_segments_move_k_and_v_once_more() {
    let config = Config::new(64, 64);
    let tuning = Tuning::new(&config, &Limits::default(), DeviceType::Other).unwrap();
    let mut cut = tuning;
    cut.max_segment_len = 25;
    let plan = Plan::new(&config, &Shape::new(1, 100, 2), &Limits::default(), &cut).unwrap();
    assert_eq!((plan.segments(), plan.segment_len()), (4, 25));
    let state = 2 * (64 * 64 + 64);
    assert_eq!(plan.scratch_size(), 4 * 4 * state);
    let tokens = 4 * 100 * 2 * 256;
    let again = 4 * 75 * 2 * 128;
    // Three states written, three read and four written by the scan, four read.
    assert_eq!(plan.bytes_moved(), tokens + again + 4 * state * 14);
    let stages: Vec<_> = plan.dispatches().iter().map(|d| d.stage).collect();
    assert_eq!(stages, [Stage::SegmentState, Stage::StateScan, Stage::SegmentOutput]);
}

#[test]
fn every_width_gets_a_plan_at_the_default_limits() {
    for k in 1..=256 {
        for v in [1, 3, 4, 16, 33, 64, 100, 128, 255, 256] {
            for device_type in [DeviceType::Other, DeviceType::Cpu] {
                let config = Config::new(k, v);
                let tuning = Tuning::new(&config, &Limits::default(), device_type).unwrap();
                assert!(tuning.layout.workgroup_memory(&config) <= 16 << 10, "{k} {v}");
            }
        }
    }
}

#[test]
fn tiles_are_no_wider_than_the_values() {
    for (k, v, expected) in [
        (64, 64, 16),
        (128, 128, 16),
        (256, 256, 4),
        (32, 32, 16),
        (64, 12, 12),
        (64, 36, 16),
        (8, 1, 4),
        (64, 100, 16),
    ] {
        let config = Config::new(k, v);
        let tuning = Tuning::new(&config, &Limits::default(), DeviceType::Cpu).unwrap();
        assert_eq!(tuning.layout.row_source, RowSource::Direct);
        assert_eq!(tuning.layout.columns, expected, "{k} {v}");
    }
}

/// Two cores that run 8 threads each: segments come where threads are missing, or where the
/// running sum would be too long, and nowhere else.
#[test]
fn segments_fill_the_device_and_no_more() {
    let config = Config::new(64, 64);
    let mut tuning = Tuning::new(&config, &Limits::default(), DeviceType::Cpu).unwrap();
    tuning.workgroups = 2;
    tuning.layout = Layout::direct(32);
    let segments = |b, t, h| {
        let limits = Limits { max_storage_buffer_binding_size: 1 << 30, ..Limits::default() };
        Plan::new(&config, &Shape::new(b, t, h), &limits, &tuning).unwrap().segments()
    };
    // Eight heads of two slices are sixteen threads: full.
    assert_eq!(segments(1, 4096, 8), 1);
    assert_eq!(segments(4, 4096, 8), 1);
    // One head is two threads of sixteen, and eight segments are sixteen.
    assert_eq!(segments(1, 4096, 1), 8);
    // Ten heads would leave the second round nearly empty: cut, they end sooner.
    assert_eq!(segments(1, 4096, 10), 3);
    // Too short to be worth a state.
    assert_eq!(segments(1, 200, 1), 1);
    // Longer than a running sum may be.
    assert_eq!(segments(1, 40_000, 8), 40);
    // As long as a running sum may be, and one more.
    assert_eq!(segments(1, 16_384, 8), 1);
    assert!(segments(1, 16_385, 8) > 1);
}

/// One long prompt among many short: it is cut, they are not, and the pieces fill the device.
#[test]
fn long_sequences_get_more_segments() {
    let config = Config::new(64, 64);
    let limits = Limits { max_storage_buffer_binding_size: 1 << 30, ..Limits::default() };
    for device_type in [DeviceType::DiscreteGpu, DeviceType::Cpu] {
        let mut tuning = Tuning::new(&config, &limits, device_type).unwrap();
        tuning.workgroups = if device_type == DeviceType::Cpu { 16 } else { 512 };
        let mut lengths = vec![60; 100];
        lengths[40] = 60_000;
        let plan = |lengths: &[u32]| {
            Plan::new(&config, &Shape::packed(lengths, 4), &limits, &tuning).unwrap()
        };
        let mixed = plan(&lengths);
        assert!(mixed.segments() >= 8, "{} segments", mixed.segments());
        assert!(mixed.segment_len() > 60, "the short ones are whole");
        assert_eq!(mixed.segments(), 60_000u32.div_ceil(mixed.segment_len()));
        // Sequences of equal length fill the device by themselves.
        assert_eq!(plan(&[300; 400]).segments(), 1);
        // Without a cut, the traffic is every tensor once and nothing else.
        let even = plan(&[64; 2000]);
        let once = 4 * even.lens().q * 4;
        assert_eq!((even.segments(), even.bytes_moved()), (1, once), "{device_type:?}");
    }
}

/// A call without a token is planned, too: its final state is its initial one.
#[test]
fn calls_without_tokens_are_planned() {
    let config = Config::new(16, 16);
    let nothing = PackedLimits { sequences: 2, tokens: 8, max_len: 0 };
    for shape in [
        Shape::new(2, 0, 1),
        Shape::new(2, 0, 1).with_slots(3),
        Shape::packed(&[0, 0], 1),
        Shape::packed_up_to(nothing, 1),
    ] {
        assert_eq!(plan(&config, &shape).unwrap().shape().max_len(), 0);
    }
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

#[test]
fn a_short_run_is_one_dispatch() {
    let config = Config::new(64, 64);
    for shape in [
        Shape::new(256, 1, 8),
        Shape::new(256, 16, 8).with_slots(300),
        Shape::packed(&[3, 0, 16], 8),
        Shape::packed_up_to(PackedLimits { sequences: 256, tokens: 300, max_len: 4 }, 8)
            .with_kv_heads(2)
            .with_slots(300),
    ] {
        for device_type in [DeviceType::Other, DeviceType::Cpu] {
            let limits = Limits { max_storage_buffer_binding_size: 1 << 30, ..Limits::default() };
            let tuning = Tuning::new(&config, &limits, device_type).unwrap();
            let plan = Plan::new(&config, &shape, &limits, &tuning).unwrap();
            let stages: Vec<_> = plan.dispatches().iter().map(|d| d.stage).collect();
            assert_eq!(stages, [Stage::DecodeStep], "{shape:?}");
            assert_eq!((plan.scratch_size(), plan.segments()), (0, 1));
            assert!(plan.is_decode() && plan.updates_in_place());
        }
    }
}

#[test]
fn a_device_with_more_memory_uses_more() {
    let config = Config::new(128, 128);
    let large = Limits { max_compute_workgroup_storage_size: 48 << 10, ..Limits::default() };
    let small = Tuning::new(&config, &Limits::default(), DeviceType::Other).unwrap();
    let large = Tuning::new(&config, &large, DeviceType::Other).unwrap();
    assert!(large.layout.workgroup_memory(&config) > small.layout.workgroup_memory(&config));
    assert_eq!(small.layout.row_source, RowSource::Workgroup);
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
                prop_assert!(covered - u64::from(plan.segment_len()) < u64::from(shape.max_len()));
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

/// `docs/gpu-compilers.md`: a wave has 32 lanes, and 128 bytes of workgroup memory for each leave 8 waves.
#[test]
fn layouts_on_gpus_fill_waves_and_leave_them_memory() {
    for (width, map) in [
        (32, FeatureMap::Elu),
        (64, FeatureMap::Elu),
        (96, FeatureMap::Elu),
        (128, FeatureMap::Elu),
        (64, FeatureMap::Softmax),
        (16, FeatureMap::Taylor),
    ] {
        let config = Config::new(width, width).with_feature_map(map);
        for memory in [16 << 10, 32 << 10, 64 << 10] {
            let limits = Limits {
                max_compute_workgroup_storage_size: memory,
                max_compute_invocations_per_workgroup: 1024,
                max_compute_workgroup_size_x: 1024,
                ..Limits::default()
            };
            let layout = Tuning::new(&config, &limits, DeviceType::DiscreteGpu).unwrap().layout;
            let lanes = config.features().div_ceil(layout.rows) * layout.column_threads;
            assert!(lanes >= 32, "{width}: {layout:?}");
            let most = 128 * u64::from(lanes.next_multiple_of(32));
            assert!(layout.workgroup_memory(&config) <= most, "{width}: {layout:?}");
        }
    }
}

/// Shuffles pay where chunks are longer without partial sums (docs/performance.md).
#[test]
fn subgroups_where_they_are_granted() {
    let of = |width: u32, kib: u32, device_type, lanes| {
        let limits = Limits { max_compute_workgroup_storage_size: kib << 10, ..Limits::default() };
        let config = Config::new(width, width);
        Tuning::with_subgroups(&config, &limits, device_type, lanes).unwrap().layout
    };
    for (width, lanes, chunk_tokens) in [(32, 4, 8), (64, 4, 8), (128, 8, 8)] {
        let without = of(width, 16, DeviceType::DiscreteGpu, 1);
        assert!(!without.subgroup_sums);
        // Subgroups of fewer lanes than share a row.
        assert_eq!(of(width, 16, DeviceType::DiscreteGpu, lanes - 1), without);
        let with = of(width, 16, DeviceType::DiscreteGpu, lanes);
        assert!(with.subgroup_sums && with.chunk_tokens >= chunk_tokens, "{width}: {with:?}");
        assert!(with.chunk_tokens > without.chunk_tokens);
        let cpu = Tuning::new(&Config::new(width, width), &Limits::default(), DeviceType::Cpu);
        assert_eq!(of(width, 16, DeviceType::Cpu, 8), cpu.unwrap().layout);
    }
    // Half of the work items at wgpu's default limits: a workgroup has all of V.
    assert_eq!(of(128, 16, DeviceType::Other, 1).block_columns(), 64);
    assert_eq!(of(128, 16, DeviceType::Other, 32).block_columns(), 128);
    // Six lanes, and one.
    for (rows, width) in [(16, 96), (64, 64)] {
        let layout = Layout::workgroup(rows, 4, 4, 4).with_subgroup_sums(true);
        let error = layout.check(&Config::new(width, width), &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("2, 4 or 8 lanes"), "{error}");
    }
}
