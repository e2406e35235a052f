// implements: decode_values
//
// The corrected values of a few tokens, where a thread has all features of its columns. With mu
// from before the tokens and A_ij the decays of tokens j + 1 to i,
//
//     u_i = beta_i (v_i - phi(k_i) A_i mu - sum_{j<i} (phi(k_i) A_ij . phi(k_j)) u_j)
//
// so that the state is read once for what all keys recall, and once more to be updated.

import constants::{COLUMNS_VEC4, DECODE_TOKENS, LANE_TILES};
import chunk::{ChunkState, key, value};
import gates::{decay_nu, load_beta};
import heads::{gate_row};
import lane::{Lane};
import states/offset::{StateOffset};
import tile/unrolled::{load_tile};
import tile::{Key, Tile, Value, apply};
import work_item::{Chunk, WorkItem};

const VALUES_LEN: u32 = DECODE_TOKENS * COLUMNS_VEC4;
const PRODUCTS_LEN: u32 = DECODE_TOKENS * DECODE_TOKENS;

struct EnteringValues { u: array<vec4<f32>, VALUES_LEN> }  // [tokens, COLUMNS/4]

fn entering_values(
    state: ptr<function, ChunkState>,
    item: WorkItem,
    chunk: Chunk,
    at: StateOffset,
    first_lane: Lane,
) -> EnteringValues {
    var values: EnteringValues;
    var products: array<f32, PRODUCTS_LEN>;  // phi(k_i) A_ij . phi(k_j), at [i, j]
    @unroll
    for (var i = 0u; i < DECODE_TOKENS; i++) {
        if (i < chunk.tokens) {
            let v = value(item, chunk, i, first_lane);
            @unroll
            for (var c = 0u; c < COLUMNS_VEC4; c++) { values.u[i * COLUMNS_VEC4 + c] = v[c]; }
        }
    }
    var lane = first_lane;
    for (var step = 0u; step < LANE_TILES; step++) {
        var mu = Tile();
        load_tile(&mu, at, item, lane);
        var kept = vec4<f32>(1.0);
        @unroll
        for (var i = 0u; i < DECODE_TOKENS; i++) {
            if (i < chunk.tokens) {
                let row = gate_row(chunk.first + i, item.head);
                kept = decay_nu(kept, row, lane.f4);
                let key_i = key(state, item, chunk, i, lane)[0];
                let recalled = apply(&mu, Key(kept * key_i));
                @unroll
                for (var c = 0u; c < COLUMNS_VEC4; c++) { values.u[i * COLUMNS_VEC4 + c] -= recalled[c]; }
                // The keys before it, decayed up to it.
                @unroll
                for (var j = 0u; j < DECODE_TOKENS; j++) {
                    if (j < i) {
                        var key_j = key(state, item, chunk, j, lane)[0];
                        @unroll
                        for (var t = 1u; t < DECODE_TOKENS; t++) {
                            if (t > j && t <= i) {
                                key_j = decay_nu(key_j, gate_row(chunk.first + t, item.head), lane.f4);
                            }
                        }
                        products[i * DECODE_TOKENS + j] += dot(key_i, key_j);
                    }
                }
            }
        }
        lane.f4 += 1u;
    }
    @unroll
    for (var i = 0u; i < DECODE_TOKENS; i++) {
        if (i < chunk.tokens) {
            let beta = load_beta(gate_row(chunk.first + i, item.head));
            @unroll
            for (var c = 0u; c < COLUMNS_VEC4; c++) {
                var u = values.u[i * COLUMNS_VEC4 + c];
                @unroll
                for (var j = 0u; j < DECODE_TOKENS; j++) {
                    if (j < i) { u -= products[i * DECODE_TOKENS + j] * values.u[j * COLUMNS_VEC4 + c]; }
                }
                values.u[i * COLUMNS_VEC4 + c] = beta * u;
            }
        }
    }
    return values;
}

fn entering_value(values: EnteringValues, item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Value {
    var u = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) { u[c] = values.u[i * COLUMNS_VEC4 + c]; }
    return u;
}
