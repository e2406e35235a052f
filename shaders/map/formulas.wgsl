// The formulas of the row-wise feature maps: what all features of a row share, and what is known of
// a feature before its row's scale. x is the row, y its projections; the table with the sources is
// in the documentation of FeatureMap.

import constants::{CUSTOM, DPFP, FAVOR, FAVOR_HYPERBOLIC, FEATURE_DIM, FEATURE_SCALE, FOURIER, HEDGEHOG};
import constants::{HEDGEHOG_JOINT, KEY_DIM, PRODUCT, ROOT_SCALE, SOFTMAX, T2R, TAYLOR};
import custom_map::{phi};
import map/pairs::{pair_at};
import map/row::{ROW_VEC4, Row, mask_elements, project, row_chunk, statistics, x, x_vec4, y, y_vec4};
import map/sine::{sin_quarters};
import map/stabiliser::{LOWEST};

// SOFTMAX: the row max, and 1 over the sum of the exponentials. HEDGEHOG: the same of y and of -y;
// HEDGEHOG_JOINT: of [2 y, -2 y]. FAVOR: half of the squared L2 norm of x / K^(1/4).
fn row_statistics(map: u32, row: Row) -> vec4<f32> {
    switch map {
        case SOFTMAX: {
            var largest = vec4<f32>(LOWEST);
            for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
                largest = max(largest, mask_elements(x_vec4(row, x4), x4, LOWEST));
            }
            let row_max = max_of(largest);
            var sum = 0.0;
            for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
                sum += sum_of(mask_elements(exp(x_vec4(row, x4) - row_max), x4, 0.0));
            }
            return vec4<f32>(row_max, 1.0 / sum, 0.0, 0.0);
        }
        case HEDGEHOG, HEDGEHOG_JOINT: {
            var largest = vec4<f32>(LOWEST);
            var smallest = vec4<f32>(-LOWEST);
            for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
                largest = max(largest, mask_elements(y_vec4(row, x4), x4, LOWEST));
                smallest = min(smallest, mask_elements(y_vec4(row, x4), x4, -LOWEST));
            }
            var high = max_of(largest);
            var low = -max_of(-smallest);
            var scale = 1.0;
            if (map == HEDGEHOG_JOINT) {
                high = max(high, -low);
                low = -high;
                scale = 2.0;
            }
            var sums = vec2<f32>(0.0);
            for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
                let y = y_vec4(row, x4);
                sums.x += sum_of(mask_elements(exp(scale * (y - high)), x4, 0.0));
                sums.y += sum_of(mask_elements(exp(scale * (low - y)), x4, 0.0));
            }
            if (map == HEDGEHOG_JOINT) { sums = vec2<f32>(sums.x + sums.y); }
            return vec4<f32>(high, 1.0 / sums.x, low, 1.0 / sums.y);
        }
        case FAVOR, FAVOR_HYPERBOLIC: {
            return vec4<f32>(0.5 * squared_norm(row) * ROOT_SCALE * ROOT_SCALE);
        }
        default: { return vec4<f32>(0.0); }
    }
}

// Divides a row by its L2 norm, with flash-linear-attention's eps.
fn normalise_row(row: Row) {
    let norm = sqrt(squared_norm(row) + 1e-6);
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) { row_chunk[row.at * ROW_VEC4 + x4] = x_vec4(row, x4) / norm; }
}

fn squared_norm(row: Row) -> f32 {
    var sum = 0.0;
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) { sum += dot(x_vec4(row, x4), x_vec4(row, x4)); }
    return sum;
}

fn max_of(x: vec4<f32>) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }
fn sum_of(x: vec4<f32>) -> f32 { return x.x + x.y + x.z + x.w; }

// Features 4 f4 .. + 3 of a row, before stabiliser's `activate`.
fn pre_features(map: u32, row: Row, f4: u32) -> vec4<f32> {
    switch map {
        case SOFTMAX: { return exp(x_vec4(row, f4) - statistics[row.at].x) * statistics[row.at].y; }
        case T2R: { return max(project(row, f4), vec4<f32>(0.0)); }
        case PRODUCT: { return project(row, f4) * project(row, f4 + (FEATURE_DIM + 3u) / 4u); }
        case FAVOR: { return project(row, f4) * ROOT_SCALE - statistics[row.at].x; }
        case FAVOR_HYPERBOLIC: {
            let sign = select(-1.0, 1.0, 8u * f4 < FEATURE_DIM);
            let y = sign * project(row, f4 % max(FEATURE_DIM / 8u, 1u));
            return y * ROOT_SCALE - statistics[row.at].x;
        }
        case FOURIER: {
            let y = project(row, f4 % max(FEATURE_DIM / 8u, 1u)) * ROOT_SCALE;
            return 1.41421356 * FEATURE_SCALE * sin_quarters(y, select(0, 1, 8u * f4 < FEATURE_DIM));
        }
        case HEDGEHOG, HEDGEHOG_JOINT, TAYLOR, DPFP, CUSTOM: {
            let f = min(vec4<u32>(4u * f4) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(FEATURE_DIM - 1u));
            return vec4<f32>(feature(map, row, f.x), feature(map, row, f.y), feature(map, row, f.z),
                feature(map, row, f.w));
        }
        default: { return x_vec4(row, f4); }
    }
}

// Feature f of a row, of maps whose features do not come in vec4s.
fn feature(map: u32, row: Row, f: u32) -> f32 {
    switch map {
        case HEDGEHOG, HEDGEHOG_JOINT: {
            let scale = select(1.0, 2.0, map == HEDGEHOG_JOINT);
            let s = statistics[row.at];
            if (f < KEY_DIM) { return exp(scale * (y(row, f) - s.x)) * s.y; }
            return exp(scale * (s.z - y(row, f - KEY_DIM))) * s.w;
        }
        case TAYLOR: { return taylor(row, f); }
        case DPFP: {
            let i = f % (2u * KEY_DIM);
            let j = f / (2u * KEY_DIM) + 1u;
            return rectified(row, i) * rectified(row, (i + 2u * KEY_DIM - j) % (2u * KEY_DIM));
        }
        default: { return phi(row, f); }
    }
}

// [max(x, 0), max(-x, 0)]
fn rectified(row: Row, i: u32) -> f32 {
    if (i < KEY_DIM) { return max(x(row, i), 0.0); }
    return max(-x(row, i - KEY_DIM), 0.0);
}

// [1, x, x_i^2 / 2^(1/2), x_i x_j for i < j] of x / K^(1/4)
fn taylor(row: Row, f: u32) -> f32 {
    if (f == 0u) { return 1.0; }
    if (f <= KEY_DIM) { return x(row, f - 1u) * ROOT_SCALE; }
    let one = ROOT_SCALE * ROOT_SCALE;
    if (f <= 2u * KEY_DIM) {
        let square = x(row, f - 1u - KEY_DIM) * x(row, f - 1u - KEY_DIM);
        return square * one * 0.70710678;
    }
    let pair = pair_at(f - 1u - 2u * KEY_DIM);
    return x(row, pair.x) * x(row, pair.y) * one;
}
