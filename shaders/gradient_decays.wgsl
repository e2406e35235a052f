// The gradients by decays that are one for each token and head, from what the passes of sums have.
// With M_t = a_t M_(t-1) + k'_t^T w_t and R_t the gradient by it,
//
//     dg_t = <a_t M_(t-1), R_t> = Σ_(j<t<=i) (q'_i . k'_j) (w_j . dy_i) a_(j+1) .. a_i
//
// over tokens j before t and i from t on. A work item has a block of tokens: M before it and R from
// some token on behind it, its window, have been kept by the passes. So that no product is a
// difference of larger ones, all tokens i in the window, and R behind them, take the states of the
// block one after the other,
//
//     z_i(t) = q'_i M_(t-1) dy_i^T       z_i(t+1) = a_t z_i(t) + (q'_i . k'_t) (w_t . dy_i)
//     z(t)   = <M_(t-1), R>              z(t+1)   = a_t z(t) + k'_t R w_t^T
//     dg_t   = a_t (z_t(t) + a_(t+1) (z_(t+1)(t) + .. a_last (z_last(t) + a_(last+1) z(t))))
//
// with R that of the token behind the window, or of the final state, which nothing decays.
//
// With a delta rule w_j is the corrected value u_j, and a value head has one more output head, the
// last: its keys, whose dy_i are the gradients dr_i by what they recall, behind those of others. They
// read the state before their own token, which is not among tokens j.
//
// reads   keys [T,E,PASS_KEY_VEC4]  queries [T,max(H,E),PASS_KEY_VEC4 + 1]  pass_values [T,E,PASS_VALUE_VEC4]
//         output_rows [T,max(H,E),PASS_VALUE_VEC4]: dy, with a delta rule [T,E,PASS_VALUE_VEC4] behind it: dr
//         pass_decays  segment_states: transposed  blocks
// writes  gates [T,E,GATE_ROW]: dg
// grid    a workgroup a block of tokens and value head, folded
// memory  4 ((DECAY_STRIP + 3) DECAY_BLOCK + (DECAY_STRIP + 1) SCAN_THREADS) + 32 bytes; SCAN_THREADS threads

import constants::{DECAY_BLOCK, DECAY_LANES, DECAY_STRIP, GATE_ROW, HAS_BETA, SCAN_THREADS};
import gradient/pass_decays::{pass_decays};
import gradient/passes::{PASS_KEY_VEC4, PASS_STATE_LEN, PASS_VALUE_VEC4, recalled_begin};
import gates/backward_decay::{decayed, stored_decay};
import params::{params, workgroup_index};

@group(0) @binding(4) var<storage, read_write> pass_values: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> output_rows: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> blocks: array<Block>;
@group(0) @binding(11) var<storage, read_write> gates: array<f32>;
@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;
@group(0) @binding(19) var<storage, read_write> queries: array<vec4<f32>>;
// M of value heads and R of output heads, transposed, at segments' ends of two passes
@group(0) @binding(33) var<storage, read_write> segment_states: array<vec4<f32>>;

struct Block {
    begin: u32,        // tokens begin .. end have their gradients from it
    end: u32,
    last: u32,         // its window ends before this token; not above `begin` where no sequence has its tokens
    is_followed: u32,  // 1 if its sequence goes on behind the window
    state: u32,        // the first vec4 of M of all value heads before token `begin`
    of_state: u32,     // and of R of all output heads
    of_recalled: u32,  // and of all value heads' keys
    unused: u32,       // so that what follows in workgroup memory is loaded 16 bytes at a time
}

const STATE_VEC4: u32 = PASS_STATE_LEN / 4u;
// Threads with other columns of a state.
const COLUMN_GROUPS: u32 = SCAN_THREADS / DECAY_LANES;
// Threads that share the sum of a row.
const ROW_PARTS: u32 = SCAN_THREADS / DECAY_STRIP;

alias RowSums = array<f32, DECAY_STRIP>;

var<workgroup> shared_block: Block;
var<workgroup> decays: array<f32, 2u * DECAY_BLOCK>;             // of the window, and the one behind it
var<workgroup> strip: array<f32, DECAY_STRIP * DECAY_BLOCK>;     // z_i(t) of some i
var<workgroup> sums: array<f32, DECAY_BLOCK>;                    // of each t, from the last i on
var<workgroup> lane_sums: array<f32, DECAY_STRIP * SCAN_THREADS>;
var<workgroup> row_parts: array<f32, SCAN_THREADS>;

// Rows of features and of values: queries and dy of an output head, keys and w, or keys and dr.
struct TokenRows {
    is_key: bool,       // rows of features that are keys, of a value head
    is_recalled: bool,  // rows of values that are gradients by what these recall
    head: u32,
    first: u32,  // token of the first of DECAY_STRIP
    last: u32,   // of the last that there is
}

