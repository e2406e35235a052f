// implements: decode_item
//
// A work item of decode_step is a workgroup. One of its threads looks for the sequence.

import decode/item::{decode_sequences, item_of_sequence};
import params::{params, workgroup_index};
import sequences::{checked_sequence, sequences};
import work_item::{WorkItem};

var<workgroup> decode_shared: WorkItem;

// The same for all threads of a workgroup, and seen to be: barriers stand where the item decides.
fn decode_item(workgroup: vec3<u32>, thread: u32) -> WorkItem {
    let index = workgroup_index(workgroup);
    let n = index / params.value_heads;
    if (thread == 0u) {
        var item: WorkItem;
        if (n < decode_sequences()) {
            let sequence = checked_sequence(n);
            if (sequence.is_invalid && index % params.value_heads == 0u) {
                atomicAdd(&sequences.status, 1u);
            }
            item = item_of_sequence(index, n, sequence);
        }
        decode_shared = item;
    }
    return workgroupUniformLoad(&decode_shared);
}

// nu has one reader.
fn wait_for_readers_of_nu() {}
