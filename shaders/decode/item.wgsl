// The work items of decode_step, with what both ways to load rows share.

import constants::{HAS_LENGTHS, HAS_SLOTS};
import heads::{key_head, query_head};
import params::{params};
import sequences::{Sequence};
import work_item::{WorkItem};

// Item `index` of N (and the tokens behind the last sequence) x E.
fn item_of_sequence(index: u32, n: u32, sequence: Sequence) -> WorkItem {
    var item: WorkItem;
    item.is_active = true;
    item.has_sequence = sequence.is_used && !sequence.is_invalid;
    item.is_last = true;
    item.sequence = n;
    item.source = sequence.source;
    item.state = sequence.state;
    item.head = index % params.value_heads;
    item.first_head = item.head * params.group;
    item.heads = params.group;
    item.key_head = key_head(item.head);
    item.query_head = query_head(item.first_head);
    item.begin = sequence.begin;
    item.end = sequence.end;
    return item;
}

// Sequences of the grid.
fn decode_sequences() -> u32 {
    return params.sequences + select(0u, 1u, HAS_LENGTHS || HAS_SLOTS);
}
