// A row of q or of k on its way to features and back, for element-wise maps, the softmax of a row and
// rows that are divided by their L2 norm. All features of a row are one thread's.

import constants::{ELU, EXP, FEATURE_DIM, KEY_MAP, L2_NORM, QUERY_MAP, RELU, RELU_SQUARED};
import constants::{SCALES_QUERIES, SIGMOID, SILU, SOFTMAX};
import map/stabiliser::{LOWEST, NO_SCALE, RowScale, is_feature, masked_features, row_gain};
import map/stabiliser::{row_measure, row_scale, sigmoid};
import rows::{load_k, load_q};

// A row of features, which are as many as the elements of q or k.
const FEATURE_VEC4: u32 = (FEATURE_DIM + 3u) / 4u;

@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;     // [T,E,FEATURE_VEC4]
// [T,max(H,E),FEATURE_VEC4 + 1], of which the last has the gain
@group(0) @binding(19) var<storage, read_write> queries: array<vec4<f32>>;

struct MapRow {
    is_key: bool,
    map: u32,
    begin: u32,          // its first access in `rows`
    inverse_norm: f32,   // 1 over the L2 norm, or 1
    largest: f32,        // SOFTMAX: the row max, and 1 over the sum of the exponentials
    inverse_sum: f32,
    scale: RowScale,
    gain: f32,           // the factor of the scale on the features
}

fn map_row(is_key: bool, begin: u32) -> MapRow {
    var row = MapRow(is_key, select(QUERY_MAP, KEY_MAP, is_key), begin, 1.0, 0.0, 1.0, NO_SCALE, 1.0);
    if (L2_NORM) {
        var sum = 0.0;
        for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
            let x = known(elements(row, f4), f4);
            sum += dot(x, x);
        }
        row.inverse_norm = 1.0 / sqrt(sum + 1e-6);
    }
    if (row.map == SOFTMAX) {
        var largest = vec4<f32>(LOWEST);
        for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
            largest = max(largest, select(vec4<f32>(LOWEST), elements(row, f4), is_feature(f4)));
        }
        row.largest = max(max(largest.x, largest.y), max(largest.z, largest.w));
        var sum = 0.0;
        for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
            sum += dot(known(exp(elements(row, f4) - row.largest), f4), vec4<f32>(1.0));
        }
        row.inverse_sum = 1.0 / sum;
    }
    if (SCALES_QUERIES && !is_key) {
        var largest = LOWEST;
        for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
            largest = max(largest, row_measure(row.map, unscaled(row, f4), f4));
        }
        row.scale = row_scale(row.map, largest);
        row.gain = row_gain(row.map, row.scale);
    }
    return row;
}

// Features 4 f4 .. + 3.
fn features_of(row: MapRow, f4: u32) -> vec4<f32> {
    return masked_features(row.map, unscaled(row, f4), f4, row.scale);
}

// The argument of which stabiliser's `activate` makes the features.
fn unscaled(row: MapRow, f4: u32) -> vec4<f32> {
    let x = elements(row, f4);
    if (row.map == SOFTMAX) { return exp(x - row.largest) * row.inverse_sum; }
    return x;
}

// The row, divided by its L2 norm where it is.
fn elements(row: MapRow, f4: u32) -> vec4<f32> {
    if (row.is_key) { return load_k(row.begin, f4) * row.inverse_norm; }
    return load_q(row.begin, f4) * row.inverse_norm;
}

// 0 beyond F.
fn known(x: vec4<f32>, f4: u32) -> vec4<f32> { return select(vec4<f32>(0.0), x, is_feature(f4)); }

// The derivatives of features by `elements`, of element-wise maps; the row's scale is a constant.
fn slopes(row: MapRow, f4: u32) -> vec4<f32> {
    let x = elements(row, f4);
    let s = row.scale;
    let zero = vec4<f32>(0.0);
    switch row.map {
        case RELU: { return select(zero, vec4<f32>(row.gain), x > zero); }
        case RELU_SQUARED: { return 2.0 * (max(x, zero) * s.scale) * s.scale; }
        case ELU: { return select(vec4<f32>(row.gain), exp(x - s.shift) * s.scale, x < zero); }
        case EXP: { return exp(x - s.shift); }
        case SIGMOID: { return sigmoid(x, s.shift) * sigmoid(-x, 0.0); }
        case SILU: { return s.scale * sigmoid(x, s.shift) * (1.0 + x * sigmoid(-x, 0.0)); }
        default: { return vec4<f32>(row.gain); }
    }
}
