// The keys and values of a chunk of MATRIX tokens as factors of matrix units. What is beyond the
// chunk's tokens, and beyond F, is 0.
//
// Factors lie in tiles of MATRIX x MATRIX, in which those that one product adds up are neighbours:
// a thread loads 16 bytes of a row or column at a time. So the tokens of a value are neighbours,
// and so are the features of a key, until it enters the state.
//
// A key is multiplied by a power of two of its own, and its value, where both enter the state, by
// the inverse of it and by what decays until the chunk ends: k'^T v = (c k')^T (v / c). A value
// that f16 may not have as it is has a power of its own, too: those in bf16, and those of delta
// rules.
//
// memory  f16: MATRIX F keys and, where there are any, queries; MATRIX columns values; a few floats a token,
//         and with decays a float for each pair of tokens

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, FACTOR_SETS, FEATURE_LOADS, HAS_BETA, HAS_DECAY, HAS_VALUES};
import constants::{IS_BF16, KEY_MAP, MATRIX, MATRIX_VEC4, PAIRS, THREADS, VALUE_LOADS};
import heads::{gate_row, key_begin, value_begin};
import key_status::{check_key};
import map/stabiliser::{NO_SCALE, masked_features};
import matrix/norms::{Loads, divide_by_norms};
import matrix/scale::{REACH_MAX, half_inverse, half_scale, magnitude_bits, maxima};
import rows::{load_k, load_v};
import token_decay::{token_decay};
import work_item::{Chunk, WorkItem};

const PAIRS_VEC4: u32 = PAIRS / 4u;
const FEATURES: u32 = 4u * BLOCK_VEC4;
const COLUMNS: u32 = 4u * BLOCK_COLUMNS_VEC4;
const KEYS_LEN: u32 = MATRIX * FEATURES;
const VALUES_LEN: u32 = MATRIX * COLUMNS;
const FACTORS_LEN: u32 = FACTOR_SETS * KEYS_LEN;
// True where threads share them evenly.
const EVEN_KEYS: bool = KEYS_LEN / 4u % THREADS == 0u;
const EVEN_VALUES: bool = VALUES_LEN / 4u % THREADS == 0u;
const KEPT_LEN: u32 = select(4u, MATRIX * (MATRIX + 1u), HAS_DECAY);

// The first element of each in `factors`.
const KEYS: u32 = 0u;
const QUERIES: u32 = KEYS_LEN;

var<workgroup> factors: array<f16, FACTORS_LEN>;       // keys, then queries: [F/MATRIX, tokens, MATRIX] of each
var<workgroup> values: array<f16, VALUES_LEN>;         // [columns, tokens]
var<workgroup> key_max: array<atomic<u32>, MATRIX>;    // bits of the largest feature of each key
var<workgroup> value_max: array<atomic<u32>, MATRIX>;  // of each value, or of all
var<workgroup> key_inverses: array<f32, MATRIX>;       // what brings back each key
var<workgroup> decays: array<f32, MATRIX>;             // exp(decay) - 1 of each token
var<workgroup> weights: array<f32, MATRIX>;            // of each value in the state
var<workgroup> kept: array<f32, KEPT_LEN>;             // see kept_between

// The product of the decays of tokens first .. end, of a chunk whose decays are multiplied.
fn kept_between(first: u32, end: u32) -> f32 {
    if (!HAS_DECAY || first >= end) { return 1.0; }
    return kept[(end - 1u) * (MATRIX + 1u) + first];
}

// That of all, less 1.
fn chunk_decay() -> f32 {
    if (!HAS_DECAY) { return 0.0; }
    return kept[KEPT_LEN - 1u];
}

// No chunk yet.
fn clear_decays(thread: u32) {
    if (HAS_DECAY && thread == 0u) { kept[KEPT_LEN - 1u] = 0.0; }
}

// Each thread goes through the tokens from one on. A product less 1 keeps the digits of decays near
// 0: (1 + m) (1 + m') = 1 + m + m' (1 + m). What forgets everything leaves nothing for rounding.
fn multiply_decays(thread: u32) {
    if (!HAS_DECAY || thread >= MATRIX) { return; }
    var total = 0.0;
    @unroll
    for (var i = 0u; i < MATRIX; i++) {
        let m = decays[i];
        let next = select(total + m * (1.0 + total), -1.0, m == -1.0);
        total = select(total, next, i >= thread);
        kept[i * (MATRIX + 1u) + thread] = 1.0 + total;
    }
    if (thread == 0u) { kept[KEPT_LEN - 1u] = total; }
}

// A fourth of the index of features 4 f4 .. + 3 of a row.
fn factor_index(row: u32, f4: u32) -> u32 {
    return f4 / MATRIX_VEC4 * PAIRS_VEC4 + row * MATRIX_VEC4 + f4 % MATRIX_VEC4;
}

