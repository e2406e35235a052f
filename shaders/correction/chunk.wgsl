// implements: correction
//
// The corrected values of a chunk, where several lanes share a row of the state. With mu from
// before the chunk and A_ij the decays of tokens j + 1 to i,
//
//     u_i = beta_i (v_i - phi(k_i) A_i mu - sum_{j<i} (phi(k_i) A_ij . phi(k_j)) u_j)
//
// so that the lanes add up what all keys recall once a chunk and not once a token. Decays are
// multiplied token by token, newest first out: no exponential of their sum is formed.
//
// memory  floats: tokens (tokens - 1) / 2 (F/4 + 1) products of keys; see lane_sums/

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, CHUNK_TOKENS, COLUMNS_VEC4, COLUMN_SHARE, COLUMN_THREADS};
import constants::{HAS_DECAY, THREADS};
import chunk/features::{features};
import chunk/workgroup::{features_at, values};
import factor::{Factor};
import gates::{decay_nu, load_beta};
import heads::{gate_row};
import kept::{all_kept, decay_kept, recalled_by};
import lane::{Lane};
import lane_sums::{store_recalled, without_recalled};
import tile::{Tile};
import work_item::{Chunk, WorkItem};

const PAIRS: u32 = max(CHUNK_TOKENS * (CHUNK_TOKENS - 1u) / 2u, 1u);
const PAIR_LEN: u32 = PAIRS * BLOCK_VEC4;

var<workgroup> pair_products: array<f32, PAIR_LEN>;  // [pairs, F/4]
var<workgroup> pair_sums: array<f32, PAIRS>;         // phi(k_i) A_ij . phi(k_j), at pair(i, j)

fn pair(i: u32, j: u32) -> u32 { return i * (i - 1u) / 2u + j; }

fn correct_values(
    mu: ptr<function, Tile>,
    factor: ptr<function, Factor>,
    item: WorkItem,
    chunk: Chunk,
    lane: Lane,
) {
    recall(mu, factor, item, chunk, lane);
    multiply_keys(item, chunk, lane);
    workgroupBarrier();
    let pairs = chunk.tokens * (chunk.tokens - 1u) / 2u;
    for (var p = lane.thread; p < pairs; p += THREADS) {
        var sum = 0.0;
        for (var f4 = 0u; f4 < BLOCK_VEC4; f4++) { sum += pair_products[p * BLOCK_VEC4 + f4]; }
        pair_sums[p] = sum;
    }
    workgroupBarrier();
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < COLUMN_SHARE; n++) {
        let c4 = lane.thread + n * THREADS;
        if (c4 < BLOCK_COLUMNS_VEC4) { solve_column(item, chunk, c4); }
    }
    workgroupBarrier();
}

// u of four columns, from token to token.
fn solve_column(item: WorkItem, chunk: Chunk, c4: u32) {
    var u: array<vec4<f32>, CHUNK_TOKENS>;
    @unroll(CHUNK_UNROLL)
    for (var i = 0u; i < CHUNK_TOKENS; i++) {
        if (i < chunk.tokens) {
            var rest = without_recalled(values[i * BLOCK_COLUMNS_VEC4 + c4], i, c4);
            @unroll(CHUNK_UNROLL)
            for (var j = 0u; j < CHUNK_TOKENS; j++) {
                if (j < i) { rest -= pair_sums[pair(i, j)] * u[j]; }
            }
            u[i] = load_beta(gate_row(chunk.first + i, item.head)) * rest;
            values[i * BLOCK_COLUMNS_VEC4 + c4] = u[i];
        }
    }
}

// This lane's part of what each key recalls of the state before the chunk.
fn recall(
    mu: ptr<function, Tile>,
    factor: ptr<function, Factor>,
    item: WorkItem,
    chunk: Chunk,
    lane: Lane,
) {
    var kept = all_kept();
    for (var i = 0u; i < chunk.tokens; i++) {
        kept = decay_kept(kept, gate_row(chunk.first + i, item.head), lane.f4);
        let recalled = recalled_by(mu, factor, features_at(i * BLOCK_VEC4 + lane.f4), kept);
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) {
            store_recalled(i, lane.c4 + c * COLUMN_THREADS, recalled[c], lane);
        }
    }
}

// Each thread decays four features of a key from token to token, and multiplies them with those
// keys.
fn multiply_keys(item: WorkItem, chunk: Chunk, lane: Lane) {
    for (var n = lane.thread; n < chunk.tokens * BLOCK_VEC4; n += THREADS) {
        let j = n / BLOCK_VEC4;
        let f4 = n % BLOCK_VEC4;
        var key = features[n];
        for (var i = j + 1u; i < chunk.tokens; i++) {
            if (HAS_DECAY) { key = decay_nu(key, gate_row(chunk.first + i, item.head), f4); }
            pair_products[pair(i, j) * BLOCK_VEC4 + f4] = dot(features[i * BLOCK_VEC4 + f4], key);
        }
    }
}
