// A row of q or of k on its way to features. All features of a row are one thread's. Two steps, as
// in map/stabiliser: `unscaled` is what is known of a feature before the row's scale is.

import constants::{DPFP, FAVOR, FAVOR_HYPERBOLIC, FEATURE_DIM, FEATURE_SCALE, FOURIER, HEDGEHOG};
import constants::{HEDGEHOG_JOINT, KEY_MAP, PRODUCT, QUERY_MAP, ROOT_SCALE, SCALES_QUERIES};
import constants::{SOFTMAX, T2R, TAYLOR};
import gradient/argument::{Elements, HAS_WEIGHTS, ROW_VEC4, RowIndex, elements, elements_of};
import gradient/argument::{is_element, normalised_elements, projection_row, projections, row_norms};
import gradient/argument::{weight_vec4};
import map/sine::{sin_quarters};
import map/stabiliser::{LOWEST, NO_SCALE, RowScale, is_feature, masked_features, row_gain};
import map/stabiliser::{row_measure, row_scale};
import params::{params};
import single_features::{feature, single_statistics};

// A row of features.
const FEATURE_VEC4: u32 = (FEATURE_DIM + 3u) / 4u;
// Those of the half of the features that follow from the same projections.
const HALF_VEC4: u32 = max(FEATURE_DIM / 8u, 1u);

@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;     // [T,E,FEATURE_VEC4]
// [T,max(H,E),FEATURE_VEC4 + 1], of which the last has the gain
@group(0) @binding(19) var<storage, read_write> queries: array<vec4<f32>>;

struct MapRow {
    map: u32,
    is_key: bool,
    at: u32,               // its row of `keys` or `queries`
    x: Elements,
    projections: u32,      // its first vec4 there
    half_norm: f32,        // FAVOR: half of the squared norm of x / K^(1/4)
    statistics: vec4<f32>, // of its softmaxes, the row max and 1 over the sum of the exponentials
    scale: RowScale,
    gain: f32,             // the factor of the scale on the features
}

fn map_row(index: RowIndex) -> MapRow {
    var row: MapRow;
    row.map = select(QUERY_MAP, KEY_MAP, index.is_key);
    row.is_key = index.is_key;
    row.at = index.t * select(params.output_heads, params.value_heads, index.is_key) + index.head;
    if (HAS_WEIGHTS) {
        let norms = row_norms(index);
        row.x = elements_of(index, norms.x);
        row.projections = projection_row(index);
        row.half_norm = norms.y;
    } else {
        row.x = normalised_elements(index);
    }
    switch row.map {
        case SOFTMAX: {
            let largest = largest_of(row, 1.0);
            row.statistics.x = largest;
            row.statistics.y = 1.0 / sum_of(row, 1.0, largest);
        }
        default: { row.statistics = single_statistics(row); }
    }
    row.scale = NO_SCALE;
    row.gain = 1.0;
    if (SCALES_QUERIES && !row.is_key) {
        var largest = LOWEST;
        for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
            largest = max(largest, row_measure(row.map, unscaled(row, f4), f4));
        }
        row.scale = row_scale(row.map, largest);
        row.gain = row_gain(row.map, row.scale);
    }
    return row;
}

fn largest_of(row: MapRow, factor: f32) -> f32 {
    var largest = vec4<f32>(LOWEST);
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
        let x = select(vec4<f32>(LOWEST), factor * argument(row, x4), is_element(x4));
        largest = max(largest, x);
    }
    return max(max(largest.x, largest.y), max(largest.z, largest.w));
}

// Of the exponentials of `factor` times the argument, the row max subtracted.
fn sum_of(row: MapRow, factor: f32, largest: f32) -> f32 {
    var sum = 0.0;
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
        let e = exp(factor * argument(row, x4) - largest);
        sum += dot(select(vec4<f32>(0.0), e, is_element(x4)), vec4<f32>(1.0));
    }
    return sum;
}

// vec4 a4 of what the map takes, 0 beyond its end.
fn argument(row: MapRow, a4: u32) -> vec4<f32> {
    if (weight_vec4(row.is_key) > 0u) { return projections[row.projections + a4]; }
    return elements(row.x, a4);
}

fn argument_at(row: MapRow, i: u32) -> f32 { return argument(row, i / 4u)[i % 4u]; }

// Features 4 f4 .. + 3.
fn features_of(row: MapRow, f4: u32) -> vec4<f32> {
    return masked_features(row.map, unscaled(row, f4), f4, row.scale);
}

// The argument of which stabiliser's `activate` makes the features.
fn unscaled(row: MapRow, f4: u32) -> vec4<f32> {
    switch row.map {
        case SOFTMAX: { return exp(argument(row, f4) - row.statistics.x) * row.statistics.y; }
        case T2R: { return max(argument(row, f4), vec4<f32>(0.0)); }
        case PRODUCT: { return argument(row, f4) * argument(row, f4 + FEATURE_VEC4); }
        case FAVOR: { return argument(row, f4) * ROOT_SCALE - row.half_norm; }
        case FAVOR_HYPERBOLIC: {
            let y = select(-1.0, 1.0, f4 < HALF_VEC4) * argument(row, f4 % HALF_VEC4);
            return y * ROOT_SCALE - row.half_norm;
        }
        case FOURIER: {
            let y = argument(row, f4 % HALF_VEC4) * ROOT_SCALE;
            return 1.41421356 * FEATURE_SCALE * sin_quarters(y, select(0, 1, f4 < HALF_VEC4));
        }
        case HEDGEHOG, HEDGEHOG_JOINT, TAYLOR, DPFP: {
            var features = vec4<f32>(0.0);
            for (var i = 0u; i < 4u; i++) { features[i] = feature(row, min(4u * f4 + i, FEATURE_DIM - 1u)); }
            return features;
        }
        default: { return argument(row, f4); }
    }
}

// 0 beyond F.
fn known(x: vec4<f32>, f4: u32) -> vec4<f32> { return select(vec4<f32>(0.0), x, is_feature(f4)); }
