//! Layouts for the limits of a device.

use linear_attention::tuning::{Layout, RowSource, Tuning};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, FeatureMap};

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

#[test]
fn a_device_with_more_memory_uses_more() {
    let config = Config::new(128, 128);
    let large = Limits { max_compute_workgroup_storage_size: 48 << 10, ..Limits::default() };
    let small = Tuning::new(&config, &Limits::default(), DeviceType::Other).unwrap();
    let large = Tuning::new(&config, &large, DeviceType::Other).unwrap();
    assert!(large.layout.workgroup_memory(&config) > small.layout.workgroup_memory(&config));
    assert_eq!(small.layout.row_source, RowSource::Workgroup);
}

/// `docs/gpu-compilers.md`: a wave has 32 lanes, and 128 bytes of workgroup memory for each leave 8
/// waves.
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

/// Chunks are longer without partial sums.
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
