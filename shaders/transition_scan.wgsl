// The state that each segment of a delta rule starts from:
//
//     state_0 = initial state      state_{s+1} = M_s state_s + added_s
//
// A workgroup has some columns of a value head's state, which is all that a product with M needs.
//
// reads   state_in [N, state]: the initial states, or nothing  transitions [segments, E, F, F]: M
// in/out  state_out [segments, state]: added in, start out
// grid    N x E x columns, an element wide; folded
// memory  elements: 2 F

import constants::{FEATURE_DIM, HAS_TABLE, INITIAL_STATE, SCAN_THREADS, STATE_ZERO, VALUE_DIM};
import params::{params, workgroup_index};
import sequence_entry::{first_segment, segment_count, sequence_entry};
import states::{ELEMENT_LEN, Element, component, state_in, state_out};
import states/offset::{state_len};

const COLUMN_ELEMENTS: u32 = VALUE_DIM / ELEMENT_LEN;
const MU_LEN: u32 = FEATURE_DIM * COLUMN_ELEMENTS;
const ROW_ELEMENTS: u32 = FEATURE_DIM / ELEMENT_LEN;

@group(0) @binding(16) var<storage, read_write> transitions: array<Element>;  // [segments, E, F, F]

// The segments of a sequence, and the index of its initial state.
struct Segments { first: u32, last: u32, source: u32, is_active: u32 }

var<workgroup> shared_segments: Segments;
var<workgroup> before: array<Element, FEATURE_DIM>;
var<workgroup> after: array<Element, FEATURE_DIM>;

@compute @workgroup_size(SCAN_THREADS)
fn transition_scan(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    let column = index % COLUMN_ELEMENTS;
    let e = index / COLUMN_ELEMENTS % params.value_heads;
    let n = index / (COLUMN_ELEMENTS * params.value_heads);
    if (n >= params.sequences) { return; }
    if (thread == 0u) { shared_segments = segments_of(n); }
    let segments = workgroupUniformLoad(&shared_segments);
    if (segments.is_active == 0u) { return; }

    for (var f = thread; f < FEATURE_DIM; f += SCAN_THREADS) {
        before[f] = Element();
        if (INITIAL_STATE != STATE_ZERO) { before[f] = state_in[element(segments.source, e, f, column)]; }
    }
    workgroupBarrier();
    for (var segment = segments.first; segment < segments.last; segment++) {
        for (var f = thread; f < FEATURE_DIM; f += SCAN_THREADS) {
            let at = element(segment, e, f, column);
            after[f] = state_out[at] + product(segment, e, f);
            state_out[at] = before[f];
        }
        workgroupBarrier();
        for (var f = thread; f < FEATURE_DIM; f += SCAN_THREADS) { before[f] = after[f]; }
        workgroupBarrier();
    }
    for (var f = thread; f < FEATURE_DIM; f += SCAN_THREADS) {
        state_out[element(segments.last, e, f, column)] = before[f];
    }
}

fn segments_of(n: u32) -> Segments {
    let first = n * params.segments;
    if (!HAS_TABLE) { return Segments(first, first + params.segments - 1u, n, 1u); }
    let entry = sequence_entry(n);
    let begin = first_segment(n, entry.begin);
    return Segments(begin, begin + segment_count(entry) - 1u, entry.source, entry.is_active);
}

// The index of row f of some columns of mu.
fn element(state: u32, e: u32, f: u32, column: u32) -> u32 {
    return state * state_len() + e * MU_LEN + f * COLUMN_ELEMENTS + column;
}

// Row f of M, times the columns.
fn product(segment: u32, e: u32, f: u32) -> Element {
    let row = ((segment * params.value_heads + e) * FEATURE_DIM + f) * ROW_ELEMENTS;
    var sum = Element();
    for (var i = 0u; i < FEATURE_DIM; i++) {
        sum += component(transitions[row + i / ELEMENT_LEN], i % ELEMENT_LEN) * before[i];
    }
    return sum;
}
