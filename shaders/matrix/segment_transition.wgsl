// The matrix by which a segment of a delta rule multiplies the state before it, on matrix units:
// the rule itself from the state I and without values, on as many columns as mu has rows. See
// segment_transition and matrix/segment_state.
//
// reads   k [T,G,K]  gates [T,E]
// writes  state_out [segments, E, F, F]: of each segment that another one follows
// grid    segments x E x blocks of F columns, folded; SUBGROUPS subgroups a workgroup
// memory  see matrix/chunk, matrix/state, matrix/products and matrix/corrected

enable f16;
enable wgpu_cooperative_matrix;

import constants::{COLUMN_TILES, FEATURE_TILES, MATRIX, THREADS};
import chunk_values::{correct_values, prepare_correction};
import matrices::{Sums};
import matrix/chunk::{COLUMNS, VALUES_LEN, load_tokens, weigh_tokens};
import matrix/item::{has_subgroups, matrix_item};
import matrix/scale::{STATE_MAX, maxima};
import matrix/panel::{panel};
import matrix/state::{SUBGROUP_COLUMNS, Tiles, clear_state, poison_state, store_state, update_state};
import params::{params};
import states/offset::{state_offset};
import work_item::{Chunk, WorkItem};

@compute @workgroup_size(THREADS)
fn segment_transition(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let item = matrix_item(workgroup, thread, 1u, params.segments - 1u);
    if (!item.is_active || !item.has_sequence || item.is_last) { return; }

    let at = state_offset(item.segment, item.head);
    if (!has_subgroups(thread, subgroups)) {
        poison_state(at, item, thread);
        return;
    }
    var mu: Tiles;
    load_identity(&mu, item, thread, subgroup);
    for (var t = item.begin; t < item.end; t += params.chunk_len) {
        let chunk = Chunk(t, min(params.chunk_len, item.end - t));
        prepare_correction(&mu, thread, subgroup);
        load_tokens(item, chunk, thread);
        correct_values(item, chunk, thread, subgroup);
        weigh_tokens(thread);
        update_state(&mu, thread, subgroup);
    }
    store_state(&mu, at, item, thread, subgroup);
}

// This work item's columns of I.
fn load_identity(mu: ptr<function, Tiles>, item: WorkItem, thread: u32, subgroup: u32) {
    clear_state(mu, thread);
    if (thread == 0u) { atomicStore(&maxima[STATE_MAX], bitcast<u32>(1.0)); }
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        workgroupBarrier();
        for (var i = thread; i < VALUES_LEN; i += THREADS) {
            let is_one = item.value_block * COLUMNS + i % COLUMNS == r * MATRIX + i / COLUMNS;
            panel[i] = select(0.0, 1.0, is_one);
        }
        workgroupBarrier();
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            (*mu)[r * COLUMN_TILES + c] =
                coopLoadT<Sums>(&panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
        }
    }
}
