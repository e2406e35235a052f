// The queries of one output head and chunk as factors of matrix units, each by a power of two of
// its own.
//
// memory  that of matrix/chunk; a few floats a token

import constants::{BLOCK_VEC4, FEATURE_LOADS, MATRIX, QUERY_MAP, SCALES_QUERIES, THREADS};
import heads::{query_begin};
import map/stabiliser::{NO_SCALE, masked_features, row_gain, row_measure, row_scale};
import matrix/chunk::{EVEN_KEYS, KEYS_LEN, QUERIES, factor_index, factors};
import matrix/norms::{Loads, divide_by_norms};
import matrix/scale::{half_scale, magnitude_bits};
import rows::{load_q};
import work_item::{Chunk, WorkItem};

var<workgroup> query_max: array<atomic<u32>, MATRIX>;    // bits of the largest feature of each query
var<workgroup> measure_max: array<atomic<u32>, MATRIX>;  // the row max of each, as ordered_bits
var<workgroup> gains: array<f32, MATRIX>;                // the factor that its row scale put on it

fn load_queries(item: WorkItem, chunk: Chunk, h: u32, thread: u32) {
    // The head before has been read.
    workgroupBarrier();
    if (thread < MATRIX) {
        atomicStore(&query_max[thread], 0u);
        atomicStore(&measure_max[thread], 0u);
    }
    workgroupBarrier();
    var x: Loads;
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        let f4 = (thread + n * THREADS) % BLOCK_VEC4;
        if (row < chunk.tokens) { x[n] = load_q(query_begin(chunk.first + row, item.query_head + h), f4); }
    }
    divide_by_norms(&x, chunk.tokens, thread);
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        let f4 = (thread + n * THREADS) % BLOCK_VEC4;
        if (row < chunk.tokens) {
            if (SCALES_QUERIES) { atomicMax(&measure_max[row], ordered_bits(row_measure(QUERY_MAP, x[n], f4))); }
        }
    }
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        let f4 = (thread + n * THREADS) % BLOCK_VEC4;
        if (row < chunk.tokens) {
            var scale = NO_SCALE;
            if (SCALES_QUERIES) { scale = row_scale(QUERY_MAP, value_of_bits(atomicLoad(&measure_max[row]))); }
            x[n] = masked_features(QUERY_MAP, x[n], f4, scale);
            atomicMax(&query_max[row], magnitude_bits(x[n]));
            if (f4 == 0u) { gains[row] = row_gain(QUERY_MAP, scale); }
        }
    }
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let i = thread + n * THREADS;
        if (EVEN_KEYS || i < KEYS_LEN / 4u) {
            let row = i / BLOCK_VEC4;
            let at = factor_index(row, i % BLOCK_VEC4);
            let scaled = x[n] * half_scale(atomicLoad(&query_max[row]));
            @unroll
            for (var f = 0u; f < 4u; f++) { factors[QUERIES + 4u * at + f] = f16(scaled[f]); }
        }
    }
    workgroupBarrier();
}

// Bits whose order as integers is the order of the values; more than 0 for every value.
fn ordered_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn value_of_bits(bits: u32) -> f32 {
    return bitcast<f32>(select(~bits, bits & 0x7FFFFFFFu, (bits >> 31u) == 1u));
}
