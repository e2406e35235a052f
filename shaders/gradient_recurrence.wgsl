// The backward pass of a value head of a sequence, token by token: forward, keeping the state
// before every block of tokens, and then block by block from the last to the first, the states of
// each computed again. With c = s / (s q' . nu + eps), a = exp(decay) and the state (mu, nu) after
// a token, in reverse,
//
//     dq'  = c (mu do - (do . o) nu)
//     dmu += c q'^T do               dnu -= c (do . o) q'
//     du   = k' dmu                  dk'  = b dmu x + dnu                b is beta, or 1
//     dv   = b du                    dbeta = du . x                      x = v, or v - k' mu
//     dk' -= b mu du                 dmu -= b k'^T du                    delta rules, mu decayed
//     ddecay = mu . dmu + nu . dnu   dmu = a dmu, dnu = a dnu
//
// A column of mu and of dmu depends on no other, and whatever sums over columns goes linearly into
// the gradients: dq', dk', ddecay, dbeta, and dnu through do . o. So a work item has a block of
// columns, a value block, and computes what these add to the gradients by features, gates and nu.
// Where there are several, gradient_column_sums adds them up.
//
// A step is a block of tokens in one direction: params.segments forward, as many back. Between two
// of them all is in storage, so that a dispatch has some of them, where a driver limits what an
// invocation may do. Each step also clears its part of the tokens that are in no sequence.
//
// A thread has one column of each GRADIENT_COLUMNS of its value block, and of it every ROW_LANES-th
// row; sums over the rows of a column meet in workgroup memory. Then it has features, with their
// sums over columns.
//
// reads   v [T,E,V]  of_o [T,max(H,E),V]  ranges [N]
// updates keys [T,E,F]  queries [T,max(H,E),F and the gain]  gates [T,E,GATE_ROW]: from what the forward
//         pass has to the gradients by it, which with several value blocks follow it, [blocks] of each
//         states: initial states [N,state], gradients by final states [N,state], which become those by
//         initial states, and the memory of work items
// writes  of_v [T,E,V]
// grid    a workgroup a sequence, value head and value block, folded
// memory  4 GRADIENT_THREADS + 16 bytes; GRADIENT_THREADS threads

import constants::{ACCESS_ELEMENTS, DECAY_ROWS, FEATURE_DIM, GATE_BETA, GATE_ROW, GRADIENT_COLUMNS};
import constants::{GRADIENT_THREADS, HAS_BETA, HAS_DECAY, NORMALIZE, VALUE_DIM};
import gates/backward_decay::{decay_factor, decayed};
import gradient/item::{Item, KEY_ROW, QUERY_ROW, entered, item_of, mu_at, nu_at, of_decays, of_features};
import gradient/item::{of_u, state_after};
import gradient/states::{states};
import heads::{gate_row, output_begin, output_row, value_begin};
import normalise::{row_factor_of};
import params::{params, workgroup_index};
import rows::{load_v};

@group(0) @binding(11) var<storage, read_write> gates: array<f32>;
@group(0) @binding(18) var<storage, read_write> keys: array<f32>;
@group(0) @binding(19) var<storage, read_write> queries: array<f32>;
@group(0) @binding(20) var<storage, read_write> of_o: array<f32>;
@group(0) @binding(21) var<storage, read_write> of_v: array<f32>;
@group(0) @binding(23) var<storage, read_write> ranges: array<vec2<u32>>;  // begin, end of each sequence

// Threads that share a column of mu, and rows of each.
const ROW_LANES: u32 = GRADIENT_THREADS / GRADIENT_COLUMNS;
const LANE_ROWS: u32 = (FEATURE_DIM + ROW_LANES - 1u) / ROW_LANES;

var<workgroup> sequence: vec4<u32>;
var<workgroup> lane_sums: array<f32, GRADIENT_THREADS>;

