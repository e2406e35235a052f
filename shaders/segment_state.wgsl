// What one segment adds to the state:  mu = sum phi(k_i)^T v_i   nu = sum phi(k_i)
//
// reads   k [T,G,K]  v [T,E,V]
// writes  state_out [segments, state]: of each segment that another one follows
// grid    segments x E x feature blocks x value blocks, folded
// memory  see chunk/

import constants::{CHUNK_TOKENS, NORMALIZE, THREADS};
import chunk::{ChunkState, add_keys, clear_chunk_nu, item_of, key, load_tokens, store_chunk_nu};
import chunk::{thread_of_item, value};
import lane::{lane_of};
import params::{params};
import row_map::{prepare_chunk};
import rule::{update};
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

    var mu = Tile();
    var state: ChunkState;
    clear_chunk_nu(&state, lane);
    for (var t = item.begin; t < item.end; t += params.chunk_len) {
        let chunk = Chunk(t, min(params.chunk_len, item.end - t));
        load_tokens(item, chunk, lane);
        prepare_chunk(item, chunk, 0u, lane);
        @once(CHUNK_TOKENS)
        for (var i = 0u; i < chunk.tokens; i++) {
            update(&mu, key(&state, item, chunk, i, lane), value(item, chunk, i, lane));
        }
        add_keys(chunk, lane);
    }

    let at = state_offset(item.segment, item.head);
    store_tile(&mu, at, item, lane);
    if (NORMALIZE && item.value_block == 0u) {
        store_chunk_nu(&state, at, item, Chunk(item.end, 0u), lane);
    }
}
