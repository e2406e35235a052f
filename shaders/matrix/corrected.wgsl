// implements: chunk_values
//
// The rules `delta` and `gated-delta`, with one decay a head. The values U that enter the state are the
// solution of
//
//     (I + L) U = beta (V - a K' S)      L_ij = beta_i D_ij k'_i . k'_j for j < i
//
// with S, a and D as in matrix/segment_output. K' S and K' K'^T have factors in f16. The solve is in f32, by
// substitution from the first token to the last: a series in powers of L would lose all digits where keys
// are alike, whose powers grow like binomials while U does not.
//
// memory  floats: two a token
// source  chunked delta rule without W (Yang et al. 2024, arXiv:2406.06484), solved for U itself

import constants::{MATRIX, THREADS};
import gates::{load_beta};
import heads::{gate_row};
import matrix/chunk::{COLUMNS, KEYS, VALUES_LEN, decay_between, key_max, value_max, values};
import matrix/products::{PAIRS, halve_state, multiply_rows, pair_sum, partial, state_inverse};
import matrix/scale::{half_inverse, half_scale};
import matrix/state::{Tiles, panel};
import work_item::{Chunk, WorkItem};

var<workgroup> betas: array<f32, MATRIX>;
var<workgroup> recalls: array<f32, MATRIX>;  // what brings back a row of K' S, and decays it
var<workgroup> corrected_max: atomic<u32>;  // bits of the largest element of U

// Where no query has asked for S.
fn prepare_correction(mu: ptr<function, Tiles>, thread: u32, subgroup: u32) {
    halve_state(mu, thread, subgroup);
}

// U by its scale in place of V.
fn correct_values(item: WorkItem, chunk: Chunk, thread: u32, subgroup: u32) {
    for (var i = thread; i < MATRIX; i += THREADS) {
        let kept = 1.0 + decay_between(0u, i + 1u);
        recalls[i] = kept * state_inverse() * half_inverse(atomicLoad(&key_max[i]));
        betas[i] = 0.0;
        if (i < chunk.tokens) { betas[i] = load_beta(gate_row(chunk.first + i, item.head)); }
    }
    if (thread == 0u) { atomicStore(&corrected_max, 0u); }
    multiply_rows(KEYS, subgroup);
    workgroupBarrier();
    multiply_pairs(chunk, thread);
    workgroupBarrier();
    solve(thread);
    workgroupBarrier();
    let scale = half_scale(atomicLoad(&corrected_max));
    for (var i = thread; i < VALUES_LEN; i += THREADS) { values[i] = f16(panel[i] * scale); }
}

// L in place of this thread's part of the products of keys.
fn multiply_pairs(chunk: Chunk, thread: u32) {
    for (var pair = thread; pair < PAIRS; pair += THREADS) {
        let i = pair / MATRIX;
        let j = pair % MATRIX;
        var l = 0.0;
        if (j < i && i < chunk.tokens) {
            l = pair_sum(pair) * half_inverse(atomicLoad(&key_max[i])) * half_inverse(atomicLoad(&key_max[j]));
            l = betas[i] * (l + l * decay_between(j + 1u, i + 1u));
        }
        partial[pair] = l;
    }
}

// A thread solves for a column, in place of what keys recall.
fn solve(thread: u32) {
    for (var c = thread; c < COLUMNS; c += THREADS) {
        var u: array<f32, MATRIX>;
        var largest = 0.0;
        @unroll
        for (var i = 0u; i < MATRIX; i++) {
            let at = i * COLUMNS + c;
            u[i] = betas[i] * (f32(values[at]) - recalls[i] * panel[at]);
            @unroll
            for (var j = 0u; j < i; j++) { u[i] -= partial[i * MATRIX + j] * u[j]; }
            panel[at] = u[i];
            largest = max(largest, abs(u[i]));
            atomicMax(&value_max[i], bitcast<u32>(abs(u[i])));
        }
        atomicMax(&corrected_max, bitcast<u32>(largest));
    }
}

// What takes the scale of U back.
fn values_inverse() -> f32 { return half_inverse(atomicLoad(&corrected_max)); }
