//! The calls: shapes, heads, states, segments and entries, small and all of them.

use std::ops::Range;

use super::call::Call;
use crate::kernel::layout::Layout;
use crate::plan::States;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::entries::cu_seqlens;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::{PackedLimits, Packing, Shape};
use crate::problem::strides::TensorStrides;
use crate::verify::case::Case;

/// H, G and E.
const HEADS: [[u32; 3]; 9] = [
    [1, 1, 1],
    [2, 2, 2],
    [2, 1, 1],
    [3, 1, 1],
    [4, 2, 2],
    [4, 1, 2],
    [1, 1, 2],
    [2, 2, 4],
    [2, 1, 4],
];

/// Lengths of packed sequences, empty ones among them.
const LENGTHS: [&[u32]; 9] =
    [&[0], &[3], &[0, 0], &[0, 2, 0], &[5, 1], &[1, 0, 4, 2], &[2, 3, 4], &[1, 1, 1, 1], &[19, 2]];

/// Valid tokens of padded rows, and T.
const PADDED: [(&[Range<u32>], u32); 5] = [
    (&[1..3, 0..4], 4),
    (&[0..0, 2..2], 3),
    (&[2..7, 0..7, 0..3], 7),
    (&[18..19, 0..1], 19),
    (&[0..1, 3..4], 4),
];

/// N, T and the longest of a capacity.
const LIMITS: [[u32; 3]; 7] =
    [[1, 0, 0], [1, 4, 4], [2, 5, 3], [3, 6, 6], [4, 9, 2], [3, 19, 18], [2, 8, 1]];

const STATES: [States; 5] =
    [States::None, States::Initial, States::Final, States::InitialAndFinal, States::InPlace];

/// The pool of a call: slots beyond those of its sequences, sources, checkpoints.
const POOLS: [Option<(u32, bool, u32)>; 5] =
    [None, Some((0, false, 0)), Some((3, true, 0)), Some((5, true, 2)), Some((4, false, 1))];

/// Kinds of strides: contiguous, views of one buffer, heads first at odd offsets, with gaps, tokens
/// first.
const STRIDES: u64 = 5;

/// The axes of a call: shapes, pools, heads, states, segmentations, entries, strides.
const AXES: [u64; 7] = [
    20 + LENGTHS.len() as u64 + LIMITS.len() as u64 + PADDED.len() as u64,
    POOLS.len() as u64,
    HEADS.len() as u64,
    STATES.len() as u64,
    SEGMENTS.len() as u64,
    10,
    STRIDES,
];

/// Segments of the longest sequence, or -L for segments of L tokens in any company.
const SEGMENTS: [i32; 6] = [0, 1, 2, 3, 5, -2];

/// Calls of one config and layout, those without a plan among them.
pub(super) fn len() -> u64 {
    AXES.iter().product()
}

/// Call `index` of a config in a layout.
pub(super) fn call(config: &Config, layout: Layout, index: u64, seed: u64) -> Option<Call> {
    let mut rest = index;
    let [shape, pool, heads, states, segments, entries, strides] = AXES.map(|axis| {
        let at = rest % axis;
        rest /= axis;
        at as usize
    });
    let [h, g, e] = HEADS[heads];
    let mut of_shape = match shape {
        // B is 1 or 2, and T from 0 to 9.
        0..20 => Shape::new(1 + shape as u32 / 10, shape as u32 % 10, h),
        _ => match LENGTHS.get(shape - 20) {
            Some(lengths) => Shape::packed(lengths, h),
            None => match LIMITS.get(shape - 20 - LENGTHS.len()) {
                Some([sequences, tokens, max_len]) => {
                    let (sequences, tokens, max_len) = (*sequences, *tokens, *max_len);
                    Shape::packed_up_to(PackedLimits { sequences, tokens, max_len }, h)
                }
                None => {
                    let (valid, t) = &PADDED[shape - 20 - LENGTHS.len() - LIMITS.len()];
                    Shape::padded(valid, *t, h)
                }
            },
        },
    };
    of_shape = of_shape.with_key_heads(g).with_value_heads(e);
    if let Some((beyond, has_sources, checkpoints)) = POOLS[pool] {
        let n = of_shape.entries();
        let slots = n * (1 + u32::from(has_sources) + checkpoints) + beyond;
        of_shape = Shape { has_sources, checkpoints, ..of_shape.with_slots(slots) };
    }
    of_shape.strides = strides_of(config, &of_shape, strides);
    // States are in the pool, and only a buffer has other entries than the shape.
    let reads_words = of_shape.slots.is_some() || matches!(of_shape.packing, Packing::UpTo { .. });
    if (of_shape.slots.is_some() && states > 0) || (!reads_words && entries > 0) {
        return None;
    }
    let limits = wgpu::Limits {
        // Grids are folded.
        max_compute_workgroups_per_dimension: if seed.is_multiple_of(2) { 3 } else { 65_535 },
        ..wgpu::Limits::default()
    };
    let weights = [[1, 0], [1, 1], [g, 0], [g, h], [0, 0]];
    let weights = match config.needs_weights() {
        true => weights[seed as usize / 2 % 4],
        false => weights[4],
    };
    let segment_len = (SEGMENTS[segments] < 0).then(|| SEGMENTS[segments].unsigned_abs());
    let tuning = Tuning::new(config, &limits, wgpu::DeviceType::Other).ok()?;
    let tuning = tuning.with_layout(layout).with_segment_len(segment_len);
    let case = Case {
        segments: SEGMENTS[segments].max(0).unsigned_abs(),
        weights: WeightHeads::new(weights[0], weights[1]),
        ..Case::new("interpreted", config.clone(), of_shape)
    };
    // Entries of a host are valid; checkpoints are the host's alone.
    let kind = entries as u32;
    let is_untrusted = kind >= 3 && case.shape.checkpoints == 0;
    let words = if reads_words { words(&case.shape, kind, seed) } else { Vec::new() };
    Some(Call { case, tuning, limits, states: STATES[states], words, is_untrusted, seed })
}

