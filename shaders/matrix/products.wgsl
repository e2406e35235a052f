// Products of a chunk's rows, its keys or the queries of a head, with the state S before the chunk
// and with its keys.
//
// memory  f16: F columns of S; floats: MATRIX columns

import constants::{COLUMN_TILES, FEATURE_TILES, MATRIX, MATRIX_VEC4, PAIRS, SUBGROUPS, SUBGROUP_TILES, THREADS};
import constants::{VALUE_LOADS};
import matrices::{Left, Right, Sums};
import matrix/chunk::{COLUMNS, EVEN_VALUES, KEYS, PAIRS_VEC4, VALUES_LEN, chunk_decay, chunk_reach, factors};
import matrix/panel::{panel};
import matrix/scale::{STATE_BOUND, STATE_MAX, half_inverse, half_scale, maxima};
import matrix/state::{STATE_LEN, SUBGROUP_COLUMNS, Tiles};

// S by its scale: [columns/MATRIX, F/MATRIX, MATRIX columns, MATRIX features]
var<workgroup> state: array<f16, STATE_LEN>;
// Of rows and keys, [SUBGROUPS, tokens, tokens], which are fewer; then scores V, [tokens, columns].
var<workgroup> partial: array<f32, VALUES_LEN>;

// S as a factor, before a chunk is loaded, and its largest element. Its scale is by a bound: the
// largest element before the last chunk, decayed, and what that chunk may have added.
fn halve_state(mu: ptr<function, Tiles>, thread: u32, subgroup: u32) {
    let kept = abs(1.0 + chunk_decay());
    let bound = kept * bitcast<f32>(atomicLoad(&maxima[STATE_MAX])) + chunk_reach();
    let scale = half_scale(bitcast<u32>(bound));
    var largest = 0.0;
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        workgroupBarrier();
        if (r == 0u && thread == 0u) {
            atomicStore(&maxima[STATE_MAX], 0u);
            atomicStore(&maxima[STATE_BOUND], bitcast<u32>(bound));
        }
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            coopStoreT((*mu)[r * COLUMN_TILES + c], &panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
        }
        workgroupBarrier();
        @unroll
        for (var n = 0u; n < VALUE_LOADS; n++) {
            let i = thread + n * THREADS;
            let column = i / MATRIX_VEC4;
            let f = i % MATRIX_VEC4 * 4u;
            let at = (i / PAIRS_VEC4 * FEATURE_TILES + r) * PAIRS_VEC4 + i % PAIRS_VEC4;
            if (EVEN_VALUES || i < VALUES_LEN / 4u) {
                var x: vec4<f32>;
                @unroll
                for (var j = 0u; j < 4u; j++) { x[j] = panel[(f + j) * COLUMNS + column]; }
                largest = max(largest, max(max(abs(x.x), abs(x.y)), max(abs(x.z), abs(x.w))));
                @unroll
                for (var j = 0u; j < 4u; j++) { state[4u * at + j] = f16(x[j] * scale); }
            }
        }
    }
    atomicMax(&maxima[STATE_MAX], bitcast<u32>(largest));
}

// The factor that brings back a product with S.
fn state_inverse() -> f32 { return half_inverse(atomicLoad(&maxima[STATE_BOUND])); }

// Of the rows that begin at `rows` in `factors`: those with S into panel, and in this subgroup's
// features those with keys into its part of partial.
fn multiply_rows(rows: u32, subgroup: u32) {
    var sums: array<Sums, COLUMN_TILES>;
    @unroll
    for (var c = 0u; c < COLUMN_TILES; c++) { sums[c] = Sums(); }
    @unroll
    for (var r = 0u; r < FEATURE_TILES; r++) {
        let left = coopLoadT<Left>(&factors[rows + r * PAIRS], MATRIX);
        @unroll
        for (var c = 0u; c < COLUMN_TILES; c++) {
            let at = ((subgroup * COLUMN_TILES + c) * FEATURE_TILES + r) * PAIRS;
            sums[c] = coopMultiplyAdd(left, coopLoad<Right>(&state[at], MATRIX), sums[c]);
        }
    }
    @unroll
    for (var c = 0u; c < COLUMN_TILES; c++) {
        coopStoreT(sums[c], &panel[subgroup * SUBGROUP_COLUMNS + c * MATRIX], COLUMNS);
    }
    var pairs = Sums();
    @unroll
    for (var n = 0u; n < SUBGROUP_TILES; n++) {
        let at = (subgroup * SUBGROUP_TILES + n) * PAIRS;
        let left = coopLoadT<Left>(&factors[rows + at], MATRIX);
        // A column a key.
        pairs = coopMultiplyAdd(left, coopLoad<Right>(&factors[KEYS + at], MATRIX), pairs);
    }
    coopStoreT(pairs, &partial[subgroup * PAIRS], MATRIX);
}

// The product of a row and a key, of which each subgroup has a part.
fn pair_sum(pair: u32) -> f32 {
    var sum = 0.0;
    for (var s = 0u; s < SUBGROUPS; s++) { sum += partial[s * PAIRS + pair]; }
    return sum;
}
