// A column of a state of the passes of sums in registers, and the rows that enter it one after the
// other, on their way through workgroup memory. A thread has every CORRECTION_LANES-th vec4 of rows
// of one column; sums over them meet in workgroup memory.

import constants::{CORRECTION_COLUMNS, CORRECTION_LANES, CORRECTION_ROWS, CORRECTION_VEC4, HAS_DECAY};
import gates/activations::{exp_less_1};
import gradient/pass_decays::{betas_begin, pass_decays};
import gradient/passes::{PASS_KEY_VEC4, PASS_VALUE_VEC4, pass_states};
import params::{params};

@group(0) @binding(23) var<storage, read_write> ranges: array<vec2<u32>>;  // begin, end of each sequence

const ROW_VEC4: u32 = CORRECTION_VEC4 * CORRECTION_LANES;
const STATE_COLUMNS: u32 = 4u * PASS_VALUE_VEC4;
const COLUMN_BLOCKS: u32 = (STATE_COLUMNS + CORRECTION_COLUMNS - 1u) / CORRECTION_COLUMNS;
const CORRECTION_THREADS: u32 = CORRECTION_COLUMNS * CORRECTION_LANES;
const HAS_ALL_FEATURES: bool = ROW_VEC4 == PASS_KEY_VEC4;

alias Column = array<vec4<f32>, CORRECTION_VEC4>;

// The sequence and value head of a workgroup, and what a thread has of its columns.
struct Walk {
    n: u32,
    head: u32,
    column: u32,
    lane: u32,
    slot: u32,    // of the column among those of the workgroup
}

var<workgroup> shared_range: vec2<u32>;
var<workgroup> features: array<vec4<f32>, CORRECTION_ROWS * ROW_VEC4>;
var<workgroup> values: array<f32, CORRECTION_ROWS * CORRECTION_COLUMNS>;
var<workgroup> gates: array<vec2<f32>, CORRECTION_ROWS>;    // exp(decay) - 1, and beta
var<workgroup> lane_sums: array<f32, 2u * CORRECTION_THREADS>;

fn walk_of(index: u32, thread: u32) -> Walk {
    let item = index / COLUMN_BLOCKS;
    let slot = thread % CORRECTION_COLUMNS;
    var walk = Walk();
    walk.n = item / params.value_heads;
    walk.head = item % params.value_heads;
    walk.column = index % COLUMN_BLOCKS * CORRECTION_COLUMNS + slot;
    walk.lane = thread / CORRECTION_COLUMNS;
    walk.slot = slot;
    return walk;
}

// The tokens of the workgroup's sequence: begin, end.
fn range_of(index: u32, thread: u32) -> vec2<u32> {
    if (thread == 0u) { shared_range = ranges[index / (COLUMN_BLOCKS * params.value_heads)]; }
    return workgroupUniformLoad(&shared_range);
}

// Of so many tokens, those of this dispatch, in the order in which it takes them: begin, end.
fn steps_of(tokens: u32) -> vec2<u32> { return min(vec2<u32>(params.first_step, params.end_step), vec2<u32>(tokens)); }

fn has_column(walk: Walk) -> bool { return STATE_COLUMNS % CORRECTION_COLUMNS == 0u || walk.column < STATE_COLUMNS; }

fn has_features(f4: u32) -> bool { return HAS_ALL_FEATURES || f4 < PASS_KEY_VEC4; }

// From the state that begins at `begin`.
fn load_column(walk: Walk, begin: u32) -> Column {
    var column = Column();
    @unroll
    for (var i = 0u; i < CORRECTION_VEC4; i++) {
        let f4 = i * CORRECTION_LANES + walk.lane;
        if (has_column(walk) && has_features(f4)) {
            let at = begin + 4u * f4 * STATE_COLUMNS + walk.column;
            column[i] = vec4<f32>(
                pass_states[at],
                pass_states[at + STATE_COLUMNS],
                pass_states[at + 2u * STATE_COLUMNS],
                pass_states[at + 3u * STATE_COLUMNS],
            );
        }
    }
    return column;
}

fn store_column(column: ptr<function, Column>, walk: Walk, begin: u32) {
    @unroll
    for (var i = 0u; i < CORRECTION_VEC4; i++) {
        let f4 = i * CORRECTION_LANES + walk.lane;
        if (has_column(walk) && has_features(f4)) {
            let at = begin + 4u * f4 * STATE_COLUMNS + walk.column;
            pass_states[at] = (*column)[i].x;
            pass_states[at + STATE_COLUMNS] = (*column)[i].y;
            pass_states[at + 2u * STATE_COLUMNS] = (*column)[i].z;
            pass_states[at + 3u * STATE_COLUMNS] = (*column)[i].w;
        }
    }
}

fn gates_of(t: u32, head: u32) -> vec2<f32> {
    let row = t * params.value_heads + head;
    let beta = pass_decays[betas_begin() + row];
    if (!HAS_DECAY) { return vec2<f32>(0.0, beta); }
    return vec2<f32>(exp_less_1(pass_decays[row]), beta);
}

// The sum over a column of the products with the features of row r, in the order of the lanes;
// `turn` is the number of sums before it.
fn multiplied(column: ptr<function, Column>, r: u32, walk: Walk, turn: u32) -> f32 {
    var products = vec4<f32>(0.0);
    @unroll
    for (var i = 0u; i < CORRECTION_VEC4; i++) {
        products += features[r * ROW_VEC4 + i * CORRECTION_LANES + walk.lane] * (*column)[i];
    }
    let sum = dot(products, vec4<f32>(1.0));
    if (CORRECTION_LANES == 1u) { return sum; }
    // Two sets by turns: who reads one is at the barrier of the other before it is written again.
    let begin = turn % 2u * CORRECTION_THREADS + walk.slot;
    lane_sums[begin + walk.lane * CORRECTION_COLUMNS] = sum;
    workgroupBarrier();
    var total = 0.0;
    @unroll
    for (var lane = 0u; lane < CORRECTION_LANES; lane++) { total += lane_sums[begin + lane * CORRECTION_COLUMNS]; }
    return total;
}
