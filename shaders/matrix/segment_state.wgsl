// The state after one segment that starts from zero on matrix units, MATRIX tokens at a time:
//
//     S' = a S + (w K')^T V      a = product of a chunk's decays,  w_i = of those behind token i
//
// and by how much less than 1 it keeps of the state before: see matrix/segment_output and
// segment_state.
//
// reads   k [T,G,K]  v [T,E,V]  gates [T,E]
// writes  state_out [segments, state] and segment_decays [segments, E]: of each segment that another one follows
// grid    segments x E x value blocks, folded; SUBGROUPS subgroups a workgroup
// memory  see matrix/chunk and matrix/state; with a delta rule matrix/products and matrix/corrected

enable f16;
enable wgpu_cooperative_matrix;

import constants::{THREADS};
import chunk_values::{correct_values, prepare_correction};
import gates::{Decay};
import heads::{gate_row};
import matrix/chunk::{load_tokens, weigh_tokens};
import matrix/item::{has_subgroups, matrix_item};
import matrix/state::{Tiles, clear_state, poison_state, store_state, update_state};
import params::{params};
import segment_decay::{add_decay, store_decay};
import states/offset::{state_offset};
import work_item::{Chunk};

@compute @workgroup_size(THREADS)
fn segment_state(
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
    clear_state(&mu, thread);
    var decay: Decay;
    for (var t = item.begin; t < item.end; t += params.chunk_len) {
        let chunk = Chunk(t, min(params.chunk_len, item.end - t));
        prepare_correction(&mu, thread, subgroup);
        load_tokens(item, chunk, thread);
        correct_values(item, chunk, thread, subgroup);
        weigh_tokens(thread);
        for (var i = 0u; i < chunk.tokens; i++) { add_decay(&decay, gate_row(t + i, item.head), 0u); }
        update_state(&mu, thread, subgroup);
    }

    store_state(&mu, at, item, thread, subgroup);
    if (item.value_block == 0u && thread == 0u) { store_decay(decay, item, 0u); }
}