@compute @workgroup_size(GRADIENT_THREADS)
fn gradient_recurrence(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    if (index >= params.sequences * params.value_heads * params.value_blocks) { return; }
    let n = index / (params.value_heads * params.value_blocks);
    let item = item_of(n, index / params.value_blocks, index % params.value_blocks);
    if (thread == 0u) {
        var before = 0u;
        if (n > 0u) { before = ranges[n - 1u].y; }
        var behind = ranges[n].y;
        if (n + 1u == params.sequences) { behind = params.total_tokens; }
        sequence = vec4<u32>(ranges[n], before, behind);
    }
    let tokens = workgroupUniformLoad(&sequence);
    if (params.first_step == 0u) {
        copy_initial(item, thread);
        clear_of_nu(item, thread);
    }
    for (var step = params.first_step; step < params.end_step; step++) {
        clear_part(item, step, tokens.z, tokens.x, thread);
        clear_part(item, step, tokens.y, tokens.w, thread);
        let is_forward = step < params.segments;
        let block = select(2u * params.segments - 1u - step, step, is_forward);
        let first = tokens.x + block * params.segment_len;
        // A shorter sequence has fewer blocks, and a longer step is none of any.
        if (step >= 2u * params.segments || first >= tokens.y) { continue; }
        let count = min(tokens.y - first, params.segment_len);
        if (is_forward) {
            enter_block(item, block, first, count, thread);
        } else {
            leave_block(item, block, first, count, thread);
        }
    }
}

fn enter_block(item: Item, block: u32, first: u32, count: u32, thread: u32) {
    copy_state(item, state_after(0u), block, thread);
    for (var j = 0u; j < count; j++) { enter(item, first + j, 0u, state_after(0u), thread); }
}

fn leave_block(item: Item, block: u32, first: u32, count: u32, thread: u32) {
    var before = block;
    for (var j = 0u; j < count; j++) {
        enter(item, first + j, j, before, thread);
        before = state_after(j);
    }
    barrier();
    for (var j = count; j > 0u; j--) {
        before = block;
        if (j > 1u) { before = state_after(j - 2u); }
        leave(item, first + j - 1u, j - 1u, before, thread);
    }
}

fn barrier() {
    storageBarrier();
    workgroupBarrier();
}

// The thread's column of the chunk that begins at `first`, and the i-th of its rows. Numbers of
// steps are constants, so that a compiler may have several loads under way.
fn column_of(first: u32, thread: u32) -> u32 { return first + thread % GRADIENT_COLUMNS; }

fn row_of(i: u32, thread: u32) -> u32 { return i * ROW_LANES + thread / GRADIENT_COLUMNS; }

fn is_column(item: Item, v: u32) -> bool { return VALUE_DIM % GRADIENT_COLUMNS == 0u || v < item.end; }

fn is_row(f: u32) -> bool { return FEATURE_DIM % ROW_LANES == 0u || f < FEATURE_DIM; }

// True for the one thread of each column.
fn has_column(thread: u32) -> bool { return thread < GRADIENT_COLUMNS; }

// The sum over the threads that share a column, in the order of their rows.
fn sum_of_column(sum: f32, thread: u32) -> f32 {
    lane_sums[thread] = sum;
    workgroupBarrier();
    var total = 0.0;
    for (var lane = 0u; lane < ROW_LANES; lane++) {
        total += lane_sums[lane * GRADIENT_COLUMNS + thread % GRADIENT_COLUMNS];
    }
    workgroupBarrier();
    return total;
}

fn copy_initial(item: Item, thread: u32) {
    copy_mu(item, item.initial_mu, mu_at(item, state_after(0u)), thread);
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        states[nu_at(item, state_after(0u)) + f] = states[item.initial_nu + f];
    }
}

fn copy_state(item: Item, begin: u32, to: u32, thread: u32) {
    copy_mu(item, mu_at(item, begin), mu_at(item, to), thread);
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        states[nu_at(item, to) + f] = states[nu_at(item, begin) + f];
    }
}

fn copy_mu(item: Item, begin: u32, to: u32, thread: u32) {
    for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
        let v = column_of(first, thread);
        if (!is_column(item, v)) { continue; }
        for (var i = 0u; i < LANE_ROWS; i++) {
            let f = row_of(i, thread);
            if (is_row(f)) { states[to + f * VALUE_DIM + v] = states[begin + f * VALUE_DIM + v]; }
        }
    }
}

// The gradient by the final nu is there once, and the first value block's.
fn clear_of_nu(item: Item, thread: u32) {
    if (item.first == 0u) { return; }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) { states[item.of_nu + f] = 0.0; }
}

// The part of tokens of no sequence that is a step's.
fn clear_part(item: Item, step: u32, first: u32, end: u32, thread: u32) {
    let part = (end - first + params.steps - 1u) / params.steps;
    let begin = min(end, first + step * part);
    clear_tokens(item, begin, min(end, begin + part), thread);
}