@compute @workgroup_size(SCAN_THREADS)
fn gradient_decays(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    if (index >= params.segments * params.value_heads) { return; }
    let head = index % params.value_heads;
    if (thread == 0u) { shared_block = blocks[index / params.value_heads]; }
    let block = workgroupUniformLoad(&shared_block);
    let tokens = block.end - block.begin;
    if (block.last <= block.begin) {
        for (var t = thread; t < tokens; t += SCAN_THREADS) { store(block, head, t, 0.0); }
        return;
    }
    load_decays(block, head, thread);
    enter_last(block, head, thread);
    let window = block.last - block.begin;
    for (var above = (window + DECAY_STRIP - 1u) / DECAY_STRIP; above > 0u; above--) {
        enter_strip(block, head, (above - 1u) * DECAY_STRIP, thread);
    }
    for (var t = thread; t < tokens; t += SCAN_THREADS) { store(block, head, t, sums[t]); }
}

fn store(block: Block, head: u32, t: u32, x: f32) {
    gates[((block.begin + t) * params.value_heads + head) * GATE_ROW] = x;
}

fn load_decays(block: Block, head: u32, thread: u32) {
    for (var t = block.begin + thread; t <= block.last; t += SCAN_THREADS) {
        var decay = 0.0;
        if (t < block.last || block.is_followed != 0u) {
            decay = stored_decay(pass_decays[t * params.value_heads + head]);
        }
        decays[t - block.begin] = decay;
    }
}

// z(t) of all t, with what decays behind the window.
fn enter_last(block: Block, head: u32, thread: u32) {
    let tokens = block.end - block.begin;
    var parts = RowSums();
    for (var h = 0u; h < reading_heads(); h++) {
        let r = state_behind(block, head, h);
        for (var i = thread; i < STATE_VEC4; i += SCAN_THREADS) {
            parts[0] += dot(segment_states[block.state + head * STATE_VEC4 + i], segment_states[r + i]);
        }
    }
    add_up(parts, thread);
    workgroupBarrier();
    let first = row_sum(0u);
    for (var j = 0u; j < tokens; j += DECAY_STRIP) {
        parts = RowSums();
        let rows = TokenRows(true, false, head, block.begin + j, block.end - 1u);
        for (var h = 0u; h < reading_heads(); h++) {
            multiply(&parts, rows, state_behind(block, head, h), thread);
        }
        add_up(parts, thread);
        workgroupBarrier();
        if (thread < DECAY_STRIP && j + thread < tokens) { sums[j + thread] = row_sum(thread); }
    }
    workgroupBarrier();
    if (thread == 0u) {
        var z = first;
        for (var t = 0u; t < tokens; t++) {
            let added = sums[t];
            sums[t] = decayed(decays[block.last - block.begin], z);
            z = decayed(decays[t], z) + added;
        }
    }
    workgroupBarrier();
}

// z_i(t) of DECAY_STRIP tokens i of the window from the given one on, and the sums on to the first
// of them.
fn enter_strip(block: Block, head: u32, first: u32, thread: u32) {
    let tokens = block.end - block.begin;
    let window = block.last - block.begin;
    var parts = RowSums();
    for (var h = 0u; h < reading_heads(); h++) {
        let rows = reading_rows(block, head, h, first);
        multiply(&parts, rows, block.state + head * STATE_VEC4, thread);
    }
    add_up(parts, thread);
    for (var j = thread; j < min(tokens, first + DECAY_STRIP); j += SCAN_THREADS) {
        let pairs = pairs_of(block, head, first, block.begin + j);
        for (var r = 0u; r < DECAY_STRIP; r++) { strip[r * DECAY_BLOCK + j] = pairs[r]; }
    }
    workgroupBarrier();
    if (thread < DECAY_STRIP && first + thread < window) {
        var z = row_sum(thread);
        for (var t = 0u; t < min(tokens, first + thread + 1u); t++) {
            let at = thread * DECAY_BLOCK + t;
            let added = strip[at];
            strip[at] = z;
            z = decayed(decays[t], z) + added;
        }
    }
    workgroupBarrier();
    for (var t = thread; t < min(tokens, first + DECAY_STRIP); t += SCAN_THREADS) {
        var sum = sums[t];
        for (var r = DECAY_STRIP; r > 0u; r--) {
            let i = first + r - 1u;
            if (i >= t && i < window) { sum = decayed(decays[i], sum + strip[(r - 1u) * DECAY_BLOCK + t]); }
        }
        sums[t] = sum;
    }
}

