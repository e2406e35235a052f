// What a delta rule adds to the state in each token, but for beta: v less what the key recalls of the
// state before it,
//
//     e_t = v_t - k'_t (a_t M_(t-1))      M_t = a_t M_(t-1) + b_t k'_t^T e_t
//
// with a_t = exp(decay), or 1, and b_t = beta. No column of M depends on another.
//
// A dispatch has some tokens of each sequence, since a driver may limit what an invocation does: the
// state is in storage in between.
//
// reads   keys [T,E,PASS_KEY_VEC4]  pass_decays: decays and betas  ranges [N]
// updates pass_values [T,E,PASS_VALUE_VEC4]: v to e  pass_states: M before the tokens to M behind them
// grid    a workgroup a sequence, value head and block of columns, folded
// memory  see gradient/corrections; CORRECTION_COLUMNS CORRECTION_LANES threads

import constants::{CORRECTION_COLUMNS, CORRECTION_LANES, CORRECTION_ROWS, CORRECTION_VEC4, HAS_DECAY};
import gradient/corrections::{COLUMN_BLOCKS, CORRECTION_THREADS, Column, ROW_VEC4, STATE_COLUMNS};
import gradient/corrections::{Walk, features, gates, gates_of, has_column, has_features, load_column};
import gradient/corrections::{multiplied, range_of, steps_of, store_column, values, walk_of};
import gradient/passes::{PASS_KEY_VEC4, PASS_STATE_LEN};
import params::{params, workgroup_index};

@group(0) @binding(4) var<storage, read_write> pass_values: array<f32>;
@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;

@compute @workgroup_size(CORRECTION_THREADS)
fn gradient_corrections(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    if (index >= params.sequences * params.value_heads * COLUMN_BLOCKS) { return; }
    let range = range_of(index, thread);
    let steps = steps_of(range.y - range.x);
    if (steps.x == steps.y) { return; }
    let walk = walk_of(index, thread);
    let state = (walk.n * params.value_heads + walk.head) * PASS_STATE_LEN;
    var column = load_column(walk, state);
    for (var first = steps.x; first < steps.y; first += CORRECTION_ROWS) {
        let count = min(steps.y - first, CORRECTION_ROWS);
        workgroupBarrier();
        load_rows(walk, range.x + first, count, thread);
        workgroupBarrier();
        for (var r = 0u; r < count; r++) {
            let gate = gates[r];
            let kept = multiplied(&column, r, walk, r);
            let e = values[r * CORRECTION_COLUMNS + walk.slot] - (kept + gate.x * kept);
            add_row(&column, r, walk, gate.x, gate.y * e);
            if (walk.lane == 0u && has_column(walk)) {
                let row = (range.x + first + r) * params.value_heads + walk.head;
                pass_values[row * STATE_COLUMNS + walk.column] = e;
            }
        }
    }
    store_column(&column, walk, state);
}

// Row r times x, to the column that decays.
fn add_row(column: ptr<function, Column>, r: u32, walk: Walk, decay: f32, x: f32) {
    @unroll
    for (var i = 0u; i < CORRECTION_VEC4; i++) {
        let added = features[r * ROW_VEC4 + i * CORRECTION_LANES + walk.lane] * x;
        if (HAS_DECAY) { (*column)[i] += decay * (*column)[i]; }
        (*column)[i] += added;
    }
}

// The rows of `count` tokens from `first` on.
fn load_rows(walk: Walk, first: u32, count: u32, thread: u32) {
    for (var i = thread; i < count * ROW_VEC4; i += CORRECTION_THREADS) {
        let row = (first + i / ROW_VEC4) * params.value_heads + walk.head;
        var x = vec4<f32>(0.0);
        if (has_features(i % ROW_VEC4)) { x = keys[row * PASS_KEY_VEC4 + i % ROW_VEC4]; }
        features[i] = x;
    }
    for (var r = walk.lane; r < count; r += CORRECTION_LANES) {
        let row = (first + r) * params.value_heads + walk.head;
        var x = 0.0;
        if (has_column(walk)) { x = pass_values[row * STATE_COLUMNS + walk.column]; }
        values[r * CORRECTION_COLUMNS + walk.slot] = x;
    }
    for (var r = thread; r < count; r += CORRECTION_THREADS) { gates[r] = gates_of(first + r, walk.head); }
}