// Tokens of no sequence have no gradients.
fn clear_tokens(item: Item, first: u32, end: u32, thread: u32) {
    for (var t = first; t < end; t++) {
        let row = gate_row(t, item.head);
        let key = item.of_keys + row * KEY_ROW;
        let gate = item.of_gates + row * GATE_ROW;
        let value = value_begin(t, item.head) * ACCESS_ELEMENTS;
        for (var f = thread; f < KEY_ROW; f += GRADIENT_THREADS) { keys[key + f] = 0.0; }
        for (var v = item.first + thread; v < item.end; v += GRADIENT_THREADS) { of_v[value + v] = 0.0; }
        for (var i = thread; (HAS_DECAY || HAS_BETA) && i < GATE_ROW; i += GRADIENT_THREADS) {
            gates[gate + i] = 0.0;
        }
        for (var h = 0u; h < params.group; h++) {
            let query = item.of_queries + output_row(t, item.head * params.group + h) * QUERY_ROW;
            for (var f = thread; f < KEY_ROW; f += GRADIENT_THREADS) { queries[query + f] = 0.0; }
        }
    }
}

// The stored decay of a row of mu.
fn row_decay(row: u32, f: u32) -> f32 {
    if (!HAS_DECAY) { return 0.0; }
    return gates[row * GATE_ROW + select(0u, f, DECAY_ROWS > 1u)];
}

fn token_beta(row: u32) -> f32 {
    if (!HAS_BETA) { return 1.0; }
    return gates[row * GATE_ROW + GATE_BETA];
}

// Token t, the j-th of its block, enters the state `before`.
fn enter(item: Item, t: u32, j: u32, before: u32, thread: u32) {
    let row = gate_row(t, item.head);
    let key = row * KEY_ROW;
    let begin = mu_at(item, before);
    let to = mu_at(item, state_after(j));
    for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
        let v = column_of(first, thread);
        var recalled = 0.0;
        if (HAS_BETA) {
            if (is_column(item, v)) {
                for (var i = 0u; i < LANE_ROWS; i++) {
                    let f = row_of(i, thread);
                    if (!is_row(f)) { continue; }
                    let mu = states[begin + f * VALUE_DIM + v];
                    recalled += keys[key + f] * decayed(row_decay(row, f), mu);
                }
            }
            recalled = sum_of_column(recalled, thread);
        }
        if (is_column(item, v)) {
            let x = load_v(value_begin(t, item.head), v / 4u)[v % 4u] - recalled;
            if (has_column(thread)) { states[entered(item, j) + v] = x; }
            let u = token_beta(row) * x;
            for (var i = 0u; i < LANE_ROWS; i++) {
                let f = row_of(i, thread);
                if (!is_row(f)) { continue; }
                let mu = states[begin + f * VALUE_DIM + v];
                states[to + f * VALUE_DIM + v] = decayed(row_decay(row, f), mu) + keys[key + f] * u;
            }
        }
    }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        let nu = states[nu_at(item, before) + f];
        states[nu_at(item, state_after(j)) + f] = decayed(row_decay(row, f), nu) + keys[key + f];
    }
}

