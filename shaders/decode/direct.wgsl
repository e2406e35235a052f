// implements: decode_item
//
// A work item of decode_step is a thread, which has a value block of a value head. The value blocks
// of a head are neighbours in one workgroup: all of them read nu before the first of them stores
// it.

import constants::{DECODE_ITEMS, VALUE_BLOCKS};
import decode/item::{decode_sequences, item_of_sequence};
import params::{params, workgroup_index};
import sequences::{checked_sequence, sequences};
import work_item::{WorkItem};

fn decode_item(workgroup: vec3<u32>, thread: u32) -> WorkItem {
    let index = workgroup_index(workgroup) * DECODE_ITEMS + thread / VALUE_BLOCKS;
    let n = index / params.value_heads;
    var item: WorkItem;
    if (n >= decode_sequences()) { return item; }
    let sequence = checked_sequence(n);
    item = item_of_sequence(index, n, sequence);
    item.value_block = thread % VALUE_BLOCKS;
    if (sequence.is_invalid && item.head == 0u && item.value_block == 0u) {
        atomicAdd(&sequences.status, 1u);
    }
    return item;
}

fn wait_for_readers_of_nu() { storageBarrier(); }