// (q'_i . k'_j) (w_j . dy_i) of DECAY_STRIP tokens i, over the output heads that read the value
// head.
fn pairs_of(block: Block, head: u32, first: u32, j: u32) -> RowSums {
    let key = TokenRows(true, false, head, j, j);
    var pairs = RowSums();
    for (var h = 0u; h < reading_heads(); h++) {
        let rows = reading_rows(block, head, h, first);
        var features = RowSums();
        var values = RowSums();
        for (var f4 = 0u; f4 < PASS_KEY_VEC4; f4++) {
            let k = features_of(key, 0u, f4);
            for (var r = 0u; r < DECAY_STRIP; r++) { features[r] += dot(k, features_of(rows, r, f4)); }
        }
        for (var c4 = 0u; c4 < PASS_VALUE_VEC4; c4++) {
            let w = values_of(key, 0u, c4);
            for (var r = 0u; r < DECAY_STRIP; r++) { values[r] += dot(w, values_of(rows, r, c4)); }
        }
        for (var r = 0u; r < DECAY_STRIP; r++) { pairs[r] += features[r] * values[r]; }
    }
    return pairs;
}

// The thread's part of features, state and values multiplied, of each of the rows.
fn multiply(parts: ptr<function, RowSums>, rows: TokenRows, state: u32, thread: u32) {
    for (var f4 = thread % DECAY_LANES; f4 < PASS_KEY_VEC4; f4 += DECAY_LANES) {
        var products = array<vec4<f32>, DECAY_STRIP>();
        for (var c4 = thread / DECAY_LANES; c4 < PASS_VALUE_VEC4; c4 += COLUMN_GROUPS) {
            let at = state + 4u * c4 * PASS_KEY_VEC4 + f4;
            let x = segment_states[at];
            let y = segment_states[at + PASS_KEY_VEC4];
            let z = segment_states[at + 2u * PASS_KEY_VEC4];
            let w = segment_states[at + 3u * PASS_KEY_VEC4];
            for (var r = 0u; r < DECAY_STRIP; r++) {
                let value = values_of(rows, r, c4);
                products[r] += x * value.x + y * value.y + z * value.z + w * value.w;
            }
        }
        for (var r = 0u; r < DECAY_STRIP; r++) {
            (*parts)[r] += dot(products[r], features_of(rows, r, f4));
        }
    }
}

// DECAY_STRIP rows of output head h of a value head, or behind all of these of its keys, from token
// `first` of the window on.
fn reading_rows(block: Block, head: u32, h: u32, first: u32) -> TokenRows {
    let begin = block.begin + first;
    let last = block.last - 1u;
    if (HAS_BETA && h == params.group) { return TokenRows(true, true, head, begin, last); }
    return TokenRows(false, false, head * params.group + h, begin, last);
}

// Heads that read the value head.
fn reading_heads() -> u32 { return params.group + select(0u, 1u, HAS_BETA); }

fn state_behind(block: Block, head: u32, h: u32) -> u32 {
    if (HAS_BETA && h == params.group) { return block.of_recalled + head * STATE_VEC4; }
    return block.of_state + (head * params.group + h) * STATE_VEC4;
}

fn features_of(rows: TokenRows, r: u32, f4: u32) -> vec4<f32> {
    let t = min(rows.first + r, rows.last);
    if (!rows.is_key) {
        return queries[(t * params.output_heads + rows.head) * (PASS_KEY_VEC4 + 1u) + f4];
    }
    return keys[(t * params.value_heads + rows.head) * PASS_KEY_VEC4 + f4];
}

fn values_of(rows: TokenRows, r: u32, c4: u32) -> vec4<f32> {
    let t = min(rows.first + r, rows.last);
    if (!rows.is_key) { return output_rows[(t * params.output_heads + rows.head) * PASS_VALUE_VEC4 + c4]; }
    if (HAS_BETA && rows.is_recalled) {
        return output_rows[recalled_begin() + (t * params.value_heads + rows.head) * PASS_VALUE_VEC4 + c4];
    }
    return pass_values[(t * params.value_heads + rows.head) * PASS_VALUE_VEC4 + c4];
}

// Adds up the parts of all threads but for the last step, which is `row_sum` behind a barrier.
fn add_up(parts: RowSums, thread: u32) {
    for (var r = 0u; r < DECAY_STRIP; r++) { lane_sums[r * SCAN_THREADS + thread] = parts[r]; }
    workgroupBarrier();
    var sum = 0.0;
    for (var part = 0u; part < DECAY_STRIP; part++) { sum += lane_sums[thread * DECAY_STRIP + part]; }
    row_parts[thread] = sum;
}

fn row_sum(row: u32) -> f32 {
    var sum = 0.0;
    for (var part = 0u; part < ROW_PARTS; part++) { sum += row_parts[row * ROW_PARTS + part]; }
    return sum;
}
