// Powers of two between f32 and the factors of matrix units in f16, which end at 65,504 and lose
// digits below 2^-14. Each array of factors is multiplied by the power that brings its largest
// element to 2^14 .. 2^15, so that no factor is infinite, and what is below 2^-28 of the largest
// alone loses digits. Products are brought back in f32. Both multiplications are exact.

// Bits whose order is that of |x|.
fn magnitude_bits(x: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(x) & vec4<u32>(0x7FFFFFFFu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}

// The power for an array whose largest magnitude has these bits; 2^126 where all are 0.
fn half_scale(largest: u32) -> f32 { return bitcast<f32>((268u - half_exponent(largest)) << 23u); }

// One over it.
fn half_inverse(largest: u32) -> f32 { return bitcast<f32>((half_exponent(largest) - 14u) << 23u); }

// Both powers are normal numbers.
fn half_exponent(largest: u32) -> u32 { return clamp(largest >> 23u, 15u, 254u); }

// Bits of values that all threads find and read. What is in workgroup memory has 16 bytes or a
// multiple, so that what lies behind it begins at one.
var<workgroup> maxima: array<atomic<u32>, 4>;
const STATE_MAX: u32 = 0u;      // the largest element of S
const STATE_BOUND: u32 = 1u;    // a bound of it, by which S is scaled
const REACH_MAX: u32 = 2u;      // the largest k'^T v of a chunk in the state
const CORRECTED_MAX: u32 = 3u;  // the largest corrected value of a chunk
