// The backward pass of a value head of a sequence, token by token: forward, keeping the state before
// every block of tokens, and then block by block from the last to the first, the states of each computed
// again. With c = s / (s q' . nu + eps), a = exp(decay) and the state (mu, nu) after a token, in reverse,
//
//     dq'  = c (mu do - (do . o) nu)
//     dmu += c q'^T do               dnu -= c (do . o) q'
//     du   = k' dmu                  dk'  = b dmu x + dnu                b is beta, or 1
//     dv   = b du                    dbeta = du . x                      x = v, or v - k' mu
//     dk' -= b mu du                 dmu -= b k'^T du                    delta rules, mu decayed
//     ddecay = mu . dmu + nu . dnu   dmu = a dmu, dnu = a dnu
//
// A thread has columns of mu, and with them the sums over features, and features, with their sums over
// columns. The columns of other threads are seen behind a barrier.
//
// reads   v [T,E,V]  of_o [T,max(H,E),V]  ranges [N]
// updates keys [T,E,F]  queries [T,max(H,E),F and the gain]  gates [T,E,GATE_ROW]: from what the forward
//         pass has to the gradients by it
//         states: initial states [N,state], gradients by final states [N,state], which become those by
//         initial states, and the memory of work items
// writes  of_v [T,E,V]
// grid    a workgroup a sequence and value head, folded
// memory  none; GRADIENT_THREADS threads

import constants::{ACCESS_ELEMENTS, DECAY_ROWS, FEATURE_DIM, GATE_BETA, GATE_ROW, GRADIENT_THREADS};
import constants::{HAS_BETA, HAS_DECAY, NORMALIZE, VALUE_DIM};
import gates/backward_decay::{decay_factor, decayed};
import gradient/states::{MU_LEN, STATE_LEN, states, states_len};
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

const KEY_ROW: u32 = 4u * ((FEATURE_DIM + 3u) / 4u);
const QUERY_ROW: u32 = KEY_ROW + 4u;

struct Item {
    head: u32,           // value head
    initial_mu: u32,     // where parts of `states` begin
    initial_nu: u32,
    of_mu: u32,
    of_nu: u32,
    memory: u32,         // states before blocks [params.segments], states after the tokens of one
                         // [params.segment_len], x of these, du, and two rows of features
}

var<workgroup> sequence: vec4<u32>;

@compute @workgroup_size(GRADIENT_THREADS)
fn gradient_recurrence(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    if (index >= params.sequences * params.value_heads) { return; }
    let n = index / params.value_heads;
    let item = item_of(n, index);
    if (thread == 0u) {
        var before = 0u;
        if (n > 0u) { before = ranges[n - 1u].y; }
        var behind = ranges[n].y;
        if (n + 1u == params.sequences) { behind = params.total_tokens; }
        sequence = vec4<u32>(ranges[n], before, behind);
    }
    let tokens = workgroupUniformLoad(&sequence);
    clear_tokens(item, tokens.z, tokens.x, thread);
    clear_tokens(item, tokens.y, tokens.w, thread);
    let blocks = (tokens.y - tokens.x + params.segment_len - 1u) / params.segment_len;
    copy_initial(item, thread);
    for (var block = 0u; block < blocks; block++) {
        let first = tokens.x + block * params.segment_len;
        copy_state(state_after(item, 0u), state_before(item, block), thread);
        for (var t = first; t < min(tokens.y, first + params.segment_len); t++) {
            enter(item, t, 0u, state_after(item, 0u), thread);
        }
    }
    for (var block = blocks; block > 0u; block--) {
        let first = tokens.x + (block - 1u) * params.segment_len;
        let count = min(tokens.y - first, params.segment_len);
        var before = state_before(item, block - 1u);
        for (var j = 0u; j < count; j++) {
            enter(item, first + j, j, before, thread);
            before = state_after(item, j);
        }
        barrier();
        for (var j = count; j > 0u; j--) {
            before = state_before(item, block - 1u);
            if (j > 1u) { before = state_after(item, j - 2u); }
            leave(item, first + j - 1u, j - 1u, before, thread);
        }
    }
}

fn barrier() {
    storageBarrier();
    workgroupBarrier();
}

