// The row scale of queries. In the quotient a factor common to all features of a query cancels, so
// where o is normalised a query is mapped to features whose largest is near 1: then no square and
// no exponential leaves the range of f32 on the way. Exponentials have the row max subtracted
// before exp, everything else is multiplied by a power of two, which is exact. Where o is not
// normalised, only EXP has a scale, and the row of o takes it back. A key has no scale: its factor
// is a weight against other keys.
//
// A map is applied in two steps: `x` is what is known of a feature before the row max is, the
// element itself or a projection, and `activate` makes the feature of it.

import constants::{ELU, EXP, FAVOR, FAVOR_HYPERBOLIC, FEATURE_DIM, FEATURE_SCALE};
import constants::{NORMALIZE, RELU, RELU_SQUARED, SIGMOID, SILU};

struct RowScale {
    shift: f32,  // subtracted before exp
    scale: f32,  // a power of two
}

const NO_SCALE: RowScale = RowScale(0.0, 1.0);
const LOWEST: f32 = -3.4e38;

// The largest of four x of a row, for row_scale.
fn row_measure(map: u32, x: vec4<f32>, f4: u32) -> f32 {
    var measure = abs(x);
    switch map {
        case RELU, RELU_SQUARED, ELU, EXP, SILU, SIGMOID, FAVOR, FAVOR_HYPERBOLIC: { measure = x; }
        default: {}
    }
    let known = select(vec4<f32>(LOWEST), measure, is_feature(f4));
    return max(max(known.x, known.y), max(known.z, known.w));
}

// The scale of a row whose largest measure is given.
fn row_scale(map: u32, largest: f32) -> RowScale {
    switch map {
        case FAVOR, FAVOR_HYPERBOLIC: { return RowScale(largest, 1.0); }
        // Without a quotient that cancels it, the gain itself must be in range.
        case EXP: { return RowScale(select(clamp(largest, -80.0, 80.0), largest, NORMALIZE), 1.0); }
        case SIGMOID: { return RowScale(min(largest, 0.0), 1.0); }
        case ELU: { return RowScale(min(largest, 0.0), inverse_power_of_two(max(largest, 0.0) + 1.0)); }
        case SILU: { return RowScale(min(largest, 0.0), inverse_power_of_two(max(abs(largest), 1.0))); }
        default: { return RowScale(0.0, inverse_power_of_two(largest)); }
    }
}

// The factor that a scale puts on the features.
fn row_gain(map: u32, s: RowScale) -> f32 {
    switch map {
        case RELU_SQUARED: { return s.scale * s.scale; }
        default: { return s.scale * exp(-s.shift); }
    }
}

// The factor between features of one scale and of another, which has no smaller shift and no larger
// scale.
fn rescaling(map: u32, before: RowScale, after: RowScale) -> f32 {
    let ratio = after.scale / before.scale;
    return exp(before.shift - after.shift) * select(ratio, ratio * ratio, map == RELU_SQUARED);
}

// 2^-n for x from 2^n to 2^(n+1); where x is 0 or less, all features are 0 and take any scale, so
// that it is the largest: blocks of the same row may have others.
fn inverse_power_of_two(x: f32) -> f32 {
    if (x <= 0.0) { return 8.507059e37; }
    let exponent = clamp(bitcast<u32>(x) >> 23u, 1u, 253u);
    return bitcast<f32>((254u - exponent) << 23u);
}

// Features from x. Of the two terms of elu + 1 one is always exact, exp(0) = 1 or 0, so that
// nothing cancels as it does in expm1(x) + 1.
fn activate(map: u32, x: vec4<f32>, s: RowScale) -> vec4<f32> {
    let zero = vec4<f32>(0.0);
    switch map {
        case RELU: { return max(x, zero) * s.scale; }
        case RELU_SQUARED: {
            let y = max(x, zero) * s.scale;
            return y * y;
        }
        case ELU: { return exp(min(x, zero) - s.shift) * s.scale + max(x, zero) * s.scale; }
        case EXP: { return exp(x - s.shift); }
        case SIGMOID: { return sigmoid(x, s.shift); }
        case SILU: { return (x * s.scale) * sigmoid(x, s.shift); }
        case FAVOR, FAVOR_HYPERBOLIC: { return FEATURE_SCALE * exp(x - s.shift); }
        default: { return x * s.scale; }
    }
}

// e^(x - shift) / (1 + e^x), where shift is the row max if that is negative and else 0.
fn sigmoid(x: vec4<f32>, shift: f32) -> vec4<f32> {
    let e = exp(-abs(x));
    return select(exp(x - shift), vec4<f32>(1.0), x >= vec4<f32>(0.0)) / (1.0 + e);
}

// The same where phi(0) need not be 0: what lies beyond F is masked after the map.
fn masked_features(map: u32, x: vec4<f32>, f4: u32, s: RowScale) -> vec4<f32> {
    return select(vec4<f32>(0.0), activate(map, x, s), is_feature(f4));
}

fn is_feature(f4: u32) -> vec4<bool> {
    return vec4<u32>(4u * f4) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(FEATURE_DIM);
}
