// The gradients by what a delta rule adds to the state in each token, but for beta, from the last
// token of a sequence to the first. With R_t the gradient by the state that the rows of o of token t
// read, and R'_t that by the state which decays into it,
//
//     R_t  = R'_(t+1) a_(t+1) + Σ_h q'_t^T dy_t      de_t / b_t = du_t = k'_t R_t
//     R'_t = R_t - b_t k'_t^T du_t                   dv_t = b_t du_t
//
// over the output heads h that read the value head, with R'_(T+1) a_(T+1) the gradient by the final
// state. No column of R depends on another. The gradient by the initial state is R' of the first
// token, times its decay, which gradient_pass_outputs multiplies by.
//
// A row at a time enters or leaves the state: those of the output heads of a token, and then its
// key. A dispatch has some tokens of each sequence, as that of gradient_corrections.
//
// reads   keys [T,E,PASS_KEY_VEC4]  queries [T,max(H,E),PASS_KEY_VEC4 + 1]
//         output_rows [T,max(H,E),PASS_VALUE_VEC4]: dy  pass_decays: decays and betas  ranges [N]
// writes  of_pass_values [T,E,PASS_VALUE_VEC4]: du
// updates pass_states: the gradient behind the tokens to that before them, of each value head's first
//         output head
// grid    a workgroup a sequence, value head and block of columns, folded
// memory  see gradient/corrections; CORRECTION_COLUMNS CORRECTION_LANES threads

import constants::{CORRECTION_COLUMNS, CORRECTION_LANES, CORRECTION_ROWS, CORRECTION_VEC4, HAS_DECAY};
import gradient/corrections::{COLUMN_BLOCKS, CORRECTION_THREADS, Column, ROW_VEC4, STATE_COLUMNS};
import gradient/corrections::{Walk, features, gates, gates_of, has_column, has_features, load_column};
import gradient/corrections::{multiplied, range_of, steps_of, store_column, values, walk_of};
import gradient/passes::{PASS_KEY_VEC4, PASS_STATE_LEN, gradient_state, gradients_begin};
import params::{params, workgroup_index};

@group(0) @binding(5) var<storage, read_write> output_rows: array<f32>;
@group(0) @binding(6) var<storage, read_write> of_pass_values: array<f32>;
@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;
@group(0) @binding(19) var<storage, read_write> queries: array<vec4<f32>>;

@compute @workgroup_size(CORRECTION_THREADS)
fn gradient_corrections_reversed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    if (index >= params.sequences * params.value_heads * COLUMN_BLOCKS) { return; }
    let range = range_of(index, thread);
    let steps = steps_of(range.y - range.x);
    if (steps.x == steps.y) { return; }
    let walk = walk_of(index, thread);
    let state = gradients_begin() + gradient_state(walk.n, walk.head * params.group) * PASS_STATE_LEN;
    var column = load_column(walk, state);
    // Rows of a token: its output heads', and its key.
    let rows = params.group + 1u;
    var h = 0u;
    var t = range.y - steps.x;
    let end = steps.y * rows;
    for (var first = steps.x * rows; first < end; first += CORRECTION_ROWS) {
        let count = min(end - first, CORRECTION_ROWS);
        workgroupBarrier();
        load_rows(walk, range, first, count, thread);
        workgroupBarrier();
        for (var r = 0u; r < count; r++) {
            if (h < params.group) {
                add_query(&column, r, walk);
                h++;
                continue;
            }
            let gate = gates[r];
            let du = multiplied(&column, r, walk, t);
            take_key(&column, r, walk, gate.x, gate.y * du);
            t--;
            h = 0u;
            if (walk.lane == 0u && has_column(walk)) {
                of_pass_values[(t * params.value_heads + walk.head) * STATE_COLUMNS + walk.column] = du;
            }
        }
    }
    store_column(&column, walk, state);
}

fn add_query(column: ptr<function, Column>, r: u32, walk: Walk) {
    let dy = values[r * CORRECTION_COLUMNS + walk.slot];
    @unroll
    for (var i = 0u; i < CORRECTION_VEC4; i++) {
        (*column)[i] += features[r * ROW_VEC4 + i * CORRECTION_LANES + walk.lane] * dy;
    }
}

// Row r times x, from the column, which then decays.
fn take_key(column: ptr<function, Column>, r: u32, walk: Walk, decay: f32, x: f32) {
    @unroll
    for (var i = 0u; i < CORRECTION_VEC4; i++) {
        (*column)[i] -= features[r * ROW_VEC4 + i * CORRECTION_LANES + walk.lane] * x;
        if (HAS_DECAY) { (*column)[i] += decay * (*column)[i]; }
    }
}

// `count` rows from `first` on, as the sequence has them from its last token to its first.
fn load_rows(walk: Walk, range: vec2<u32>, first: u32, count: u32, thread: u32) {
    let rows = params.group + 1u;
    for (var i = thread; i < count * ROW_VEC4; i += CORRECTION_THREADS) {
        let row = first + i / ROW_VEC4;
        let t = range.y - 1u - row / rows;
        let h = row % rows;
        let f4 = i % ROW_VEC4;
        var x = vec4<f32>(0.0);
        if (has_features(f4)) {
            if (h < params.group) {
                let query = t * params.output_heads + walk.head * params.group + h;
                x = queries[query * (PASS_KEY_VEC4 + 1u) + f4];
            } else {
                x = keys[(t * params.value_heads + walk.head) * PASS_KEY_VEC4 + f4];
            }
        }
        features[i] = x;
    }
    for (var r = walk.lane; r < count; r += CORRECTION_LANES) {
        let t = range.y - 1u - (first + r) / rows;
        let h = (first + r) % rows;
        var x = 0.0;
        if (has_column(walk) && h < params.group) {
            let query = t * params.output_heads + walk.head * params.group + h;
            x = output_rows[query * STATE_COLUMNS + walk.column];
        }
        values[r * CORRECTION_COLUMNS + walk.slot] = x;
    }
    for (var r = thread; r < count; r += CORRECTION_THREADS) {
        let t = range.y - 1u - (first + r) / rows;
        var gate = gates_of(t, walk.head);
        // The decay of the first token is left to who reads the state.
        if (t == range.x) { gate.x = 0.0; }
        gates[r] = gate;
    }
}
