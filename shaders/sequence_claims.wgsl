// Every entry claims the slot that it writes; the last one to do so has it for now:
//
//     owner[slot_n] = n      conflict[n] = 0      gap = 0      block_max[b] = max(cu_seqlens of block b)
//
// No word is read that this stage has not written, so nothing has to be cleared before.
//
// reads   sequences: cu_seqlens [N+1], slots [N]
// writes  sequences: owners [slots], conflicts [N], gap, block_max [blocks]
// grid    a thread for four of N + 1 entries, folded
// memory  a word

import constants::{BLOCK_ENTRIES, HAS_LENGTHS, HAS_SLOTS, SCAN_THREADS, THREAD_ENTRIES};
import params::{params, workgroup_index};
import sequence_words::{block_index, conflict_index, gap_index, owner_index, slot_index};
import unchecked_sequences::{load_word, store_word};

var<workgroup> block_max: atomic<u32>;

@compute @workgroup_size(SCAN_THREADS)
fn sequence_claims(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = workgroup_index(workgroup);
    // The same for a whole workgroup.
    if (block > params.sequences / BLOCK_ENTRIES) { return; }
    if (thread == 0u) {
        atomicStore(&block_max, 0u);
        if (block == 0u) { store_word(gap_index(), 0u); }
    }
    workgroupBarrier();
    let first = block * BLOCK_ENTRIES + thread * THREAD_ENTRIES;
    var latest = 0u;
    for (var n = first; n < first + THREAD_ENTRIES; n++) {
        if (HAS_LENGTHS && n <= params.sequences) { latest = max(latest, load_word(n)); }
        if (HAS_SLOTS && n < params.sequences) {
            store_word(conflict_index(n), 0u);
            let slot = load_word(slot_index(n));
            if (slot < params.states) { store_word(owner_index(slot), n); }
        }
    }
    if (HAS_LENGTHS) {
        atomicMax(&block_max, latest);
        workgroupBarrier();
        if (thread == 0u) { store_word(block_index(block), atomicLoad(&block_max)); }
    }
}
