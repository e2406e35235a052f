// The part of the problem that a work item of the grid computes: a workgroup, or where rows are
// loaded directly a thread.

import constants::{FEATURE_BLOCKS, ITEM_HEADS};
import heads::{key_head, output_begin, output_row, query_begin, query_head};
import params::{params};
import sequence_entry::{first_segment, segment_count, sequence_entry, sequence_of_segment};

struct WorkItem {
    is_active: bool,     // false beyond the end of the grid
    has_sequence: bool,  // false where its tokens belong to no sequence
    segment: u32,        // index among all segments, and of its state in scratch
    is_last: bool,       // the last segment of its sequence
    sequence: u32,       // index of its sequence
    source: u32,         // index of its sequence's initial state, outside scratch
    state: u32,          // index of its sequence's final state, outside scratch
    head: u32,           // value head
    first_head: u32,     // output heads first_head .. first_head + heads
    heads: u32,
    key_head: u32,
    query_head: u32,     // of the first output head; where there are several, each has its own
    value_block: u32,
    feature_block: u32,
    begin: u32,          // tokens begin .. end, counted through all sequences
    end: u32,
}

// Some tokens of a work item, which go through the kernel together.
struct Chunk {
    first: u32,   // tokens first .. first + tokens
    tokens: u32,
}

// Row of partial sums of one of a chunk's query rows, in the order [tokens, heads].
fn chunk_output_row(item: WorkItem, chunk: Chunk, row: u32) -> u32 {
    return output_row(chunk.first + row_token(item, row), item.first_head + row_head(item, row));
}

// The first element of the row of o of the same.
fn chunk_output_begin(item: WorkItem, chunk: Chunk, row: u32) -> u32 {
    return output_begin(chunk.first + row_token(item, row), item.first_head + row_head(item, row));
}

// Of the row of q.
fn chunk_query_begin(item: WorkItem, chunk: Chunk, row: u32) -> u32 {
    return query_begin(chunk.first + row_token(item, row), item.query_head + row_head(item, row));
}

// The token of a query row of a chunk, and its head among the item's. A division by a number that
// is not known takes a GPU some twenty instructions.
fn row_token(item: WorkItem, row: u32) -> u32 {
    if (ITEM_HEADS > 0u) { return row / max(ITEM_HEADS, 1u); }
    return row / item.heads;
}

fn row_head(item: WorkItem, row: u32) -> u32 {
    if (ITEM_HEADS > 0u) { return row % max(ITEM_HEADS, 1u); }
    return row % item.heads;
}

// Item `index` of segments x E x head blocks x feature blocks x value blocks, where all sequences
// have as many segments, and this stage the first `segments` of each.
fn work_item(index: u32, head_blocks: u32, segments: u32) -> WorkItem {
    var item = item_in_segment(index, head_blocks);
    let segment = index / items_per_segment(head_blocks);
    let n = segment / segments;
    let s = segment % segments;
    let first_token = n * params.seq_len;
    item.is_active = n < params.sequences;
    item.has_sequence = true;
    item.segment = n * params.segments + s;
    item.is_last = s + 1u == params.segments;
    item.sequence = n;
    item.source = n;
    item.state = n;
    item.begin = first_token + s * params.segment_len;
    item.end = first_token + min((s + 1u) * params.segment_len, params.seq_len);
    return item;
}

// The same where a table has the sequences. WGSL sees no uniform value in what it returns.
fn work_item_in_table(index: u32, head_blocks: u32) -> WorkItem {
    var item = item_in_segment(index, head_blocks);
    item.segment = index / items_per_segment(head_blocks);
    let n = sequence_of_segment(item.segment);
    let entry = sequence_entry(n);
    // s may wrap for an entry that is not valid: then it is too large as well.
    let s = item.segment - first_segment(n, entry.begin);
    item.is_active = s < segment_count(entry);
    // The tokens behind the last sequence have no checkpoints in the table, whatever scratch holds.
    item.has_sequence = entry.is_active != 0u && n < params.sequences;
    item.is_last = s + 1u == segment_count(entry);
    item.sequence = n;
    item.source = entry.source;
    item.state = entry.state;
    item.begin = entry.begin + s * params.segment_len;
    item.end = item.begin + min(params.segment_len, entry.end - item.begin);
    return item;
}

// The heads and blocks of an item.
fn item_in_segment(index: u32, head_blocks: u32) -> WorkItem {
    var item: WorkItem;
    var rest = index;
    item.value_block = rest % params.value_blocks;
    rest /= params.value_blocks;
    item.feature_block = rest % FEATURE_BLOCKS;
    rest /= FEATURE_BLOCKS;
    let before = (rest % head_blocks) * params.head_tile;
    rest /= head_blocks;
    item.head = rest % params.value_heads;
    item.first_head = item.head * params.group + before;
    item.heads = min(params.head_tile, params.group - before);
    item.key_head = key_head(item.head);
    item.query_head = query_head(item.first_head);
    return item;
}

fn items_per_segment(head_blocks: u32) -> u32 {
    return params.value_blocks * FEATURE_BLOCKS * head_blocks * params.value_heads;
}