fn item_of(n: u32, index: u32) -> Item {
    let e = index % params.value_heads;
    let state = params.value_heads * STATE_LEN;
    let features = params.value_heads * MU_LEN + e * FEATURE_DIM;
    let gradients = states_len();
    let memory = (params.segments + params.segment_len) * STATE_LEN
        + (params.segment_len + 1u) * VALUE_DIM + 2u * FEATURE_DIM;
    return Item(e, n * state + e * MU_LEN, n * state + features, gradients + n * state + e * MU_LEN,
        gradients + n * state + features, 2u * gradients + index * memory);
}

fn state_before(item: Item, block: u32) -> u32 { return item.memory + block * STATE_LEN; }

fn state_after(item: Item, j: u32) -> u32 { return item.memory + (params.segments + j) * STATE_LEN; }

// v, less what a delta rule recalls, of the j-th token of a block.
fn entered(item: Item, j: u32) -> u32 {
    return state_after(item, params.segment_len) + j * VALUE_DIM;
}

fn of_u(item: Item) -> u32 { return entered(item, params.segment_len); }

fn of_features(item: Item) -> u32 { return of_u(item) + VALUE_DIM; }

fn of_decays(item: Item) -> u32 { return of_features(item) + FEATURE_DIM; }

fn copy_initial(item: Item, thread: u32) {
    let to = state_after(item, 0u);
    for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) {
        for (var f = 0u; f < FEATURE_DIM; f++) {
            let at = f * VALUE_DIM + v;
            states[to + at] = states[item.initial_mu + at];
        }
    }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        states[to + MU_LEN + f] = states[item.initial_nu + f];
    }
}

fn copy_state(begin: u32, to: u32, thread: u32) {
    for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) {
        for (var f = 0u; f < FEATURE_DIM; f++) {
            states[to + f * VALUE_DIM + v] = states[begin + f * VALUE_DIM + v];
        }
    }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        states[to + MU_LEN + f] = states[begin + MU_LEN + f];
    }
}

// Tokens of no sequence have no gradients.
fn clear_tokens(item: Item, first: u32, end: u32, thread: u32) {
    for (var t = first; t < end; t++) {
        let row = gate_row(t, item.head);
        let value = value_begin(t, item.head) * ACCESS_ELEMENTS;
        for (var f = thread; f < KEY_ROW; f += GRADIENT_THREADS) { keys[row * KEY_ROW + f] = 0.0; }
        for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) { of_v[value + v] = 0.0; }
        for (var i = thread; (HAS_DECAY || HAS_BETA) && i < GATE_ROW; i += GRADIENT_THREADS) {
            gates[row * GATE_ROW + i] = 0.0;
        }
        for (var h = 0u; h < params.group; h++) {
            let query = output_row(t, item.head * params.group + h) * QUERY_ROW;
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
    let after = state_after(item, j);
    for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) {
        var x = load_v(value_begin(t, item.head), v / 4u)[v % 4u];
        for (var f = 0u; HAS_BETA && f < FEATURE_DIM; f++) {
            let mu = states[before + f * VALUE_DIM + v];
            x -= keys[key + f] * decayed(row_decay(row, f), mu);
        }
        states[entered(item, j) + v] = x;
        let u = token_beta(row) * x;
        for (var f = 0u; f < FEATURE_DIM; f++) {
            let mu = states[before + f * VALUE_DIM + v];
            states[after + f * VALUE_DIM + v] = decayed(row_decay(row, f), mu) + keys[key + f] * u;
        }
    }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        let nu = states[before + MU_LEN + f];
        states[after + MU_LEN + f] = decayed(row_decay(row, f), nu) + keys[key + f];
    }
}

