// From the caller's cu_seqlens and slots to a table that the other stages can trust.
//
// reads   sequences: cu_seqlens [N+1], slots [N]
// writes  table [N]; the status counts the entries that cannot be
// grid    one thread a sequence, folded
// memory  none

override SCAN_THREADS: u32;  // threads of a workgroup

@compute @workgroup_size(SCAN_THREADS)
fn sequence_table(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = (workgroup.y * params.grid_width + workgroup.x) * SCAN_THREADS + thread;
    if (n >= params.sequences) {
        return;
    }
    let sequence = sequence_of(n);
    var is_bad = sequence.is_bad;
    // The latest beginning so far. It never decreases, whatever the entries say, and the
    // search for the sequence of a segment rests on that.
    var latest = min(sequence.begin, params.tokens);
    if (MAY_CLASH) {
        for (var m = 0u; m < params.sequences; m++) {
            if (LENGTHS_GIVEN) {
                if (m < n) { latest = max(latest, min(length_entry(m), params.tokens)); }
            }
            is_bad = is_bad || (sequence.is_used && clashes(n, sequence, m));
        }
    }
    if (is_bad) {
        atomicAdd(&sequences.status, 1u);
    }
    if (is_bad || !sequence.is_used) {
        table[n] = vec4<u32>(latest, latest, 0u, 0u);
        return;
    }
    table[n] = vec4<u32>(sequence.begin, sequence.end, sequence.state, 1u);
}
