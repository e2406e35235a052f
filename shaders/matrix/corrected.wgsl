// implements: chunk_values
//
// The rules `delta` and `gated-delta`, with one decay a head. The values U that enter the state are
// the solution of
//
//     (I + L) U = beta (V - a K' S)      L_ij = beta_i D_ij k'_i . k'_j for j < i
//
// with S, a and D as in matrix/segment_output. K' S and K' K'^T have factors in f16. The solve is
// in f32, by substitution from the first token to the last: a series in powers of L would lose all
// digits where keys are alike, whose powers grow like binomials while U does not.
//
// memory  floats: two a token
// source  chunked delta rule without W (Yang et al. 2024, arXiv:2406.06484), solved for U itself

import constants::{IS_BF16, MATRIX, MATRIX_VEC4, PAIRS, PAIR_LOADS, THREADS, VALUE_LOADS};
import gates::{load_beta};
import heads::{gate_row};
import matrix/chunk::{COLUMNS, EVEN_VALUES, KEYS, VALUES_LEN, kept_between, key_inverses, value_inverse, value_max};
import matrix/chunk::{values};
import matrix/panel::{panel};
import matrix/products::{halve_state, multiply_rows, pair_sum, partial, state_inverse};
import matrix/scale::{CORRECTED_MAX, half_scale, maxima};
import matrix/state::{Tiles};
import work_item::{Chunk, WorkItem};

var<workgroup> betas: array<f32, MATRIX>;
var<workgroup> recalls: array<f32, MATRIX>;  // what brings back a row of K' S, and decays it

// For chunks whose queries have not asked for S.
fn prepare_correction(mu: ptr<function, Tiles>, thread: u32, subgroup: u32) {
    halve_state(mu, thread, subgroup);
}

// U in place of V, all tokens by one scale.
fn correct_values(item: WorkItem, chunk: Chunk, thread: u32, subgroup: u32) {
    if (thread < MATRIX) {
        recalls[thread] = kept_between(0u, thread + 1u) * state_inverse() * key_inverses[thread];
        betas[thread] = 0.0;
        if (thread < chunk.tokens) { betas[thread] = load_beta(gate_row(chunk.first + thread, item.head)); }
    }
    if (thread == 0u) { atomicStore(&maxima[CORRECTED_MAX], 0u); }
    multiply_rows(KEYS, subgroup);
    workgroupBarrier();
    multiply_pairs(chunk, thread);
    workgroupBarrier();
    solve(thread);
    workgroupBarrier();
    let largest = atomicLoad(&maxima[CORRECTED_MAX]);
    let scale = half_scale(largest);
    if (thread < MATRIX) { atomicStore(&value_max[thread], largest); }
    @unroll
    for (var n = 0u; n < VALUE_LOADS; n++) {
        let i = thread + n * THREADS;
        let column = i / MATRIX_VEC4;
        let t = i % MATRIX_VEC4 * 4u;
        if (EVEN_VALUES || i < VALUES_LEN / 4u) {
            var x: vec4<f32>;
            @unroll
            for (var j = 0u; j < 4u; j++) { x[j] = panel[(t + j) * COLUMNS + column] * scale; }
            @unroll
            for (var j = 0u; j < 4u; j++) { values[4u * i + j] = f16(x[j]); }
        }
    }
}

// L in place of this thread's part of the products of keys.
fn multiply_pairs(chunk: Chunk, thread: u32) {
    @unroll
    for (var n = 0u; n < PAIR_LOADS; n++) {
        let pair = thread + n * THREADS;
        let i = pair / MATRIX;
        let j = pair % MATRIX;
        var l = 0.0;
        if (j < i && i < chunk.tokens) {
            l = betas[i] * (pair_sum(pair) * key_inverses[i] * key_inverses[j] * kept_between(j + 1u, i + 1u));
        }
        if (pair < PAIRS) { partial[pair] = l; }
    }
}

// A thread solves for a column, in place of what keys recall.
fn solve(thread: u32) {
    for (var c = thread; c < COLUMNS; c += THREADS) {
        var u: array<f32, MATRIX>;
        var largest = 0.0;
        @unroll
        for (var i = 0u; i < MATRIX; i++) {
            var v = f32(values[c * MATRIX + i]);
            if (IS_BF16) { v *= value_inverse(i); }
            u[i] = betas[i] * (v - recalls[i] * panel[i * COLUMNS + c]);
        }
        @unroll
        for (var i = 0u; i < MATRIX; i++) {
            @unroll
            for (var j = 0u; j < i; j++) { u[i] -= partial[i * MATRIX + j] * u[j]; }
            panel[i * COLUMNS + c] = u[i];
            largest = max(largest, abs(u[i]));
        }
        atomicMax(&maxima[CORRECTED_MAX], bitcast<u32>(largest));
    }
}

