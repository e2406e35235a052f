// f16 and bf16, two to a word, the first in its lower half; by bit operations alone, so that no
// feature of the device is needed and every value, subnormal ones too, is the same everywhere.

import constants::{IS_BF16};

fn unpack_pair(word: u32) -> vec2<f32> {
    return vec2<f32>(half_value(word & 0xFFFFu), half_value(word >> 16u));
}

fn pack_pair(x: vec2<f32>) -> u32 {
    return half_bits(x.x) | (half_bits(x.y) << 16u);
}

fn half_value(bits: u32) -> f32 {
    // bf16 is the upper half of an f32.
    if (IS_BF16) { return bitcast<f32>(bits << 16u); }
    let sign = (bits & 0x8000u) << 16u;
    let exponent = (bits >> 10u) & 31u;
    let fraction = bits & 0x3FFu;
    // The exponent's bias is 15 here and 127 there; all ones stays all ones.
    let biased = select(exponent + 112u, 255u, exponent == 31u);
    let normal = bitcast<f32>(sign | (biased << 23u) | (fraction << 13u));
    // Below the smallest normal value the fraction counts 2^-24s.
    let subnormal = f32(fraction) * select(5.9604644775390625e-8, -5.9604644775390625e-8, sign != 0u);
    return select(normal, subnormal, exponent == 0u);
}

// To the nearest, ties to even; what is too large becomes infinite.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let magnitude = bits & 0x7FFFFFFFu;
    let sign = (bits >> 16u) & 0x8000u;
    let is_nan = magnitude > 0x7F800000u;
    if (IS_BF16) {
        let rounded = (bits + 0x7FFFu + ((bits >> 16u) & 1u)) >> 16u;
        return select(rounded, sign | 0x7FC0u, is_nan);
    }
    // A normal value: the exponent's bias goes from 127 to 15, then 13 bits of the fraction go. A
    // carry out of the fraction raises the exponent, as it should.
    let normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13u) & 1u)) >> 13u;
    // Below 2^-14 the result counts 2^-24s: the fraction with its leading one, moved right.
    let shift = clamp(126u - min(magnitude >> 23u, 125u), 1u, 31u);
    let fraction = (magnitude & 0x7FFFFFu) | 0x800000u;
    let whole = fraction >> shift;
    let rest = fraction & ((1u << shift) - 1u);
    let tie = 1u << (shift - 1u);
    let subnormal = whole + select(0u, 1u, rest > tie || (rest == tie && (whole & 1u) == 1u));
    var half = select(subnormal, normal, magnitude >= 0x38800000u);
    // From 65520 on, the nearest is infinite.
    half = select(half, 0x7C00u, magnitude >= 0x477FF000u);
    half = select(half, 0x7E00u, is_nan);
    return sign | half;
}
