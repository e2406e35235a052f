// From what each segment adds to the state each segment starts from:
//
//     start_0 = initial state      start_{s+1} = start_s + added_s
//
// reads   start [N, state]: the initial state, or nothing
// in/out  end [segments, state]: added in, start out
// grid    one thread an element of N states, folded
// memory  none

override SCAN_THREADS: u32;  // threads of a workgroup

@compute @workgroup_size(SCAN_THREADS)
fn state_scan(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = (workgroup.y * params.grid_width + workgroup.x) * SCAN_THREADS + thread;
    let len = state_len();
    let n = i / len;
    let element = i % len;
    if (n >= params.sequences) {
        return;
    }
    var first = n * params.segments;
    var last = first + params.segments - 1u;
    var state = n;
    if (LENGTHS_GIVEN || SLOTS_GIVEN) {
        let entry = entry_of(n);
        if (entry.w == 0u) {
            return;
        }
        first = first_segment(n, entry);
        last = first + segments_of(entry) - 1u;
        state = entry.z;
    }

    var sum = Element();
    if (START != START_ZERO) {
        sum = start[state * len + element];
    }
    // What rounding took from the sum so far is given back with the next addition (Kahan), so that
    // the error does not grow with the number of segments.
    var lost = Element();
    for (var segment = first; segment < last; segment++) {
        let at = segment * len + element;
        let added = end[at] - lost;
        end[at] = sum;
        let next = sum + added;
        lost = (next - sum) - added;
        sum = next;
    }
    end[last * len + element] = sum;
}
