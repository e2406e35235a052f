//! Segments, and the bytes that they move.

use linear_attention::plan::Stage;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, RowSource, Tuning};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Plan, Shape};

use crate::plan;

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
