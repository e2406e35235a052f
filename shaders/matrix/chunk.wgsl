// The keys and values of a chunk of MATRIX tokens as factors of matrix units. What is beyond the chunk's
// tokens, and beyond F, is 0.
//
// A key is multiplied by a power of two of its own, and its value, where both enter the state, by the
// inverse of it and by what decays until the chunk ends: k'^T v = (c k')^T (v / c).
//
// memory  f16: MATRIX F keys and, where there are any, queries; MATRIX columns values; a few floats a token

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, FACTOR_SETS, FEATURE_LOADS, HAS_BETA, HAS_DECAY, HAS_VALUES};
import constants::{KEY_MAP, MATRIX, THREADS};
import chunk_values::{values_inverse};
import heads::{gate_row, key_begin, value_begin};
import key_status::{check_key};
import map/stabiliser::{NO_SCALE, masked_features};
import matrix/scale::{half_inverse, half_scale, magnitude_bits};
import rows::{load_k, load_v};
import token_decay::{token_decay};
import work_item::{Chunk, WorkItem};

const FEATURES: u32 = 4u * BLOCK_VEC4;
const COLUMNS: u32 = 4u * BLOCK_COLUMNS_VEC4;
const KEYS_LEN: u32 = MATRIX * FEATURES;
const VALUES_LEN: u32 = MATRIX * COLUMNS;
const FACTORS_LEN: u32 = FACTOR_SETS * KEYS_LEN;

// The first element of each in `factors`.
const KEYS: u32 = 0u;
const QUERIES: u32 = KEYS_LEN;

var<workgroup> factors: array<f16, FACTORS_LEN>;       // keys, then queries: [tokens, F] of each
var<workgroup> values: array<f16, VALUES_LEN>;         // [tokens, columns]
var<workgroup> key_max: array<atomic<u32>, MATRIX>;    // bits of the largest feature of each key
var<workgroup> value_max: array<atomic<u32>, MATRIX>;  // of each value
var<workgroup> decays: array<f32, MATRIX>;             // exp(decay) - 1 of each token
var<workgroup> weights: array<f32, MATRIX>;            // of each value in the state
var<workgroup> reach: array<f32, MATRIX>;              // the largest of each k'^T v in the state

// The product of the decays of tokens first .. end, less 1, which keeps the digits of those near 0:
// (1 + m) (1 + m') = 1 + m + m' (1 + m). What forgets everything leaves nothing for rounding.
fn decay_between(first: u32, end: u32) -> f32 {
    var total = 0.0;
    if (!HAS_DECAY) { return total; }
    for (var i = first; i < end; i++) {
        let m = decays[i];
        total = select(total + m * (1.0 + total), -1.0, m == -1.0);
    }
    return total;
}

fn load_tokens(item: WorkItem, chunk: Chunk, thread: u32) {
    // The chunk before has been read.
    workgroupBarrier();
    for (var i = thread; i < MATRIX; i += THREADS) {
        atomicStore(&key_max[i], 0u);
        atomicStore(&value_max[i], 0u);
        decays[i] = 0.0;
        if (i < chunk.tokens) { decays[i] = token_decay(gate_row(chunk.first + i, item.head)); }
    }
    workgroupBarrier();
    var x: array<vec4<f32>, FEATURE_LOADS>;
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        let f4 = (thread + n * THREADS) % BLOCK_VEC4;
        if (row < chunk.tokens) {
            x[n] = masked_features(KEY_MAP, load_k(key_begin(chunk.first + row, item.head), f4), f4, NO_SCALE);
            check_key(item, chunk.first + row, x[n]);
            atomicMax(&key_max[row], magnitude_bits(x[n]));
        }
    }
    for (var i = thread; i < MATRIX * BLOCK_COLUMNS_VEC4; i += THREADS) {
        let row = i / BLOCK_COLUMNS_VEC4;
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        var v = vec4<f32>(0.0);
        if (HAS_VALUES && row < chunk.tokens) {
            v = load_v(value_begin(chunk.first + row, item.head), c4);
            // Corrected values have others.
            if (!HAS_BETA) { atomicMax(&value_max[row], magnitude_bits(v)); }
        }
        for (var c = 0u; c < 4u; c++) { values[4u * i + c] = f16(v[c]); }
    }
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let i = thread + n * THREADS;
        if (i < MATRIX * BLOCK_VEC4) {
            let scaled = x[n] * half_scale(atomicLoad(&key_max[i / BLOCK_VEC4]));
            for (var f = 0u; f < 4u; f++) { factors[4u * i + f] = f16(scaled[f]); }
        }
    }
    workgroupBarrier();
}

// The weights of all tokens in the state.
fn weigh_tokens(chunk: Chunk, thread: u32) {
    for (var i = thread; i < MATRIX; i += THREADS) {
        let kept = 1.0 + decay_between(i + 1u, chunk.tokens);
        let weight = kept * half_inverse(atomicLoad(&key_max[i]));
        weights[i] = weight;
        // No scaled feature is above 2^15.
        reach[i] = 32768.0 * abs(weight) * bitcast<f32>(atomicLoad(&value_max[i]));
    }
    workgroupBarrier();
}

// The values as they enter the state, in the place of those that queries read.
fn weigh_values(thread: u32) {
    let scale = half_scale(weighted_max());
    for (var i = thread; i < VALUES_LEN; i += THREADS) {
        // A value of 0 times both, which may be infinite together, would be NaN.
        values[i] = f16(f32(values[i]) * values_inverse() * weights[i / COLUMNS] * scale);
    }
    workgroupBarrier();
}

// Bits of the largest weighted value.
fn weighted_max() -> u32 {
    var largest = 0.0;
    for (var i = 0u; i < MATRIX; i++) { largest = max(largest, reach[i]); }
    return bitcast<u32>(largest / 32768.0);
}

// A bound of the elements that a chunk adds to the state.
fn chunk_reach() -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < MATRIX; i++) { sum += reach[i]; }
    return sum;
}
