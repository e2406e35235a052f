// The matrix by which a segment of a delta rule multiplies the state before it:
//
//     M_i = (I - beta_i phi(k_i)^T phi(k_i)) diag(a_i) M_{i-1}      M_0 = I
//
// That is the rule itself from the state I and without values, on as many columns as mu has rows.
//
// reads   k [T,G,K]  gates [T,E]
// writes  state_out [segments, E, F, F]: of each segment that another one follows
// grid    segments x E x blocks of F columns, folded
// memory  see chunk/
// source  the affine scan of flash-linear-attention's context parallelism, whose matrices are these

import constants::{BLOCK_COLUMNS_VEC4, CHUNK_TOKENS, COLUMNS_VEC4, COLUMN_THREADS, ROWS};
import constants::{ROWS_AHEAD, THREADS};
import chunk::{ChunkRows, ChunkState, clear_chunk_nu, item_of, key, load_chunk, share_chunk};
import chunk::{thread_of_item, value, wait_for_readers};
import correction::{correct_values};
import factor::{Factor, settle};
import heads::{gate_row};
import lane::{Lane, lane_of};
import params::{params};
import rule::{update};
import states/offset::{state_offset};
import tile::{Tile};
import tile_io::{store_tile};
import work_item::{Chunk, WorkItem};

@compute @workgroup_size(THREADS)
fn segment_transition(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let item = item_of(workgroup, thread, 1u, params.segments - 1u);
    if (!item.is_active || !item.has_sequence || item.is_last) { return; }
    let lane = lane_of(thread_of_item(thread));

    var mu = identity_tile(item, lane);
    var factor: Factor;
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
            update(&mu, &factor, row, lane.f4, key(&state, item, chunk, i, lane), entering);
        }
        wait_for_readers();
    }
    settle(&mu, &factor);
    store_tile(&mu, state_offset(item.segment, item.head), item, lane);
}

// This thread's tile of I.
fn identity_tile(item: WorkItem, lane: Lane) -> Tile {
    var mu = Tile();
    let first_c4 = item.value_block * BLOCK_COLUMNS_VEC4 + lane.c4;
    @unroll
    for (var r = 0u; r < ROWS; r++) {
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) {
            let columns = vec4<u32>(4u * (first_c4 + c * COLUMN_THREADS)) + vec4<u32>(0u, 1u, 2u, 3u);
            let is_one = columns == vec4<u32>(4u * lane.f4 + r);
            mu[r * COLUMNS_VEC4 + c] = select(vec4<f32>(0.0), vec4<f32>(1.0), is_one);
        }
    }
    return mu;
}
