// The outputs of the few tokens of each sequence, and its state updated where it is:
//
//     mu_i = a_i mu_{i-1} + phi(k_i)^T v_i      nu_i = a_i nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// where a_i is 1, and v_i as it is, unless the update rule has decays or betas. A work item has a
// value head of a sequence. Its threads go through their rows of mu a tile at a time: four rows are
// loaded, take in the tokens, are read by the queries and stored, so that the state is read once
// and written once. On a GPU a thread loads its first tiles before it waits for the rows.
//
// reads   q [T,H,K]  k [T,G,K]  v [T,E,V]  state_in [states, state]
// writes  o [T,max(H,E),V]  state_out [states, state]
// grid    (N, and 1 where tokens may lie behind the last sequence) x E, folded
// memory  see chunk/

import constants::{COLUMNS_VEC4, DECODE_HEADS, DECODE_ROWS, DECODE_TOKENS, FINAL_STATE, HAS_LENGTHS};
import constants::{LANE_TILES, LOADS_AHEAD, NORMALIZE, ROWS_VEC4, THREADS, TILES_AHEAD};
import chunk::{ChunkRows, ChunkState, key, load_chunk, load_chunk_nu, query};
import chunk::{reduce_outputs, share_chunk, store_chunk_nu, store_output, thread_of_item, weigh_rows, zero_rows};
import decode_item::{decode_item, wait_for_readers_of_nu};
import decode_values::{entering_value, entering_values};
import factor::{Factor, read_state, settle};
import heads::{gate_row};
import lane::{Lane, lane_of};
import params::{params};
import row_map::{load_queries};
import rule::{update};
import sequences::{has_long_gap, is_in_long_gap, is_long};
import states/offset::{StateOffset, state_offset};
import tile::{Tile, Value};
import tile/unrolled::{load_tile, store_tile};
import work_item::{Chunk, WorkItem};

// Of the state before the tokens and of the state after them.
struct StateOffsets { loaded: StateOffset, stored: StateOffset }

const OUTPUT_LEN: u32 = DECODE_ROWS * COLUMNS_VEC4;

alias Tiles = array<Tile, TILES_AHEAD>;

// Tiles step .. of a thread, whose loads do not wait for one another.
fn load_tiles(tiles: ptr<function, Tiles>, at: StateOffset, item: WorkItem, step: u32, first_lane: Lane) {
    var lane = first_lane;
    @unroll
    for (var n = 0u; n < TILES_AHEAD; n++) {
        var mu = Tile();
        if (TILES_AHEAD == 1u || step + n < LANE_TILES) { load_tile(&mu, at, item, lane); }
        (*tiles)[n] = mu;
        lane.f4 += ROWS_VEC4;
    }
}

@compute @workgroup_size(THREADS)
fn decode_step(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let item = decode_item(workgroup, thread);
    let lane = lane_of(thread_of_item(thread));
    let chunk = Chunk(item.begin, min(item.end - item.begin, DECODE_TOKENS));
    let at = StateOffsets(state_offset(item.source, item.head), state_offset(item.state, item.head));
    var state: ChunkState;
    if (item.is_active) {
        if (item.has_sequence) {
            decode_tokens(&state, item, chunk, at, lane);
        } else if (!is_long(item.begin, item.end)) {
            zero_rows(item, lane);
        }
        if (HAS_LENGTHS && has_long_gap()) { zero_share(item, lane); }
    }
    if (FINAL_STATE && NORMALIZE) {
        wait_for_readers_of_nu();
        if (item.is_active && item.has_sequence && item.value_block == 0u) {
            store_chunk_nu(&state, at.stored, item, chunk, lane);
        }
    }
}

// The rows of o that belong to no sequence, of the item's share of all tokens: one work item alone
// would go through tokens without number.
fn zero_share(item: WorkItem, lane: Lane) {
    let share = params.total_tokens / (params.sequences + 1u) + 1u;
    let begin = min(item.sequence * share, params.total_tokens);
    var row = item;
    for (var t = begin; t < min(begin + share, params.total_tokens); t++) {
        row.begin = t;
        row.end = t + 1u;
        if (is_in_long_gap(t)) { zero_rows(row, lane); }
    }
}

fn decode_tokens(
    state: ptr<function, ChunkState>,
    item: WorkItem,
    chunk: Chunk,
    at: StateOffsets,
    first_lane: Lane,
) {
    var lane = first_lane;
    var rows: ChunkRows;
    var tiles: Tiles;
    if (LOADS_AHEAD) { load_tiles(&tiles, at.loaded, item, 0u, lane); }
    load_chunk_nu(state, at.loaded, item, lane);
    load_chunk(&rows, item, chunk, lane);
    load_queries(&rows, item, chunk, lane);
    share_chunk(&rows, item, chunk, item.heads, lane);
    weigh_rows(state, item, chunk, lane);

    let values = entering_values(state, item, chunk, at.loaded, lane);
    var outputs: array<vec4<f32>, OUTPUT_LEN>;  // [tokens, heads, COLUMNS/4]
    for (var step = 0u; step < LANE_TILES; step += TILES_AHEAD) {
        if (!LOADS_AHEAD || step > 0u) { load_tiles(&tiles, at.loaded, item, step, lane); }
        @unroll
        for (var n = 0u; n < TILES_AHEAD; n++) {
            if (TILES_AHEAD == 1u || step + n < LANE_TILES) {
                var mu = tiles[n];
                var factor: Factor;
                @unroll
                for (var i = 0u; i < DECODE_TOKENS; i++) {
                    if (i < chunk.tokens) {
                        let row = gate_row(chunk.first + i, item.head);
                        let entering = entering_value(values, item, chunk, i, lane);
                        update(&mu, &factor, row, lane.f4, key(state, item, chunk, i, lane), entering);
                        @unroll
                        for (var h = 0u; h < DECODE_HEADS; h++) {
                            let features = query(state, item, chunk, i, h, lane);
                            let o = read_state(&mu, &factor, features);
                            @unroll
                            for (var c = 0u; c < COLUMNS_VEC4; c++) {
                                outputs[(i * DECODE_HEADS + h) * COLUMNS_VEC4 + c] += o[c];
                            }
                        }
                    }
                }
                if (FINAL_STATE) {
                    settle(&mu, &factor);
                    store_tile(&mu, at.stored, item, lane);
                }
                lane.f4 += ROWS_VEC4;
            }
        }
    }

    @unroll
    for (var row = 0u; row < DECODE_ROWS; row++) {
        if (row < chunk.tokens * DECODE_HEADS) {
            var o = Value();
            @unroll
            for (var c = 0u; c < COLUMNS_VEC4; c++) { o[c] = outputs[row * COLUMNS_VEC4 + c]; }
            store_output(state, item, chunk, row, o, first_lane);
        }
    }
    reduce_outputs(state, item, chunk, first_lane);
}