// From the gradient of the state after token t, the j-th of its block, to that of the state before.
fn leave(item: Item, t: u32, j: u32, before: u32, thread: u32) {
    let row = gate_row(t, item.head);
    let key = row * KEY_ROW;
    for (var h = 0u; h < params.group; h++) {
        read_output(item, t, item.head * params.group + h, state_after(j), thread);
    }
    let b = token_beta(row);
    let value = value_begin(t, item.head) * ACCESS_ELEMENTS;
    for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
        let v = column_of(first, thread);
        var sum = 0.0;
        if (is_column(item, v)) {
            for (var i = 0u; i < LANE_ROWS; i++) {
                let f = row_of(i, thread);
                if (is_row(f)) { sum += keys[key + f] * states[item.of_mu + f * VALUE_DIM + v]; }
            }
        }
        sum = sum_of_column(sum, thread);
        if (has_column(thread) && is_column(item, v)) {
            states[of_u(item) + v] = sum;
            of_v[value + v] = b * sum;
        }
    }
    barrier();
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        var of_key = 0.0;
        var recalled = 0.0;
        var of_decay = 0.0;
        for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
            for (var i = 0u; i < GRADIENT_COLUMNS; i++) {
                let v = first + i;
                if (!is_column(item, v)) { continue; }
                let of_mu = states[item.of_mu + f * VALUE_DIM + v];
                of_key += of_mu * states[entered(item, j) + v];
                if (!HAS_DECAY && !HAS_BETA) { continue; }
                let mu = states[mu_at(item, before) + f * VALUE_DIM + v];
                if (HAS_BETA) { recalled += mu * states[of_u(item) + v]; }
                if (HAS_DECAY) { of_decay += of_mu * mu; }
            }
        }
        let a = decay_factor(row_decay(row, f));
        of_key = b * of_key;
        if (HAS_BETA) {
            of_key -= a * b * recalled;
            of_decay -= keys[key + f] * b * recalled;
        }
        if (NORMALIZE) {
            let of_nu = states[item.of_nu + f];
            of_key += of_nu;
            of_decay += of_nu * states[nu_at(item, before) + f];
            states[item.of_nu + f] = decayed(row_decay(row, f), of_nu);
        }
        states[of_features(item) + f] = of_key;
        states[of_decays(item) + f] = a * of_decay;
    }
    var of_beta = 0.0;
    for (var v = item.first; HAS_BETA && thread == 0u && v < item.end; v++) {
        of_beta += states[of_u(item) + v] * states[entered(item, j) + v];
    }
    barrier();
    if (HAS_DECAY || HAS_BETA) {
        for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
            let v = column_of(first, thread);
            if (!is_column(item, v)) { continue; }
            let u = b * states[of_u(item) + v];
            for (var i = 0u; i < LANE_ROWS; i++) {
                let f = row_of(i, thread);
                if (!is_row(f)) { continue; }
                let at = item.of_mu + f * VALUE_DIM + v;
                var of_mu = states[at];
                if (HAS_BETA) { of_mu -= keys[key + f] * u; }
                states[at] = decayed(row_decay(row, f), of_mu);
            }
        }
        barrier();
    }
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        keys[item.of_keys + key + f] = states[of_features(item) + f];
        if (HAS_DECAY && DECAY_ROWS > 1u) {
            gates[item.of_gates + row * GATE_ROW + f] = states[of_decays(item) + f];
        }
    }
    if (thread == 0u && HAS_DECAY && DECAY_ROWS == 1u) {
        var sum = 0.0;
        for (var f = 0u; f < FEATURE_DIM; f++) { sum += states[of_decays(item) + f]; }
        gates[item.of_gates + row * GATE_ROW] = sum;
    }
    if (HAS_BETA && thread == 0u) { gates[item.of_gates + row * GATE_ROW + GATE_BETA] = of_beta; }
    // The next token writes what these have read.
    barrier();
}

// Takes the gradient of the row of o of token t and output head h to its query and to the state
// `after` that it reads.
fn read_output(item: Item, t: u32, h: u32, after: u32, thread: u32) {
    let query = output_row(t, h) * QUERY_ROW;
    let output = output_begin(t, h) * ACCESS_ELEMENTS;
    let mu = mu_at(item, after);
    let nu = nu_at(item, after);
    var weight = 0.0;
    for (var f = 0u; NORMALIZE && f < FEATURE_DIM; f++) { weight += queries[query + f] * states[nu + f]; }
    let c = row_factor_of(weight, queries[query + KEY_ROW]);
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        var sum = 0.0;
        for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
            for (var i = 0u; i < GRADIENT_COLUMNS; i++) {
                let v = first + i;
                if (is_column(item, v)) { sum += states[mu + f * VALUE_DIM + v] * of_o[output + v]; }
            }
        }
        states[of_features(item) + f] = sum;
    }
    barrier();
    // do . o, which the denominator takes away, of these columns.
    var taken = 0.0;
    for (var f = 0u; NORMALIZE && f < FEATURE_DIM; f++) {
        taken += c * queries[query + f] * states[of_features(item) + f];
    }
    for (var first = item.first; first < item.end; first += GRADIENT_COLUMNS) {
        let v = column_of(first, thread);
        if (!is_column(item, v)) { continue; }
        let of_sum = c * of_o[output + v];
        for (var i = 0u; i < LANE_ROWS; i++) {
            let f = row_of(i, thread);
            if (is_row(f)) { states[item.of_mu + f * VALUE_DIM + v] += queries[query + f] * of_sum; }
        }
    }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        states[item.of_nu + f] -= c * taken * queries[query + f];
    }
    barrier();
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        var of_query = states[of_features(item) + f];
        if (NORMALIZE) { of_query -= taken * states[nu + f]; }
        queries[item.of_queries + query + f] = c * of_query;
    }
    // Another head's sums go where these were.
    barrier();
}
