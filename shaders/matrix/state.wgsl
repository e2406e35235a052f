// The state as sums of matrix units: each subgroup has all features of its own columns, in
// registers.
//
// memory  that of matrix/panel; floats: F of nu, where o is normalised

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, COLUMN_TILES, FEATURE_TILES, HAS_DECAY};
import constants::{INITIAL_STATE};
import constants::{MATRIX, NORMALIZE, PAIRS, STATE_TILES, STATE_ZERO, THREADS};
import matrices::{Left, Right, Sums};
import matrix/chunk::{COLUMNS, FEATURES, KEYS, chunk_decay, clear_decays, factors, turn_keys, values};
import matrix/chunk::{weigh_values, weighted_max, weights};
import matrix/item::{poison};
import matrix/panel::{panel};
import matrix/scale::{REACH_MAX, STATE_MAX, half_inverse, magnitude_bits, maxima};
import states/offset::{StateOffset};
import states::{load_mu, load_nu, store_mu, store_nu};
import work_item::{WorkItem};

alias Tiles = array<Sums, STATE_TILES>;  // [F/MATRIX, columns of a subgroup/MATRIX]

const STATE_LEN: u32 = FEATURES * COLUMNS;
const SUBGROUP_COLUMNS: u32 = COLUMN_TILES * MATRIX;
// A variable that nothing uses takes no memory.
const NU_LEN: u32 = select(4u, FEATURES, NORMALIZE);

var<workgroup> nu: array<f32, NU_LEN>;

// From the state that the segment begins with.
fn load_state(mu: ptr<function, Tiles>, at: StateOffset, item: WorkItem, thread: u32, subgroup: u32) {
    clear_state(mu, thread);
    if (INITIAL_STATE == STATE_ZERO) { return; }
    if (NORMALIZE) {
        for (var f4 = thread; f4 < BLOCK_VEC4; f4 += THREADS) {
            let x = load_nu(at, f4);
            for (var i = 0u; i < 4u; i++) { nu[4u * f4 + i] = x[i]; }
        }
    }
    var largest = 0u;
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        workgroupBarrier();
        for (var i = thread; i < MATRIX * BLOCK_COLUMNS_VEC4; i += THREADS) {
            let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
            let x = load_mu(at, r * MATRIX + i / BLOCK_COLUMNS_VEC4, c4);
            largest = max(largest, magnitude_bits(x));
            @unroll
            for (var c = 0u; c < 4u; c++) { panel[4u * i + c] = x[c]; }
        }
        workgroupBarrier();
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            (*mu)[r * COLUMN_TILES + c] =
                coopLoadT<Sums>(&panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
        }
    }
    atomicMax(&maxima[STATE_MAX], largest);
}

fn clear_state(mu: ptr<function, Tiles>, thread: u32) {
    @unroll
    for (var i = 0u; i < STATE_TILES; i++) { (*mu)[i] = Sums(); }
    for (var f = thread; f < NU_LEN; f += THREADS) { nu[f] = 0.0; }
    if (thread == 0u) {
        atomicStore(&maxima[STATE_MAX], 0u);
        // No chunk has added anything yet.
        atomicStore(&maxima[REACH_MAX], 0u);
    }
    clear_decays(thread);
    workgroupBarrier();
}

fn store_state(mu: ptr<function, Tiles>, at: StateOffset, item: WorkItem, thread: u32, subgroup: u32) {
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        workgroupBarrier();
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            coopStoreT((*mu)[r * COLUMN_TILES + c], &panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
        }
        workgroupBarrier();
        for (var i = thread; i < MATRIX * BLOCK_COLUMNS_VEC4; i += THREADS) {
            let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
            let x = vec4<f32>(panel[4u * i], panel[4u * i + 1u], panel[4u * i + 2u], panel[4u * i + 3u]);
            store_mu(at, r * MATRIX + i / BLOCK_COLUMNS_VEC4, c4, x);
        }
    }
    if (!NORMALIZE || item.value_block != 0u) { return; }
    for (var f4 = thread; f4 < BLOCK_VEC4; f4 += THREADS) {
        store_nu(at, f4, vec4<f32>(nu[4u * f4], nu[4u * f4 + 1u], nu[4u * f4 + 2u], nu[4u * f4 + 3u]));
    }
}

// A chunk of tokens enters the state:  mu += m mu + sum_i weight_i k'_i^T v_i
fn update_state(mu: ptr<function, Tiles>, thread: u32, subgroup: u32) {
    weigh_values(thread);
    turn_keys(thread);
    workgroupBarrier();
    let m = chunk_decay();
    let inverse = half_inverse(weighted_max());
    var right: array<Right, COLUMN_TILES>;
    @unroll
    for (var c = 0u; c < COLUMN_TILES; c++) {
        right[c] = coopLoad<Right>(&values[(subgroup * SUBGROUP_COLUMNS + c * MATRIX) * MATRIX], MATRIX);
    }
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        // The keys of MATRIX features, a row a feature.
        let left = coopLoadT<Left>(&factors[KEYS + r * PAIRS], MATRIX);
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            let added = coopMultiplyAdd(left, right[c], Sums()) * inverse;
            if (HAS_DECAY) { (*mu)[r * COLUMN_TILES + c] += (*mu)[r * COLUMN_TILES + c] * m; }
            (*mu)[r * COLUMN_TILES + c] += added;
        }
    }
    if (NORMALIZE) {
        for (var f = thread; f < FEATURES; f += THREADS) {
            var sum = nu[f] + m * nu[f];
            @unroll
            for (var i = 0u; i < MATRIX; i++) { sum += weights[i] * f32(factors[KEYS + f * MATRIX + i]); }
            nu[f] = sum;
        }
    }
}

// A state that cannot be computed is not left as it was.
fn poison_state(at: StateOffset, item: WorkItem, thread: u32) {
    for (var i = thread; i < FEATURES * BLOCK_COLUMNS_VEC4; i += THREADS) {
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        store_mu(at, i / BLOCK_COLUMNS_VEC4, c4, vec4<f32>(poison()));
    }
    if (!NORMALIZE || item.value_block != 0u) { return; }
    for (var f4 = thread; f4 < BLOCK_VEC4; f4 += THREADS) { store_nu(at, f4, vec4<f32>(poison())); }
}
