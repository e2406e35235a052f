// implements: single_features
//
// Maps whose features do not come in vec4s: HEDGEHOG, HEDGEHOG_JOINT, TAYLOR, DPFP.

import constants::{DPFP, HEDGEHOG, HEDGEHOG_JOINT, KEY_DIM, ROOT_SCALE, TAYLOR};
import gradient/map::{MapRow, argument_at, largest_of, sum_of};
import map/pairs::{pair_at};

// Of the softmaxes of a row: see MapRow.
fn single_statistics(row: MapRow) -> vec4<f32> {
    switch row.map {
        case HEDGEHOG: {
            let high = largest_of(row, 1.0);
            let low = largest_of(row, -1.0);
            return vec4<f32>(high, 1.0 / sum_of(row, 1.0, high), low, 1.0 / sum_of(row, -1.0, low));
        }
        case HEDGEHOG_JOINT: {
            let largest = max(largest_of(row, 2.0), largest_of(row, -2.0));
            let inverse = 1.0 / (sum_of(row, 2.0, largest) + sum_of(row, -2.0, largest));
            return vec4<f32>(largest, inverse, largest, inverse);
        }
        default: { return vec4<f32>(0.0); }
    }
}

// Feature f.
fn feature(row: MapRow, f: u32) -> f32 {
    switch row.map {
        case TAYLOR: { return taylor(row, f); }
        case DPFP: {
            let d = 2u * KEY_DIM;
            return rectified(row, f % d) * rectified(row, (f % d + d - f / d - 1u) % d);
        }
        default: {
            let factor = select(1.0, 2.0, row.map == HEDGEHOG_JOINT);
            let s = row.statistics;
            if (f < KEY_DIM) { return exp(factor * argument_at(row, f) - s.x) * s.y; }
            return exp(-factor * argument_at(row, f - KEY_DIM) - s.z) * s.w;
        }
    }
}

// [max(x, 0), max(-x, 0)]
fn rectified(row: MapRow, i: u32) -> f32 {
    if (i < KEY_DIM) { return max(argument_at(row, i), 0.0); }
    return max(-argument_at(row, i - KEY_DIM), 0.0);
}

// [1, x, x_i^2 / 2^(1/2), x_i x_j for i < j] of x / K^(1/4)
fn taylor(row: MapRow, f: u32) -> f32 {
    if (f == 0u) { return 1.0; }
    if (f <= KEY_DIM) { return argument_at(row, f - 1u) * ROOT_SCALE; }
    let one = ROOT_SCALE * ROOT_SCALE;
    if (f <= 2u * KEY_DIM) {
        let x = argument_at(row, f - 1u - KEY_DIM);
        return x * x * one * 0.70710678;
    }
    let pair = pair_at(f - 1u - 2u * KEY_DIM);
    return argument_at(row, pair.x) * argument_at(row, pair.y) * one;
}
