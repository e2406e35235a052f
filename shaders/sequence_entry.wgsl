// The table that sequence_table writes and that later stages search.

import constants::{CHECKPOINTS};
import params::{params};

struct SequenceEntry {
    begin: u32,      // tokens begin .. end, counted through all sequences
    end: u32,
    source: u32,     // index of its initial state, outside scratch
    state: u32,      // index of its final state, outside scratch
    is_active: u32,  // 0 for tokens that belong to no sequence: their rows of o are zero
}

// [N + 1]; the last is for the tokens behind the last sequence. Then [N, CHECKPOINTS]: the state
// after the tokens up to `end` goes to `state`, where it is active.
@group(0) @binding(7) var<storage, read_write> table: array<SequenceEntry>;

// Validated again: scratch is caller-owned memory, and no index may leave a buffer.
fn sequence_entry(n: u32) -> SequenceEntry {
    let entry = table[n];
    let is_valid = entry.begin <= entry.end && entry.end <= params.total_tokens
        && entry.state < params.states && entry.source < params.states;
    if (is_valid) { return entry; }
    return SequenceEntry(0u, 0u, 0u, 0u, 0u);
}

// Checkpoint c of sequence n.
fn checkpoint_entry(n: u32, c: u32) -> SequenceEntry {
    return sequence_entry(params.sequences + 1u + n * CHECKPOINTS + c);
}

// The end of the first checkpoint of sequence n behind token t, or `end` where none is before it.
fn next_checkpoint(n: u32, t: u32, end: u32) -> u32 {
    var next = end;
    for (var c = 0u; c < CHECKPOINTS; c++) {
        let entry = checkpoint_entry(n, c);
        if (entry.is_active != 0u && entry.end > t) { next = min(next, entry.end); }
    }
    return next;
}

// Segments of a sequence: an empty one has one, too, which carries its state on.
fn segment_count(entry: SequenceEntry) -> u32 {
    return max((entry.end - entry.begin + params.segment_len - 1u) / params.segment_len, 1u);
}

// The index of its first segment. It leaves room for the segments of the sequences before, since
// ceil(x / L) <= floor((begin + x) / L) - floor(begin / L) + 1.
fn first_segment(n: u32, begin: u32) -> u32 {
    return n + begin / params.segment_len;
}

// The last sequence whose segments begin at or before this one.
fn sequence_of_segment(segment: u32) -> u32 {
    var n = 0u;
    var beyond = params.sequences + 1u;
    while (beyond - n > 1u) {
        let middle = n + (beyond - n) / 2u;
        if (first_segment(middle, table[middle].begin) <= segment) { n = middle; } else { beyond = middle; }
    }
    return n;
}

// The last sequence that begins at or before this token.
fn sequence_of_token(t: u32) -> u32 {
    var n = 0u;
    var beyond = params.sequences + 1u;
    while (beyond - n > 1u) {
        let middle = n + (beyond - n) / 2u;
        if (table[middle].begin <= t) { n = middle; } else { beyond = middle; }
    }
    return n;
}
