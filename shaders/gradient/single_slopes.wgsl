// implements: single_slopes
//
// The derivatives of maps whose features do not come in vec4s: HEDGEHOG, HEDGEHOG_JOINT, TAYLOR,
// DPFP.

import constants::{DPFP, FEATURE_DIM, HEDGEHOG, HEDGEHOG_JOINT, KEY_DIM, ROOT_SCALE, TAYLOR};
import gradient/map::{MapRow, argument_at};
import gradient/singles::{rectified};
import gradient/slopes::{RowGradients, of_feature};
import map/pairs::{pair_of};
import single_features::{feature};

// phi . d of the softmaxes of a row.
fn single_sums(row: MapRow, by: RowGradients) -> vec2<f32> {
    var sums = vec2<f32>(0.0);
    if (row.map != HEDGEHOG && row.map != HEDGEHOG_JOINT) { return sums; }
    for (var i = 0u; i < KEY_DIM; i++) {
        sums.x += feature(row, i) * of_feature(row, by, i);
        sums.y += feature(row, KEY_DIM + i) * of_feature(row, by, KEY_DIM + i);
    }
    if (row.map == HEDGEHOG_JOINT) { sums = vec2<f32>(sums.x + sums.y); }
    return sums;
}

// By element i of the argument, without the gain.
fn by_element(row: MapRow, by: RowGradients, i: u32) -> f32 {
    if (i >= KEY_DIM) { return 0.0; }
    switch row.map {
        case TAYLOR: { return by_taylor(row, by, i); }
        case DPFP: {
            let x = argument_at(row, i);
            if (x == 0.0) { return 0.0; }
            if (x > 0.0) { return by_rectified(row, by, i); }
            return -by_rectified(row, by, i + KEY_DIM);
        }
        default: {
            let positive = feature_slope(row, by, i, by.sums.x);
            let negative = feature_slope(row, by, i + KEY_DIM, by.sums.y);
            return select(1.0, 2.0, row.map == HEDGEHOG_JOINT) * (positive - negative);
        }
    }
}

fn feature_slope(row: MapRow, by: RowGradients, f: u32, sum: f32) -> f32 {
    return feature(row, f) * (of_feature(row, by, f) - sum);
}

fn by_taylor(row: MapRow, by: RowGradients, i: u32) -> f32 {
    let one = ROOT_SCALE * ROOT_SCALE;
    var sum = ROOT_SCALE * of_feature(row, by, 1u + i);
    sum += 1.41421356 * one * argument_at(row, i) * of_feature(row, by, 1u + KEY_DIM + i);
    for (var j = 0u; j < KEY_DIM; j++) {
        if (j == i) { continue; }
        let f = 1u + 2u * KEY_DIM + pair_of(min(i, j), max(i, j));
        sum += one * argument_at(row, j) * of_feature(row, by, f);
    }
    return sum;
}

// By element r of [max(x, 0), max(-x, 0)], which is in two products at each distance.
fn by_rectified(row: MapRow, by: RowGradients, r: u32) -> f32 {
    let d = 2u * KEY_DIM;
    var sum = 0.0;
    for (var begin = 0u; begin < FEATURE_DIM; begin += d) {
        let distance = begin / d + 1u;
        let next = (r + distance) % d;
        sum += rectified(row, (r + d - distance) % d) * of_feature(row, by, begin + r);
        sum += rectified(row, next) * of_feature(row, by, begin + next);
    }
    return sum;
}
