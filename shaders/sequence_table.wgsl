// A table of the sequences that the later stages can trust, from the words of a buffer.
//
// reads   sequences: cu_seqlens [N+1], slots [N] and what else it has
// writes  table [N+1] and [N, CHECKPOINTS]; the status counts the sequences that are ignored
// grid    a thread a sequence, and one for the tokens behind the last; folded
// memory  none

import constants::{CHECKPOINTS, SCAN_THREADS};
import params::{params, workgroup_index};
import sequence_entry::{SequenceEntry, table};
import sequence_words::{checkpoint_index};
import sequences::{checked_sequence, sequences};

@compute @workgroup_size(SCAN_THREADS)
fn sequence_table(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = workgroup_index(workgroup) * SCAN_THREADS + thread;
    if (n > params.sequences) { return; }
    let sequence = checked_sequence(n);
    if (sequence.is_invalid) { atomicAdd(&sequences.status, 1u); }
    let is_active = u32(sequence.is_used && !sequence.is_invalid);
    table[n] = SequenceEntry(sequence.begin, sequence.end, sequence.source, sequence.state, is_active);
    if (n == params.sequences) { return; }
    let words = checkpoint_index(n);
    for (var c = 0u; c < CHECKPOINTS; c++) {
        let tokens = sequences.words[words + 2u * c];
        let slot = sequences.words[words + 2u * c + 1u];
        let is_used = is_active != 0u && tokens > 0u && tokens <= sequence.end - sequence.begin
            && slot < params.states;
        let end = select(0u, sequence.begin + tokens, is_used);
        table[params.sequences + 1u + n * CHECKPOINTS + c] =
            SequenceEntry(0u, end, 0u, select(0u, slot, is_used), u32(is_used));
    }
}
