// What a buffer says of the sequences, checked. A sequence whose words cannot be is ignored: its state
// stays as it was, its rows of o are zero, and the status counts it.
//
// The intervals of all sequences, with one more for the tokens behind the last, are a partition of
// 0 .. total_tokens, whatever the words are, so that every row of o has one writer. With
// M_n = max(cu_seqlens[0 ..= n]) the interval of sequence n is M_n .. M_(n+1), which for a valid
// sequence is cu_seqlens[n] .. cu_seqlens[n+1].

import constants::{CHECKPOINTS, HAS_LENGTHS, HAS_SLOTS, HAS_SOURCES};
import params::{params};

struct Sequences {
    status: atomic<u32>,  // sequences ignored since the caller last cleared it
    // cu_seqlens [N+1] where HAS_LENGTHS, slots [N] where HAS_SLOTS, the slots that are read [N] where
    // HAS_SOURCES, checkpoints [N, CHECKPOINTS]: tokens and a slot each
    words: array<u32>,
}

@group(0) @binding(8) var<storage, read_write> sequences: Sequences;

// The slot of a sequence that takes no part.
const NO_SLOT: u32 = 0xFFFFFFFFu;

struct Sequence {
    begin: u32,        // tokens begin .. end, counted through all sequences
    end: u32,
    source: u32,       // index of its initial state, outside scratch
    state: u32,        // index of its final state, outside scratch
    is_used: bool,
    is_invalid: bool,  // counted by the status, and ignored
}

// What other sequences' words say of sequence n.
struct Conflict {
    latest: u32,     // the largest of cu_seqlens before its own
    has_twin: bool,  // another sequence writes its slot, or the one that it reads
}

fn length_word(n: u32) -> u32 { return sequences.words[n]; }

fn slot_word(n: u32) -> u32 {
    return sequences.words[n + select(0u, params.sequences + 1u, HAS_LENGTHS)];
}

// The slot that a sequence reads.
fn source_word(n: u32) -> u32 {
    if (!HAS_SOURCES) { return slot_word(n); }
    return sequences.words[params.sequences + n + select(0u, params.sequences + 1u, HAS_LENGTHS)];
}

// The index of the first checkpoint word of sequence n.
fn checkpoint_words(n: u32) -> u32 {
    let slots = select(1u, 2u, HAS_SOURCES) * params.sequences;
    return slots + select(0u, params.sequences + 1u, HAS_LENGTHS) + 2u * CHECKPOINTS * n;
}

// Adds what the words of sequence m say of sequence n.
fn add_conflict(conflict: ptr<function, Conflict>, n: u32, m: u32) {
    if (HAS_LENGTHS) {
        if (m < n) { (*conflict).latest = max((*conflict).latest, length_word(m)); }
    }
    if (HAS_SLOTS) {
        if (n < params.sequences && m != n) {
            let slot = slot_word(m);
            let is_shared = slot == slot_word(n) || slot == source_word(n)
                || source_word(m) == slot_word(n);
            if (is_shared) { (*conflict).has_twin = true; }
        }
    }
}

// Sequence n of N, or with n = N the tokens behind the last.
fn checked_sequence(n: u32, conflict: Conflict) -> Sequence {
    let is_rest = n >= params.sequences;
    var sequence = Sequence(n * params.seq_len, (n + 1u) * params.seq_len, n, n, !is_rest, false);
    if (HAS_SLOTS && !is_rest) {
        sequence.state = slot_word(n);
        sequence.is_used = sequence.state != NO_SLOT;
        sequence.source = source_word(n);
        let is_in_pool = sequence.state < params.states && sequence.source < params.states;
        sequence.is_invalid = !is_in_pool || conflict.has_twin;
    }
    if (HAS_LENGTHS) {
        let begin = length_word(n);
        var end = params.total_tokens;
        if (!is_rest) { end = length_word(n + 1u); }
        let is_valid = conflict.latest <= begin && begin <= end && end <= params.total_tokens
            && end - begin <= params.max_len && (n > 0u || begin == 0u);
        sequence.is_invalid = sequence.is_invalid || !is_valid;
        sequence.begin = min(max(conflict.latest, begin), params.total_tokens);
        sequence.end = max(sequence.begin, min(end, params.total_tokens));
        if (n == 0u) { sequence.begin = 0u; }
    } else if (is_rest) {
        sequence.begin = params.total_tokens;
        sequence.end = params.total_tokens;
    }
    sequence.is_invalid = sequence.is_invalid && sequence.is_used;
    if (!sequence.is_used || sequence.is_invalid) {
        sequence.state = 0u;
        sequence.source = 0u;
    }
    return sequence;
}
