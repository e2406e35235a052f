// What a buffer says of the sequences, and whether that can be. An entry that cannot be is
// ignored: no state changes, no output is written, and the status counts it. Entries are compared
// with one another only where the device wrote them: what the host wrote, it has checked.

struct Sequences {
    status: atomic<u32>,   // entries ignored since the caller last cleared it
    // cu_seqlens [N+1], with LENGTHS_GIVEN; then slots [N], with SLOTS_GIVEN
    entries: array<u32>,
}

@group(0) @binding(8) var<storage, read_write> sequences: Sequences;

// The slot of an entry that is not in use.
const NO_SLOT: u32 = 0xFFFFFFFFu;

struct Sequence {
    begin: u32,      // tokens begin .. end, counted through all sequences
    end: u32,
    state: u32,      // its state in `start` and `end`
    is_used: bool,
    is_bad: bool,
}

fn length_entry(n: u32) -> u32 { return sequences.entries[n]; }

fn slot_entry(n: u32) -> u32 {
    return sequences.entries[n + select(0u, params.sequences + 1u, LENGTHS_GIVEN)];
}

// Sequence n, as its own entries say.
fn sequence_of(n: u32) -> Sequence {
    var sequence = Sequence(n * params.seq_len, (n + 1u) * params.seq_len, n, true, false);
    if (LENGTHS_GIVEN) {
        sequence.begin = length_entry(n);
        sequence.end = length_entry(n + 1u);
        let can_be = sequence.begin <= sequence.end && sequence.end <= params.tokens
            && sequence.end - sequence.begin <= params.max_len
            && (n > 0u || sequence.begin == 0u);
        sequence.is_bad = !can_be;
    }
    if (SLOTS_GIVEN) {
        sequence.state = slot_entry(n);
        sequence.is_used = sequence.state != NO_SLOT;
        sequence.is_bad = (sequence.is_bad || sequence.state >= params.states) && sequence.is_used;
    }
    return sequence;
}

// Whether entry m makes sequence n impossible: it ends after n begins, or has the same slot.
fn clashes(n: u32, sequence: Sequence, m: u32) -> bool {
    var clash = false;
    if (LENGTHS_GIVEN) { clash = m < n && length_entry(m) > sequence.begin; }
    if (SLOTS_GIVEN) { clash = clash || (m != n && slot_entry(m) == sequence.state); }
    return clash;
}
