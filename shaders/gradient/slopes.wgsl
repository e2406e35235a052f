// From gradients by the features of a row to those by its map's argument a, with d the gradients by
// the features phi and the row's scale a constant:
//
//     phi'(a) d                                element-wise maps, T2R
//     phi (d - phi . d)                        the softmax of a row; HEDGEHOG that of a less that of -a
//     a_2 d, a_1 d                             PRODUCT
//     phi d K^(-1/4)                           FAVOR, and - x (phi . d) K^(-1/2) by x besides
//     (cos d_sin - sin d_cos) K^(-1/4)         FOURIER
//     sums over the products that a is in      TAYLOR, DPFP

import constants::{DPFP, ELU, EXP, FAVOR, FAVOR_HYPERBOLIC, FOURIER, HEDGEHOG, HEDGEHOG_JOINT, PRODUCT};
import constants::{RELU, RELU_SQUARED, ROOT_SCALE, SIGMOID, SILU, SOFTMAX, T2R, TAYLOR};
import gradient/map::{FEATURE_VEC4, HALF_VEC4, MapRow, argument, features_of, keys, known, queries};
import gradient/map::{unscaled};
import map/stabiliser::{sigmoid};
import single_slopes::{by_element, single_sums};

struct RowGradients {
    heads: u32,        // rows of `keys` or `queries` that are added up
    is_zero: bool,     // nothing depends on the row, or it is padding, whatever it holds
    sums: vec2<f32>,   // phi . d, of HEDGEHOG apart for the two softmaxes
}

// Of `heads` heads from the row's own on, all of which have its features.
fn row_gradients(row: MapRow, heads: u32) -> RowGradients {
    var by = RowGradients(heads, true, vec2<f32>(0.0));
    for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
        let d = of_features(row, by, f4);
        by.is_zero = by.is_zero && all(d == vec4<f32>(0.0));
        switch row.map {
            case SOFTMAX: { by.sums.x += dot(known(unscaled(row, f4), f4), d); }
            case FAVOR, FAVOR_HYPERBOLIC: { by.sums.x += dot(features_of(row, f4), d); }
            default: {}
        }
    }
    by.sums += single_sums(row, by);
    return by;
}

// d, features 4 f4 .. + 3.
fn of_features(row: MapRow, by: RowGradients, f4: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var at = row.at; at < row.at + by.heads; at++) {
        if (row.is_key) {
            sum += keys[at * FEATURE_VEC4 + f4];
        } else {
            sum += queries[at * (FEATURE_VEC4 + 1u) + f4];
        }
    }
    return known(sum, f4);
}

fn of_feature(row: MapRow, by: RowGradients, f: u32) -> f32 { return of_features(row, by, f / 4u)[f % 4u]; }

// By vec4 a4 of the argument.
fn by_argument(row: MapRow, by: RowGradients, a4: u32) -> vec4<f32> {
    if (by.is_zero) { return vec4<f32>(0.0); }
    switch row.map {
        case SOFTMAX: {
            return row.gain * known(unscaled(row, a4) * (of_features(row, by, a4) - by.sums.x), a4);
        }
        case PRODUCT: {
            let other = select(a4 - FEATURE_VEC4, a4 + FEATURE_VEC4, a4 < FEATURE_VEC4);
            return row.gain * argument(row, other) * of_features(row, by, a4 % FEATURE_VEC4);
        }
        case FAVOR: { return ROOT_SCALE * features_of(row, a4) * of_features(row, by, a4); }
        case FAVOR_HYPERBOLIC: {
            let negative = features_of(row, a4 + HALF_VEC4) * of_features(row, by, a4 + HALF_VEC4);
            return ROOT_SCALE * (features_of(row, a4) * of_features(row, by, a4) - negative);
        }
        case FOURIER: {
            let of_sine = of_features(row, by, a4 + HALF_VEC4);
            let sine = features_of(row, a4 + HALF_VEC4);
            return ROOT_SCALE * (features_of(row, a4) * of_sine - sine * of_features(row, by, a4));
        }
        case HEDGEHOG, HEDGEHOG_JOINT, TAYLOR, DPFP: {
            var da = vec4<f32>(0.0);
            for (var i = 0u; i < 4u; i++) { da[i] = by_element(row, by, 4u * a4 + i); }
            return row.gain * da;
        }
        default: { return known(slopes(row, a4) * of_features(row, by, a4), a4); }
    }
}

// The derivatives of features by the argument, of element-wise maps; the row's scale is a constant.
fn slopes(row: MapRow, f4: u32) -> vec4<f32> {
    let x = argument(row, f4);
    let s = row.scale;
    let zero = vec4<f32>(0.0);
    switch row.map {
        case RELU, T2R: { return select(zero, vec4<f32>(row.gain), x > zero); }
        case RELU_SQUARED: { return 2.0 * (max(x, zero) * s.scale) * s.scale; }
        case ELU: { return select(vec4<f32>(row.gain), exp(x - s.shift) * s.scale, x < zero); }
        case EXP: { return exp(x - s.shift); }
        case SIGMOID: { return sigmoid(x, s.shift) * sigmoid(-x, 0.0); }
        case SILU: { return s.scale * sigmoid(x, s.shift) * (1.0 + x * sigmoid(-x, 0.0)); }
        default: { return vec4<f32>(row.gain); }
    }
}