fn load_tokens(item: WorkItem, chunk: Chunk, thread: u32) {
    // The chunk before has been read.
    workgroupBarrier();
    if (thread < MATRIX) {
        atomicStore(&key_max[thread], 0u);
        atomicStore(&value_max[thread], 0u);
        decays[thread] = 0.0;
        if (thread < chunk.tokens) { decays[thread] = token_decay(gate_row(chunk.first + thread, item.head)); }
    }
    if (thread == 0u) { atomicStore(&maxima[REACH_MAX], 0u); }
    workgroupBarrier();
    var x: Loads;
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        let f4 = (thread + n * THREADS) % BLOCK_VEC4;
        if (row < chunk.tokens) { x[n] = load_k(key_begin(chunk.first + row, item.key_head), f4); }
    }
    divide_by_norms(&x, chunk.tokens, thread);
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        let f4 = (thread + n * THREADS) % BLOCK_VEC4;
        if (row < chunk.tokens) {
            x[n] = masked_features(KEY_MAP, x[n], f4, NO_SCALE);
            check_key(item, chunk.first + row, x[n]);
            atomicMax(&key_max[row], magnitude_bits(x[n]));
        }
    }
    // Neighbouring threads have neighbouring tokens, whose values are neighbours.
    var v: array<vec4<f32>, VALUE_LOADS>;
    @unroll
    for (var n = 0u; n < VALUE_LOADS; n++) {
        let row = (thread + n * THREADS) % MATRIX;
        let c4 = (thread + n * THREADS) / MATRIX;
        if (HAS_VALUES && row < chunk.tokens) {
            let begin = value_begin(chunk.first + row, item.head);
            v[n] = load_v(begin, item.value_block * BLOCK_COLUMNS_VEC4 + c4);
            if (IS_BF16 || !HAS_BETA) { atomicMax(&value_max[row], magnitude_bits(v[n])); }
        }
    }
    multiply_decays(thread);
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < VALUE_LOADS; n++) {
        let row = (thread + n * THREADS) % MATRIX;
        let c4 = (thread + n * THREADS) / MATRIX;
        if (EVEN_VALUES || c4 < BLOCK_COLUMNS_VEC4) {
            if (IS_BF16) { v[n] *= half_scale(atomicLoad(&value_max[row])); }
            @unroll
            for (var c = 0u; c < 4u; c++) { values[(4u * c4 + c) * MATRIX + row] = f16(v[n][c]); }
        }
    }
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let i = thread + n * THREADS;
        if (EVEN_KEYS || i < KEYS_LEN / 4u) {
            let row = i / BLOCK_VEC4;
            let at = factor_index(row, i % BLOCK_VEC4);
            let scaled = x[n] * half_scale(atomicLoad(&key_max[row]));
            @unroll
            for (var f = 0u; f < 4u; f++) { factors[KEYS + 4u * at + f] = f16(scaled[f]); }
        }
    }
    if (thread < MATRIX) { key_inverses[thread] = half_inverse(atomicLoad(&key_max[thread])); }
    workgroupBarrier();
}

// The factor that brings a token's value back.
fn value_inverse(token: u32) -> f32 {
    if (!IS_BF16 && !HAS_BETA) { return 1.0; }
    return half_inverse(atomicLoad(&value_max[token]));
}

// The weights of all tokens in the state.
fn weigh_tokens(thread: u32) {
    if (thread < MATRIX) {
        let weight = kept_between(thread + 1u, MATRIX) * key_inverses[thread];
        weights[thread] = weight;
        // No scaled feature is above 2^15.
        let reach = 32768.0 * abs(weight) * bitcast<f32>(atomicLoad(&value_max[thread]));
        atomicMax(&maxima[REACH_MAX], bitcast<u32>(reach));
    }
    workgroupBarrier();
}

// The values as they enter the state, in the place of those that queries read.
fn weigh_values(thread: u32) {
    let scale = half_scale(weighted_max());
    @unroll
    for (var n = 0u; n < VALUE_LOADS; n++) {
        let i = thread + n * THREADS;
        let t = i % MATRIX_VEC4 * 4u;
        if (EVEN_VALUES || i < VALUES_LEN / 4u) {
            var x: vec4<f32>;
            @unroll
            for (var j = 0u; j < 4u; j++) { x[j] = f32(values[4u * i + j]) * value_inverse(t + j) * weights[t + j]; }
            // The scale comes last: a weight times it may be infinite where values are 0.
            @unroll
            for (var j = 0u; j < 4u; j++) { values[4u * i + j] = f16(x[j] * scale); }
        }
    }
}

// The keys as they enter the state: [F, tokens].
fn turn_keys(thread: u32) {
    var x: array<vec4<f16>, FEATURE_LOADS>;
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let i = thread + n * THREADS;
        let at = KEYS + i / PAIRS_VEC4 * PAIRS + i / MATRIX % MATRIX_VEC4 * 4u * MATRIX + i % MATRIX;
        if (EVEN_KEYS || i < KEYS_LEN / 4u) {
            x[n] = vec4<f16>(factors[at], factors[at + MATRIX], factors[at + 2u * MATRIX], factors[at + 3u * MATRIX]);
        }
    }
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let i = thread + n * THREADS;
        let at = i / PAIRS_VEC4 * PAIRS_VEC4 + i % MATRIX * MATRIX_VEC4 + i / MATRIX % MATRIX_VEC4;
        if (EVEN_KEYS || i < KEYS_LEN / 4u) {
            @unroll
            for (var t = 0u; t < 4u; t++) { factors[KEYS + 4u * at + t] = x[n][t]; }
        }
    }
}

// Bits of the largest weighted value.
fn weighted_max() -> u32 {
    return bitcast<u32>(bitcast<f32>(atomicLoad(&maxima[REACH_MAX])) / 32768.0);
}

// A bound of the elements that a chunk adds to the state.
fn chunk_reach() -> f32 { return f32(MATRIX) * bitcast<f32>(atomicLoad(&maxima[REACH_MAX])); }
