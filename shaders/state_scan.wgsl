// The state that each segment starts from, from what each segment adds:
//
//     state_0 = initial state      state_{s+1} = state_s + m_s state_s + added_s
//
// where m_s is 0 unless the update rule has decays.
//
// reads   segment_decays [segments, E, 1 or F]: m
//         state_in [N, state]: the initial states, or nothing
// in/out  state_out [segments, state]: added in, start out
// grid    a thread an element of N states, folded
// memory  none

import constants::{HAS_TABLE, INITIAL_STATE, SCAN_THREADS, STATE_ZERO};
import params::{params, workgroup_index};
import segment_decay::{element_decay};
import sequence_entry::{first_segment, segment_count, sequence_entry};
import states::{Element, state_in, state_out};
import states/offset::{state_len};

@compute @workgroup_size(SCAN_THREADS)
fn state_scan(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let len = state_len();
    let n = i / len;
    let element = i % len;
    if (n >= params.sequences) { return; }
    var first = n * params.segments;
    var last = first + params.segments - 1u;
    var source = n;
    if (HAS_TABLE) {
        let entry = sequence_entry(n);
        if (entry.is_active == 0u) { return; }
        first = first_segment(n, entry.begin);
        last = first + segment_count(entry) - 1u;
        source = entry.source;
    }

    var sum = Element();
    if (INITIAL_STATE != STATE_ZERO) { sum = state_in[source * len + element]; }
    // Kahan's compensation: what rounding took from a sum is given back with the next addition, so
    // that the error does not grow with the number of segments.
    var compensation = Element();
    for (var segment = first; segment < last; segment++) {
        let at = segment * len + element;
        let m = element_decay(segment, element);
        let added = state_out[at] + m * sum - (compensation + m * compensation);
        state_out[at] = sum;
        let next = sum + added;
        compensation = (next - sum) - added;
        sum = next;
    }
    state_out[last * len + element] = sum;
}
