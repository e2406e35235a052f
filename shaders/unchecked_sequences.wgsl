// `sequences`, as the stages bind it that check its entries.

import params::{params};
import sequence_words::{conflict_index, slot_index};

struct UncheckedSequences {
    status: atomic<u32>,
    words: array<atomic<u32>>,
}

@group(0) @binding(8) var<storage, read_write> sequences: UncheckedSequences;

fn load_word(index: u32) -> u32 { return atomicLoad(&sequences.words[index]); }

fn store_word(index: u32, word: u32) { atomicStore(&sequences.words[index], word); }

fn mark_conflict(n: u32) {
    if (n < params.sequences) { store_word(conflict_index(n), 1u); }
}

// True for an entry that writes a slot of the pool.
fn has_slot(n: u32, slot: u32) -> bool {
    return n < params.sequences && load_word(slot_index(n)) == slot;
}
