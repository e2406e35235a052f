// The findings of other entries about entry n, in a time that grows no faster than N:
//
//     latest[n] = max(cu_seqlens[0 .. n])      gap = 1 where an interval has more than max_len tokens
//     conflict[n] = conflict[owner[slot_n]] = 1                   where owner[slot_n] != n
//     conflict[n] = conflict[m] = 1, m = owner[source_n] != n     where slot_m = source_n
//
// Of all entries of one slot at most one is its owner: each of the others marks itself and the
// owner, so that all are marked as soon as there are two. An owner of a slot that nobody has
// claimed is any word, and no entry's slot says so.
//
// reads   sequences: its entries, owners, block_max
// writes  sequences: latest [N+1], gap, conflicts [N]
// grid    a thread for four of N + 1 entries, folded
// memory  a word a thread, and one

import constants::{BLOCK_ENTRIES, HAS_LENGTHS, HAS_SLOTS, HAS_SOURCES, SCAN_THREADS, THREAD_ENTRIES};
import params::{params, workgroup_index};
import sequence_words::{block_index, gap_index, latest_index, owner_index, slot_index, source_index};
import unchecked_sequences::{has_slot, load_word, mark_conflict, store_word};

var<workgroup> before_block: atomic<u32>;
var<workgroup> thread_max: array<u32, SCAN_THREADS>;

@compute @workgroup_size(SCAN_THREADS)
fn sequence_conflicts(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = workgroup_index(workgroup);
    // The same for a whole workgroup.
    if (block > params.sequences / BLOCK_ENTRIES) { return; }
    let first = block * BLOCK_ENTRIES + thread * THREAD_ENTRIES;
    if (HAS_LENGTHS) {
        var latest = latest_before(block, first, thread);
        for (var n = first; n < first + THREAD_ENTRIES; n++) {
            if (n <= params.sequences) {
                store_word(latest_index(n), latest);
                // The interval before n, the first of which begins at token 0, or behind the last.
                let begin = select(latest, 0u, n <= 1u);
                latest = max(latest, load_word(n));
                find_gap(begin, latest);
                if (n == params.sequences) { find_gap(latest, params.total_tokens); }
            }
        }
    }
    if (HAS_SLOTS) {
        for (var n = first; n < first + THREAD_ENTRIES; n++) {
            if (n < params.sequences) { find_conflicts(n); }
        }
    }
}

// The largest of cu_seqlens before entry `first`, the first of a thread.
fn latest_before(block: u32, first: u32, thread: u32) -> u32 {
    if (thread == 0u) { atomicStore(&before_block, 0u); }
    var own = 0u;
    for (var n = first; n < first + THREAD_ENTRIES; n++) {
        if (n <= params.sequences) { own = max(own, load_word(n)); }
    }
    thread_max[thread] = own;
    workgroupBarrier();
    var blocks = 0u;
    for (var b = thread; b < block; b += SCAN_THREADS) { blocks = max(blocks, load_word(block_index(b))); }
    atomicMax(&before_block, blocks);
    for (var step = 1u; step < SCAN_THREADS; step *= 2u) {
        workgroupBarrier();
        var other = 0u;
        if (thread >= step) { other = thread_max[thread - step]; }
        workgroupBarrier();
        thread_max[thread] = max(thread_max[thread], other);
    }
    workgroupBarrier();
    var latest = atomicLoad(&before_block);
    if (thread > 0u) { latest = max(latest, thread_max[thread - 1u]); }
    return latest;
}

fn find_gap(begin: u32, end: u32) {
    let tokens = min(end, params.total_tokens) - min(begin, params.total_tokens);
    if (tokens > params.max_len) { store_word(gap_index(), 1u); }
}

fn find_conflicts(n: u32) {
    let slot = load_word(slot_index(n));
    // No slot of the pool: the entry takes no part.
    if (slot >= params.states) { return; }
    let owner = load_word(owner_index(slot));
    if (owner != n) {
        mark_conflict(n);
        mark_conflict(owner);
    }
    if (HAS_SOURCES) {
        let source = load_word(source_index(n));
        if (source >= params.states) { return; }
        let writer = load_word(owner_index(source));
        if (writer != n && has_slot(writer, source)) {
            mark_conflict(n);
            mark_conflict(writer);
        }
    }
}
