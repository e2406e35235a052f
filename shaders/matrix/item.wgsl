// The work item of a workgroup whose subgroups share a chunk.

import constants::{CHECKPOINTS, HAS_TABLE, SUBGROUPS};
import params::{params, workgroup_index};
import sequence_entry::{next_checkpoint};
import work_item::{WorkItem, work_item, work_item_in_table};

// Two, and four, are multiples of 16 bytes: see matrix/scale.
var<workgroup> shared_items: array<WorkItem, 2>;
var<workgroup> shared_words: array<u32, 4>;

// The same for all threads of a workgroup, and seen to be: barriers stand where the item decides.
fn matrix_item(workgroup: vec3<u32>, thread: u32, head_blocks: u32, segments: u32) -> WorkItem {
    let index = workgroup_index(workgroup);
    if (HAS_TABLE) {
        if (thread == 0u) { shared_items[0] = work_item_in_table(index, head_blocks); }
        return workgroupUniformLoad(&shared_items[0]);
    }
    return work_item(index, head_blocks, segments);
}

// The word of thread 0, for all.
fn shared_word(i: u32, word: u32, thread: u32) -> u32 {
    if (thread == 0u) { shared_words[i] = word; }
    return workgroupUniformLoad(&shared_words[i]);
}

// The next token behind t at which the state is stored; item.end where there is none.
fn next_stop(item: WorkItem, t: u32, thread: u32) -> u32 {
    if (CHECKPOINTS == 0u) { return item.end; }
    return shared_word(0u, next_checkpoint(item.sequence, t, item.end), thread);
}

// True where the workgroup has the subgroups that the module is made for. No one can ask for a
// width of subgroups, and a driver may choose another for each pipeline: then results are NaN,
// which nobody takes for right.
fn has_subgroups(thread: u32, subgroups: u32) -> bool {
    return shared_word(1u, subgroups, thread) == SUBGROUPS;
}

// A number that no compiler knows to be NaN.
fn poison() -> f32 { return bitcast<f32>(0x7FC00000u | min(params.seq_len, 1u)); }
