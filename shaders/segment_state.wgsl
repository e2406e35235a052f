// The state after one segment that starts from zero, and by how much less than 1 it keeps of the
// state before:
//
//     mu_i = a_i mu_{i-1} + phi(k_i)^T v_i      nu_i = a_i nu_{i-1} + phi(k_i)      m = prod a_i - 1
//
// where a_i is 1 unless the update rule has decays.
//
// reads   k [T,G,K]  v [T,E,V]
// writes  state_out [segments, state] and segment_decays [segments, E, 1 or F]: of each segment that another one follows
// grid    segments x E x feature blocks x value blocks, folded
// memory  see chunk/

import constants::{BLOCK_VEC4, CHUNK_TOKENS, NORMALIZE, ROWS_AHEAD, THREADS};
import chunk::{ChunkRows, ChunkState, add_keys, clear_chunk_nu, item_of, key, load_chunk, store_chunk_nu};
import chunk::{share_chunk, thread_of_item, value, wait_for_readers};
import correction::{correct_values};
import factor::{Factor, settle};
import gates::{Decay};
import heads::{gate_row};
import lane::{lane_of};
import params::{params};
import rule::{update};
import segment_decay::{add_decay, store_decay};
import states/offset::{state_offset};
import tile::{Tile};
import tile_io::{store_tile};
import work_item::{Chunk};

@compute @workgroup_size(THREADS)
fn segment_state(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let item = item_of(workgroup, thread, 1u, params.segments - 1u);
    if (!item.is_active || !item.has_sequence || item.is_last) { return; }
    let lane = lane_of(thread_of_item(thread));

    let f4 = item.feature_block * BLOCK_VEC4 + lane.f4;
    var mu = Tile();
    var factor: Factor;
    var decay: Decay;
    var state: ChunkState;
    clear_chunk_nu(&state, lane);
    var rows: ChunkRows;
    var next = Chunk(item.begin, min(params.chunk_len, item.end - item.begin));
    if (ROWS_AHEAD) {
        load_chunk(&rows, item, next, lane);
    }
    while (next.tokens > 0u) {
        let chunk = next;
        let end = chunk.first + chunk.tokens;
        if (!ROWS_AHEAD) {
            load_chunk(&rows, item, chunk, lane);
        }
        share_chunk(&rows, item, chunk, 0u, lane);
        next = Chunk(end, min(params.chunk_len, item.end - end));
        if (ROWS_AHEAD) {
            load_chunk(&rows, item, next, lane);
        }
        correct_values(&mu, &factor, item, chunk, lane);
        @once(CHUNK_TOKENS)
        for (var i = 0u; i < chunk.tokens; i++) {
            let row = gate_row(chunk.first + i, item.head);
            let entering = value(item, chunk, i, lane);
            update(&mu, &factor, row, f4, key(&state, item, chunk, i, lane), entering);
            add_decay(&decay, row, f4);
        }
        add_keys(item, chunk, lane);
        wait_for_readers();
    }

    let at = state_offset(item.segment, item.head);
    settle(&mu, &factor);
    store_tile(&mu, at, item, lane);
    if (NORMALIZE && item.value_block == 0u) {
        store_chunk_nu(&state, at, item, Chunk(item.end, 0u), lane);
    }
    if (item.value_block == 0u && lane.c4 == 0u) { store_decay(decay, item, f4); }
}
