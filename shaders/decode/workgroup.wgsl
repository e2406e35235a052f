// implements: decode_item
//
// A work item of decode_step is a workgroup. Its threads share the search for conflicting sequences.

import constants::{IS_UNTRUSTED, THREADS};
import decode/item::{decode_sequences, item_of_sequence};
import params::{params, workgroup_index};
import sequences::{Conflict, add_conflict, checked_sequence, sequences};
import work_item::{WorkItem};

var<workgroup> decode_shared: WorkItem;
var<workgroup> shared_latest: atomic<u32>;
var<workgroup> shared_twins: atomic<u32>;

// The same for all threads of a workgroup, and seen to be: barriers stand where the item decides.
fn decode_item(workgroup: vec3<u32>, thread: u32) -> WorkItem {
    let index = workgroup_index(workgroup);
    let n = index / params.value_heads;
    var conflict = Conflict();
    if (IS_UNTRUSTED) {
        if (thread == 0u) {
            atomicStore(&shared_latest, 0u);
            atomicStore(&shared_twins, 0u);
        }
        workgroupBarrier();
        if (n < decode_sequences()) {
            for (var m = thread; m < params.sequences; m += THREADS) { add_conflict(&conflict, n, m); }
        }
        atomicMax(&shared_latest, conflict.latest);
        if (conflict.has_twin) { atomicStore(&shared_twins, 1u); }
        workgroupBarrier();
        conflict = Conflict(atomicLoad(&shared_latest), atomicLoad(&shared_twins) != 0u);
    }
    if (thread == 0u) {
        var item: WorkItem;
        if (n < decode_sequences()) {
            let sequence = checked_sequence(n, conflict);
            if (sequence.is_invalid && index % params.value_heads == 0u) {
                atomicAdd(&sequences.status, 1u);
            }
            item = item_of_sequence(index, sequence);
        }
        decode_shared = item;
    }
    return workgroupUniformLoad(&decode_shared);
}

// nu has one reader.
fn wait_for_readers_of_nu() {}