/// Strides of each kind; `None` where rows are contiguous.
fn strides_of(config: &Config, shape: &Shape, kind: usize) -> Option<TensorStrides> {
    let mut strides = match kind {
        0 => return None,
        1 => TensorStrides::fused(config, shape),
        2 => TensorStrides::heads_first(config, shape),
        _ => TensorStrides::contiguous(config, shape),
    };
    let TensorStrides { q, k, v, o } = &mut strides;
    let widths = [config.key_dim, config.key_dim, config.value_dim, config.value_dim];
    let heads = [shape.heads, shape.key_heads, shape.value_heads, shape.output_heads()];
    for (i, ((of, width), heads)) in [q, k, v, o].into_iter().zip(widths).zip(heads).enumerate() {
        match kind {
            2 => of.offset = i as u32,
            3 => {
                of.head = width + 4;
                of.token = heads * of.head + 8;
                of.batch = shape.seq_len * of.token + 4;
            }
            4 => {
                of.batch = heads * width + 4 * i as u32;
                of.token = shape.batch * of.batch;
            }
            _ => {}
        }
    }
    Some(strides)
}

/// Words after the status. Kinds 0 to 2 are valid: full, with unused entries, and with an empty
/// sequence; 3 is the first, from a device. From 4 on each has some words that cannot be.
fn words(shape: &Shape, kind: u32, seed: u64) -> Vec<u32> {
    let mut next = seed | 1;
    let mut draw = move |below: u32| {
        next = next.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (next >> 33) as u32 % below.max(1)
    };
    let (n, slots) = (shape.entries(), shape.slots.unwrap_or(0));
    let is_hostile = kind >= 4 && shape.checkpoints == 0;
    let used = match kind % 3 {
        1 => draw(n + 1),
        _ => n,
    };
    let mut lengths = Vec::new();
    let mut words = Vec::new();
    // Between padded rows there are entries without a slot.
    let is_used = |i: u32| if shape.is_padded() { i % 2 == 1 && i / 2 < used } else { i < used };
    if shape.is_padded() {
        words.extend(cu_seqlens(shape, &[]));
        lengths = words.windows(2).map(|pair| pair[1] - pair[0]).collect();
    } else if shape.is_packed() {
        let mut left = shape.seq_len;
        for i in 0..n {
            let len = if i < used && kind != 2 || draw(2) == 0 { shape.max_len() } else { 0 };
            let len = if draw(3) == 0 { draw(len + 1) } else { len }.min(left);
            let len = if i < used { len } else { 0 };
            lengths.push(len);
            left -= len;
        }
        words.push(0);
        for len in &lengths {
            let end = words.last().copied().unwrap_or(0);
            words.push(end + len);
        }
    } else {
        lengths = vec![shape.seq_len; n as usize];
    }
    if slots > 0 {
        // Each its own, backwards; then those that are read, shared or their own.
        let slot = |i: u32| if is_used(i) { slots - 1 - i } else { u32::MAX };
        words.extend((0..n).map(slot));
        if shape.has_sources {
            let shared = draw(2) == 0;
            words.extend((0..n).map(|i| match is_used(i) {
                true if shared => 0,
                true if kind == 2 => slot(i),
                _ => slot(i).min(slots - 1 - n - i.min(used)),
            }));
        }
        for i in 0..n {
            for c in 0..shape.checkpoints {
                let tokens = if is_used(i) { draw(lengths[i as usize] + 1) } else { 0 };
                let first = slots - 1 - n * (1 + u32::from(shape.has_sources));
                words.extend([tokens, first - (i * shape.checkpoints + c)]);
            }
        }
    }
    if is_hostile && !words.is_empty() {
        for _ in 0..=draw(3) {
            let at = draw(words.len() as u32) as usize;
            words[at] = match draw(5) {
                0 => u32::MAX - draw(3),
                1 => 1 << 31,
                2 => shape.seq_len + draw(3),
                _ => draw(slots + shape.seq_len + 2),
            };
        }
    }
    words
}
