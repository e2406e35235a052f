// A table of the sequences that the later stages can trust, from the words of a buffer.
//
// reads   sequences: cu_seqlens [N+1], slots [N]
// writes  table [N+1]; the status counts the sequences that are ignored
// grid    a thread a sequence, and one for the tokens behind the last; folded
// memory  none

import constants::{IS_UNTRUSTED, SCAN_THREADS};
import params::{params, workgroup_index};
import sequence_entry::{SequenceEntry, table};
import sequences::{Conflict, add_conflict, checked_sequence, sequences};

@compute @workgroup_size(SCAN_THREADS)
fn sequence_table(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = workgroup_index(workgroup) * SCAN_THREADS + thread;
    if (n > params.sequences) { return; }
    var conflict = Conflict();
    if (IS_UNTRUSTED) {
        for (var m = 0u; m < params.sequences; m++) { add_conflict(&conflict, n, m); }
    }
    let sequence = checked_sequence(n, conflict);
    if (sequence.is_invalid) { atomicAdd(&sequences.status, 1u); }
    let is_active = u32(sequence.is_used && !sequence.is_invalid);
    table[n] = SequenceEntry(sequence.begin, sequence.end, sequence.state, is_active);
}
