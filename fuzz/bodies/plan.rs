//! Any numbers in a config, a shape and a tuning: a plan or an error, without a panic or an
//! overflow, and soon; a plan's grids and scratch are within the limits, and it has its own tokens.
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use linear_attention::feature_map::{Projection, WeightHeads};
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, Tuning};
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Dtype, FeatureMap, Normalization, Plan, Shape};

#[derive(Arbitrary, Debug)]
struct Numbers {
    key_dim: u32,
    value_dim: u32,
    maps: [(u8, u32); 2],
    is_apart: bool,
    l2_norm: bool,
    dtype: u8,
    eps: f32,
    scale: f32,
    kind: u8,
    shape: [u32; 5],
    slots: Option<u32>,
    lengths: Vec<u32>,
    tuning: [u32; 4],
    segment_len: Option<u32>,
    layout: Option<[u8; 5]>,
    rule: u8,
    value_heads: Option<u32>,
    checkpoints: u32,
    has_sources: bool,
    heads: [u32; 2],
    is_software: bool,
}

fn rule(kind: u8) -> UpdateRule {
    let (head, row, beta) = (Decay::per_head(), Decay::per_row(), Beta::per_head());
    match kind % 12 {
        0 => UpdateRule::Gated(Decay::constant()),
        1 => UpdateRule::Gated(head),
        2 => UpdateRule::Gated(row),
        3 => UpdateRule::Delta(Beta::shared()),
        4 => UpdateRule::GatedDelta(head, beta),
        5 => UpdateRule::GatedDelta(row.with_dtype(Dtype::F16), beta),
        _ => UpdateRule::Linear,
    }
}

fn map((kind, size): (u8, u32)) -> FeatureMap {
    match kind % 12 {
        0 => FeatureMap::T2r { features: size },
        1 => FeatureMap::Product { features: size },
        2 => FeatureMap::Favor { features: size },
        3 => FeatureMap::FavorHyperbolic { features: size },
        4 => FeatureMap::Fourier { features: size },
        5 => FeatureMap::Dpfp { nu: size },
        6 => FeatureMap::Taylor,
        7 => FeatureMap::Hedgehog,
        8 => FeatureMap::Softmax,
        9 => FeatureMap::Exp,
        _ => FeatureMap::Elu,
    }
}

/// Plans what the bytes say.
pub fn run(bytes: &[u8]) {
    let Ok(numbers) = Numbers::arbitrary(&mut Unstructured::new(bytes)) else { return };
    let start = Instant::now();
    let mut config = Config::new(numbers.key_dim, numbers.value_dim);
    config.feature_map = map(numbers.maps[0]);
    config.query_feature_map = numbers.is_apart.then(|| map(numbers.maps[1]));
    config.update_rule = rule(numbers.rule);
    config.l2_norm = numbers.l2_norm;
    config.dtype = Dtype::ALL[usize::from(numbers.dtype % 3)];
    config.scale = numbers.scale;
    config.normalization = match numbers.kind & 0x80 {
        0 => Normalization::SignedSum { eps: numbers.eps },
        _ => Normalization::None,
    };
    let [b, t, h, g, most] = numbers.shape;
    let shape = match numbers.kind % 3 {
        0 => Shape::new(b, t, h),
        1 => Shape::packed(&numbers.lengths, h),
        _ => Shape::packed_up_to(PackedLimits { sequences: b, tokens: t, max_len: most }, h),
    };
    let mut shape = shape.with_kv_heads(g);
    shape = shape.with_value_heads(numbers.value_heads.unwrap_or(g));
    shape.slots = numbers.slots;
    (shape.checkpoints, shape.has_sources) = (numbers.checkpoints, numbers.has_sources);
    let limits = Limits::default();
    let device_type = if numbers.is_software { DeviceType::Cpu } else { DeviceType::Other };
    let _ = WeightHeads::new(numbers.heads[0], numbers.heads[1]).check(&config, &shape);
    let _ = WeightHeads::new(numbers.heads[0], numbers.heads[1]).size(&config);
    let _ = Projection::new(numbers.heads[0], numbers.maps[0].1, numbers.key_dim, &[0.5], None);
    if let Ok(mut tuning) = Tuning::new(&config, &limits, device_type) {
        [
            tuning.workgroups,
            tuning.min_segment_len,
            tuning.max_segment_len,
            tuning.long_sequence_segment_len,
        ] = numbers.tuning;
        tuning.segment_len = numbers.segment_len;
        if let Some([rows, columns, threads, tokens, queries]) = numbers.layout {
            let [rows, columns, threads] = [rows, columns, threads].map(u32::from);
            let layout = Layout::workgroup(rows, columns, threads, 1);
            tuning.layout = layout.with_chunk(tokens.into(), queries.into());
        }
        if let Ok(plan) = Plan::new(&config, &shape, &limits, &tuning) {
            assert!(plan.scratch_size() <= limits.max_buffer_size);
            for dispatch in plan.dispatches() {
                assert!(dispatch.workgroups.iter().all(|n| (1..=65_535).contains(n)));
            }
            let covered = u64::from(plan.segments()) * u64::from(plan.segment_len());
            assert!(covered >= u64::from(shape.max_len()));
            let _ = (plan.bytes_moved(), plan.flops());
        }
    }
    let took = start.elapsed();
    // With a sanitizer, on a machine that does other things, too.
    assert!(took < Duration::from_secs(2), "{took:?}");
}
