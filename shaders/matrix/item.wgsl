// The work item of a workgroup whose subgroups share a chunk.

import constants::{CHECKPOINTS, HAS_TABLE, SUBGROUPS};
import params::{params, workgroup_index};
import sequence_entry::{next_checkpoint};
import work_item::{WorkItem, work_item, work_item_in_table};

var<workgroup> shared_item: WorkItem;
var<workgroup> shared_stop: u32;
var<workgroup> shared_subgroups: u32;

// The same for all threads of a workgroup, and seen to be: barriers stand where the item decides.
fn matrix_item(workgroup: vec3<u32>, thread: u32, head_blocks: u32, segments: u32) -> WorkItem {
    let index = workgroup_index(workgroup);
    if (HAS_TABLE) {
        if (thread == 0u) { shared_item = work_item_in_table(index, head_blocks); }
        return workgroupUniformLoad(&shared_item);
    }
    return work_item(index, head_blocks, segments);
}

// The next token behind t at which the state is stored; item.end where there is none.
fn next_stop(item: WorkItem, t: u32, thread: u32) -> u32 {
    if (CHECKPOINTS == 0u) { return item.end; }
    if (thread == 0u) { shared_stop = next_checkpoint(item.sequence, t, item.end); }
    return workgroupUniformLoad(&shared_stop);
}

// True where the workgroup has the subgroups that the module is made for. No one can ask for a width of
// subgroups, and a driver may choose another for each pipeline: then results are NaN, which nobody
// takes for right.
fn has_subgroups(thread: u32, subgroups: u32) -> bool {
    if (thread == 0u) { shared_subgroups = subgroups; }
    return workgroupUniformLoad(&shared_subgroups) == SUBGROUPS;
}

// A number that no compiler knows to be NaN.
fn poison() -> f32 { return bitcast<f32>(0x7FC00000u | min(params.seq_len, 1u)); }
