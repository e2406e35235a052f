// The outputs of one segment, token by token from the state that it starts from:
//
//     mu_i = a_i mu_{i-1} + phi(k_i)^T u_i      nu_i = a_i nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// where a_i is 1, and u_i is v_i, unless the update rule has decays or betas: see rule/. mu stays
// in registers: each thread holds a tile of F x V. A token enters the tile, and its queries read
// the tile, so that a token sees itself.
//
// reads   q [T,H,K]  k [T,G,K]  v [T,E,V]  state_in [states, state]
// writes  o [T,max(H,E),V], or where F has several blocks their partial sums; in the last segment of a
//         sequence, and at its checkpoints, state_out [states, state]
// grid    segments x E x blocks of output heads x feature blocks x value blocks, folded
// memory  see chunk/

import constants::{BLOCK_VEC4, CHECKPOINTS, CHUNK_TOKENS, FINAL_STATE, ITEM_HEADS, NORMALIZE};
import constants::{ROWS_AHEAD, SEGMENT_STATES, THREADS};
import chunk::{ChunkRows, ChunkState, item_of, key, load_chunk, load_chunk_nu, next_stop, query};
import chunk::{reduce_outputs, share_chunk, store_chunk_nu, store_output, thread_of_item, value, weigh_rows, zero_rows};
import correction::{correct_values};
import factor::{Factor, read_state, settle};
import heads::{gate_row};
import lane::{Lane, lane_of};
import params::{params};
import row_map::{load_queries};
import rule::{update};
import sequence_entry::{checkpoint_entry};
import states/offset::{state_offset};
import tile::{Tile};
import tile_io::{load_tile, store_tile};
import work_item::{Chunk, WorkItem};

@compute @workgroup_size(THREADS)
fn segment_output(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let item = item_of(workgroup, thread, params.head_blocks, params.segments);
    if (!item.is_active) { return; }
    let lane = lane_of(thread_of_item(thread));
    if (!item.has_sequence) {
        zero_rows(item, lane);
        return;
    }

    // Of a segment's own in scratch, or the initial state, or the one that will be overwritten.
    let f4 = item.feature_block * BLOCK_VEC4 + lane.f4;
    let begin = state_offset(select(item.source, item.segment, SEGMENT_STATES), item.head);
    var mu = Tile();
    var factor: Factor;
    var state: ChunkState;
    load_tile(&mu, begin, item, lane);
    load_chunk_nu(&state, begin, item, lane);

    // Chunks end where the state is to be stored on the way.
    var stop = next_stop(item, item.begin, thread);
    var rows: ChunkRows;
    var next = Chunk(item.begin, min(params.chunk_len, stop - item.begin));
    if (ROWS_AHEAD) {
        load_chunk(&rows, item, next, lane);
        load_queries(&rows, item, next, lane);
    }
    while (next.tokens > 0u) {
        let chunk = next;
        let end = chunk.first + chunk.tokens;
        let is_stop = CHECKPOINTS > 0u && end == stop;
        if (!ROWS_AHEAD) {
            load_chunk(&rows, item, chunk, lane);
            load_queries(&rows, item, chunk, lane);
        }
        share_chunk(&rows, item, chunk, item.heads, lane);
        if (is_stop) { stop = next_stop(item, end, thread); }
        next = Chunk(end, min(params.chunk_len, stop - end));
        if (ROWS_AHEAD) {
            load_chunk(&rows, item, next, lane);
            load_queries(&rows, item, next, lane);
        }
        weigh_rows(&state, item, chunk, lane);
        correct_values(&mu, &factor, item, chunk, lane);
        @once(CHUNK_TOKENS)
        for (var i = 0u; i < chunk.tokens; i++) {
            let row = gate_row(chunk.first + i, item.head);
            let entering = value(item, chunk, i, lane);
            update(&mu, &factor, row, f4, key(&state, item, chunk, i, lane), entering);
            @once(ITEM_HEADS)
            for (var h = 0u; h < item.heads; h++) {
                let features = query(&state, item, chunk, i, h, lane);
                let o = read_state(&mu, &factor, features);
                store_output(&state, item, chunk, i * item.heads + h, o, lane);
            }
        }
        reduce_outputs(&state, item, chunk, lane);
        if (is_stop) {
            settle(&mu, &factor);
            store_checkpoints(&mu, &state, item, end, lane);
        }
    }

    if (FINAL_STATE && item.is_last) {
        settle(&mu, &factor);
        store_state(&mu, &state, item, item.state, lane);
    }
}

// The state after the tokens before `stop`, to each slot that asks for it.
fn store_checkpoints(
    mu: ptr<function, Tile>,
    state: ptr<function, ChunkState>,
    item: WorkItem,
    stop: u32,
    lane: Lane,
) {
    for (var c = 0u; c < CHECKPOINTS; c++) {
        let entry = checkpoint_entry(item.sequence, c);
        if (entry.is_active != 0u && entry.end == stop) { store_state(mu, state, item, entry.state, lane); }
    }
}

// Blocks of output heads carry the same state; the first stores it.
fn store_state(
    mu: ptr<function, Tile>,
    state: ptr<function, ChunkState>,
    item: WorkItem,
    to: u32,
    lane: Lane,
) {
    if (item.first_head != item.head * params.group) { return; }
    let at = state_offset(to, item.head);
    store_tile(mu, at, item, lane);
    if (NORMALIZE && item.value_block == 0u) { store_chunk_nu(state, at, item, Chunk(item.end, 0u), lane); }
}
