// The places of the words of `sequences`. Behind those of the caller, the buffer of entries that
// nobody has checked has room for what the stages before find out about them.

import constants::{BLOCK_ENTRIES, CHECKPOINTS, HAS_LENGTHS, HAS_SOURCES};
import params::{params};

fn slot_index(n: u32) -> u32 {
    return n + select(0u, params.sequences + 1u, HAS_LENGTHS);
}

// Of the slot that a sequence reads.
fn source_index(n: u32) -> u32 {
    return slot_index(n) + select(0u, params.sequences, HAS_SOURCES);
}

// Of the first checkpoint word of sequence n.
fn checkpoint_index(n: u32) -> u32 {
    return source_index(params.sequences) + 2u * CHECKPOINTS * n;
}

// Not 0 where an interval has more tokens than a sequence may have.
fn gap_index() -> u32 {
    return checkpoint_index(params.sequences);
}

// [N+1]: the largest of cu_seqlens before that of n.
fn latest_index(n: u32) -> u32 {
    return gap_index() + 1u + n;
}

// [blocks]: the largest of cu_seqlens of a block's entries.
fn block_index(block: u32) -> u32 {
    return latest_index(params.sequences + 1u) + block;
}

// [N]: not 0 where another entry has the slot of n.
fn conflict_index(n: u32) -> u32 {
    return block_index(params.sequences / BLOCK_ENTRIES + 1u) + n;
}

// [slots]: one of the entries that write a slot. Where none does, any word.
fn owner_index(slot: u32) -> u32 {
    return conflict_index(params.sequences) + slot;
}
