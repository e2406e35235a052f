// The metadata of the sequences in a buffer, checked. A sequence whose words cannot be is ignored:
// its state stays as it was, its rows of o are zero, and the status counts it.
//
// The intervals of all sequences, with one more for the tokens behind the last, are a partition of
// 0 .. total_tokens, whatever the words are, so that every row of o has one writer. With
// M_n = max(cu_seqlens[0 ..= n]) the interval of sequence n is M_n .. M_(n+1), which for a valid
// sequence is cu_seqlens[n] .. cu_seqlens[n+1].

import constants::{HAS_GAPS, HAS_LENGTHS, HAS_SLOTS, IS_UNTRUSTED};
import params::{params};
import sequence_words::{conflict_index, gap_index, latest_index, slot_index, source_index};

struct Sequences {
    status: atomic<u32>,  // sequences ignored since the caller last cleared it
    // cu_seqlens [N+1] where HAS_LENGTHS, slots [N] where HAS_SLOTS, the slots that are read [N]
    // where HAS_SOURCES, checkpoints [N, CHECKPOINTS]: tokens and a slot each; then the words of
    // the checks
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

// The findings of other sequences' words about sequence n.
struct Conflict {
    latest: u32,     // the largest of cu_seqlens before its own
    has_twin: bool,  // another sequence writes its slot, or the one that it reads
}

fn length_word(n: u32) -> u32 { return sequences.words[n]; }

// The findings of the stages before, for entries that nobody has checked.
fn conflict_of(n: u32) -> Conflict {
    var conflict = Conflict();
    if (IS_UNTRUSTED && HAS_LENGTHS) { conflict.latest = sequences.words[latest_index(n)]; }
    if (IS_UNTRUSTED && HAS_SLOTS && n < params.sequences) {
        conflict.has_twin = sequences.words[conflict_index(n)] != 0u;
    }
    return conflict;
}

// Sequence n of N, or with n = N the tokens behind the last.
fn checked_sequence(n: u32) -> Sequence {
    let conflict = conflict_of(n);
    let is_rest = n >= params.sequences;
    var sequence = Sequence(n * params.seq_len, (n + 1u) * params.seq_len, n, n, !is_rest, false);
    if (HAS_SLOTS && !is_rest) {
        sequence.state = sequences.words[slot_index(n)];
        sequence.is_used = sequence.state != NO_SLOT;
        sequence.source = sequences.words[source_index(n)];
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

// The first token of an interval, from n = 0 to N.
fn first_token(n: u32) -> u32 {
    if (n == 0u) { return 0u; }
    return min(max(conflict_of(n).latest, length_word(n)), params.total_tokens);
}

// True where an interval has more tokens than a sequence may have: only one without a sequence
// does, and all work items share its rows of o.
fn is_long(begin: u32, end: u32) -> bool { return HAS_LENGTHS && end - begin > params.max_len; }

fn has_long_gap() -> bool {
    if (HAS_GAPS && !IS_UNTRUSTED) { return true; }
    // Of a host's lengths only the tokens behind the last are of no sequence.
    if (!IS_UNTRUSTED) { return is_long(first_token(params.sequences), params.total_tokens); }
    return sequences.words[gap_index()] != 0u;
}

fn is_in_long_gap(t: u32) -> bool {
    if (!IS_UNTRUSTED && !HAS_GAPS) { return t >= first_token(params.sequences); }
    var n = 0u;
    var beyond = params.sequences + 1u;
    while (beyond - n > 1u) {
        let middle = n + (beyond - n) / 2u;
        if (first_token(middle) <= t) { n = middle; } else { beyond = middle; }
    }
    var end = params.total_tokens;
    if (n < params.sequences) { end = first_token(n + 1u); }
    return is_long(first_token(n), end);
}