// From the gradient of the state after token t, the j-th of its block, to that of the state before.
fn leave(item: Item, t: u32, j: u32, before: u32, thread: u32) {
    let row = gate_row(t, item.head);
    let key = row * KEY_ROW;
    for (var h = 0u; h < params.group; h++) {
        read_output(item, t, item.head * params.group + h, state_after(item, j), thread);
    }
    let b = token_beta(row);
    let value = value_begin(t, item.head) * ACCESS_ELEMENTS;
    for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) {
        var sum = 0.0;
        for (var f = 0u; f < FEATURE_DIM; f++) {
            sum += keys[key + f] * states[item.of_mu + f * VALUE_DIM + v];
        }
        states[of_u(item) + v] = sum;
        of_v[value + v] = b * sum;
    }
    barrier();
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        var of_key = 0.0;
        var recalled = 0.0;
        var of_decay = 0.0;
        for (var v = 0u; v < VALUE_DIM; v++) {
            let of_mu = states[item.of_mu + f * VALUE_DIM + v];
            let mu = states[before + f * VALUE_DIM + v];
            of_key += of_mu * states[entered(item, j) + v];
            if (HAS_BETA) { recalled += mu * states[of_u(item) + v]; }
            if (HAS_DECAY) { of_decay += of_mu * mu; }
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
            of_decay += of_nu * states[before + MU_LEN + f];
            states[item.of_nu + f] = decayed(row_decay(row, f), of_nu);
        }
        states[of_features(item) + f] = of_key;
        states[of_decays(item) + f] = a * of_decay;
    }
    var of_beta = 0.0;
    for (var v = 0u; HAS_BETA && thread == 0u && v < VALUE_DIM; v++) {
        of_beta += states[of_u(item) + v] * states[entered(item, j) + v];
    }
    barrier();
    if (HAS_DECAY || HAS_BETA) {
        for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) {
            let u = b * states[of_u(item) + v];
            for (var f = 0u; f < FEATURE_DIM; f++) {
                let at = item.of_mu + f * VALUE_DIM + v;
                var of_mu = states[at];
                if (HAS_BETA) { of_mu -= keys[key + f] * u; }
                states[at] = decayed(row_decay(row, f), of_mu);
            }
        }
        barrier();
    }
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        keys[key + f] = states[of_features(item) + f];
        if (HAS_DECAY && DECAY_ROWS > 1u) { gates[row * GATE_ROW + f] = states[of_decays(item) + f]; }
    }
    if (thread == 0u && HAS_DECAY && DECAY_ROWS == 1u) {
        var sum = 0.0;
        for (var f = 0u; f < FEATURE_DIM; f++) { sum += states[of_decays(item) + f]; }
        gates[row * GATE_ROW] = sum;
    }
    if (HAS_BETA && thread == 0u) { gates[row * GATE_ROW + GATE_BETA] = of_beta; }
    // The next token writes what these have read.
    barrier();
}

// Takes the gradient of the row of o of token t and output head h to its query and to the state `after`
// that it reads.
fn read_output(item: Item, t: u32, h: u32, after: u32, thread: u32) {
    let query = output_row(t, h) * QUERY_ROW;
    let output = output_begin(t, h) * ACCESS_ELEMENTS;
    var weight = 0.0;
    for (var f = 0u; NORMALIZE && f < FEATURE_DIM; f++) {
        weight += queries[query + f] * states[after + MU_LEN + f];
    }
    let c = row_factor_of(weight, queries[query + KEY_ROW]);
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        var sum = 0.0;
        for (var v = 0u; v < VALUE_DIM; v++) {
            sum += states[after + f * VALUE_DIM + v] * of_o[output + v];
        }
        states[of_features(item) + f] = sum;
    }
    barrier();
    // do . o, which the denominator takes away.
    var taken = 0.0;
    for (var f = 0u; NORMALIZE && f < FEATURE_DIM; f++) {
        taken += c * queries[query + f] * states[of_features(item) + f];
    }
    for (var v = thread; v < VALUE_DIM; v += GRADIENT_THREADS) {
        let of_sum = c * of_o[output + v];
        for (var f = 0u; f < FEATURE_DIM; f++) {
            states[item.of_mu + f * VALUE_DIM + v] += queries[query + f] * of_sum;
        }
    }
    for (var f = thread; NORMALIZE && f < FEATURE_DIM; f += GRADIENT_THREADS) {
        states[item.of_nu + f] -= c * taken * queries[query + f];
    }
    barrier();
    for (var f = thread; f < FEATURE_DIM; f += GRADIENT_THREADS) {
        var of_query = states[of_features(item) + f];
        if (NORMALIZE) { of_query -= taken * states[after + MU_LEN + f]; }
        queries[query + f] = c * of_query;
    }
    // Another head's sums go where these were.
    barrier();
}
