// What a work item of the recurrence has, and where its things lie in scratch.

import constants::{FEATURE_DIM, GATE_ROW, GRADIENT_COLUMNS, VALUE_DIM};
import gradient/states::{MU_LEN, NU_LEN, STATE_LEN, block_memories, block_memory, head_memory, states_len};
import params::{params};

const KEY_ROW: u32 = 4u * ((FEATURE_DIM + 3u) / 4u);
const QUERY_ROW: u32 = KEY_ROW + 4u;

struct Item {
    head: u32,           // value head
    first: u32,          // columns of its value block
    end: u32,
    initial_mu: u32,     // where parts of `states` begin
    initial_nu: u32,
    of_mu: u32,
    of_nu: u32,          // with several value blocks what this one adds to it
    memory: u32,         // of the head: mu before blocks of tokens [params.segments] and after the tokens of
                         // one [params.segment_len], x of these, du
    own: u32,            // of the value block: of_nu, nu as mu, and two rows of features
    of_keys: u32,        // where gradients by features and gates begin, behind the features
    of_queries: u32,
    of_gates: u32,
}

fn item_of(n: u32, index: u32, block: u32) -> Item {
    let e = index % params.value_heads;
    let state = params.value_heads * STATE_LEN;
    let features = params.value_heads * MU_LEN + e * FEATURE_DIM;
    let gradients = states_len();
    let own = block_memories(index) + block * block_memory();
    // Columns are dealt out in whole chunks of GRADIENT_COLUMNS, in ascending order.
    let chunks = (VALUE_DIM + GRADIENT_COLUMNS - 1u) / GRADIENT_COLUMNS;
    let columns = (chunks + params.value_blocks - 1u) / params.value_blocks * GRADIENT_COLUMNS;
    var item = Item();
    item.head = e;
    item.first = block * columns;
    item.end = min(item.first + columns, VALUE_DIM);
    item.initial_mu = n * state + e * MU_LEN;
    item.initial_nu = n * state + features;
    item.of_mu = gradients + item.initial_mu;
    item.of_nu = select(own, gradients + item.initial_nu, block == 0u);
    item.memory = 2u * gradients + index * head_memory();
    item.own = own;
    let parts = select(0u, 1u + block, params.value_blocks > 1u) * params.total_tokens;
    item.of_keys = parts * params.value_heads * KEY_ROW;
    item.of_queries = parts * params.output_heads * QUERY_ROW;
    item.of_gates = parts * params.value_heads * GATE_ROW;
    return item;
}

// States are numbered: the j-th token of a block of tokens leaves this one, and the state before a
// block has its number.
fn state_after(j: u32) -> u32 { return params.segments + j; }

fn mu_at(item: Item, state: u32) -> u32 { return item.memory + state * MU_LEN; }

// Behind the value block's part of the gradient by nu.
fn nu_at(item: Item, state: u32) -> u32 { return item.own + (1u + state) * NU_LEN; }

// v, less what a delta rule recalls, of the j-th token of a block.
fn entered(item: Item, j: u32) -> u32 {
    return mu_at(item, state_after(params.segment_len)) + j * VALUE_DIM;
}

fn of_u(item: Item) -> u32 { return entered(item, params.segment_len); }

fn of_features(item: Item) -> u32 { return nu_at(item, state_after(params.segment_len)); }

fn of_decays(item: Item) -> u32 { return of_features(item) + FEATURE_DIM; }
