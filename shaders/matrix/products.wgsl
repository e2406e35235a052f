// Products of a chunk's rows, its keys or the queries of a head, with the state S before the chunk and
// with its keys.
//
// memory  f16: F columns of S; floats: MATRIX columns

import constants::{COLUMN_TILES, FEATURE_TILES, MATRIX, SUBGROUPS, SUBGROUP_TILES, THREADS};
import matrices::{Left, Right, Sums};
import matrix/chunk::{COLUMNS, FEATURES, KEYS, VALUES_LEN, chunk_reach, decay_between, factors};
import matrix/scale::{half_inverse, half_scale};
import matrix/state::{STATE_LEN, SUBGROUP_COLUMNS, Tiles, panel, state_max};

const PAIRS: u32 = MATRIX * MATRIX;

var<workgroup> state: array<f16, STATE_LEN>;     // S by its scale: [F, columns]
var<workgroup> state_bound: f32;                 // no element of S is above it
// Of rows and keys, [SUBGROUPS, tokens, tokens], which are fewer; then scores V, [tokens, columns].
var<workgroup> partial: array<f32, VALUES_LEN>;

// S as a factor, before a chunk is loaded, and its largest element. Its scale is by a bound: the largest
// element before the last chunk, decayed, and what that chunk may have added.
fn halve_state(mu: ptr<function, Tiles>, thread: u32, subgroup: u32) {
    let kept = abs(1.0 + decay_between(0u, MATRIX));
    let bound = kept * bitcast<f32>(atomicLoad(&state_max)) + chunk_reach();
    let scale = half_scale(bitcast<u32>(bound));
    var largest = 0.0;
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        workgroupBarrier();
        if (r == 0u && thread == 0u) {
            atomicStore(&state_max, 0u);
            state_bound = bound;
        }
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            coopStoreT((*mu)[r * COLUMN_TILES + c], &panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
        }
        workgroupBarrier();
        for (var i = thread; i < VALUES_LEN; i += THREADS) {
            largest = max(largest, abs(panel[i]));
            state[r * VALUES_LEN + i] = f16(panel[i] * scale);
        }
    }
    atomicMax(&state_max, bitcast<u32>(largest));
}

// What brings back a product with S.
fn state_inverse() -> f32 { return half_inverse(bitcast<u32>(state_bound)); }

// Of the rows that begin at `rows` in `factors`: those with S into panel, and in this subgroup's features
// those with keys into its part of partial.
fn multiply_rows(rows: u32, subgroup: u32) {
    var sums: array<Sums, COLUMN_TILES>;
    @unroll
    for (var c = 0u; c < COLUMN_TILES; c++) { sums[c] = Sums(); }
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        let left = coopLoadT<Left>(&factors[rows + r * MATRIX], FEATURES);
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            let at = r * VALUES_LEN + subgroup * SUBGROUP_COLUMNS + c * MATRIX;
            sums[c] = coopMultiplyAdd(left, coopLoadT<Right>(&state[at], COLUMNS), sums[c]);
        }
    }
    @unroll
    for (var c = 0u; c < COLUMN_TILES; c++) {
        coopStoreT(sums[c], &panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
    }
    var pairs = Sums();
    @unroll
    for (var n = 0u; n < SUBGROUP_TILES; n++) {
        let f = (subgroup * SUBGROUP_TILES + n) * MATRIX;
        let left = coopLoadT<Left>(&factors[rows + f], FEATURES);
        // A column a key.
        pairs = coopMultiplyAdd(left, coopLoad<Right>(&factors[KEYS + f], FEATURES), pairs);
    }
    coopStoreT(pairs, &partial[subgroup * PAIRS], MATRIX);
}

// The product of a row and a key, of which each subgroup has a part.
fn pair_sum(pair: u32) -> f32 {
    var sum = 0.0;
    for (var s = 0u; s < SUBGROUPS; s++) { sum += partial[s * PAIRS + pair]; }
    return sum;
}
