// The outputs of one segment on matrix units, MATRIX tokens at a time from the state S before them:
//
//     O  = a (Q' S) + (tril(Q' K'^T) D) V      a_i = product of the decays up to i,  D_ij of those behind j
//     S' = a_n S + (w K')^T V                  w_i = product of the decays behind i
//
// where V are the values, and with a delta rule the corrected ones (see matrix/corrected). Products
// have factors in f16, each by a power of two (see matrix/scale), and sums in f32. nu, the division
// and all that decays are in f32. A masked product is never multiplied: an infinite key reaches no
// token before it. An infinite value does, within its chunk.
//
// reads   q [T,H,K]  k [T,G,K]  v [T,E,V]  gates [T,E]  state_in [states, state]
// writes  o [T,max(H,E),V]; in the last segment of a sequence, and at its checkpoints, state_out [states, state]
// grid    segments x E x value blocks, folded; SUBGROUPS subgroups a workgroup
// memory  those of matrix/chunk, matrix/queries, matrix/products and matrix/state; f16: MATRIX MATRIX of the
//         masked products

enable f16;
enable wgpu_cooperative_matrix;

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, CHECKPOINTS, COLUMN_TILES, FINAL_STATE, MATRIX};
import constants::{NORMALIZE, PAIRS, PAIR_LOADS, SEGMENT_STATES, THREADS, VALUE_LOADS};
import chunk_values::{correct_values};
import heads::{output_begin};
import matrices::{Left, Right, Sums};
import matrix/chunk::{COLUMNS, QUERIES, factor_index, factors, kept_between, key_inverses, load_tokens, values};
import matrix/chunk::{value_inverse, weigh_tokens};
import matrix/item::{has_subgroups, matrix_item, next_stop, poison, shared_word};
import matrix/panel::{panel};
import matrix/products::{halve_state, multiply_rows, pair_sum, partial, state_inverse};
import matrix/queries::{gains, load_queries, query_max};
import matrix/scale::{half_inverse, half_scale};
import matrix/state::{SUBGROUP_COLUMNS, Tiles, load_state, nu, poison_state, store_state, update_state};
import normalise::{row_factor_of};
import params::{params};
import rows::{store_o};
import sequence_entry::{checkpoint_entry};
import states/offset::{state_offset};
import work_item::{Chunk, WorkItem};

// Threads that share a row's product with nu.
const ROW_THREADS: u32 = THREADS / MATRIX;
const PRODUCTS_LEN: u32 = select(4u, THREADS, NORMALIZE);

var<workgroup> scores: array<f16, PAIRS>;                // tril(Q' K'^T) D, each row by its scale
var<workgroup> score_max: array<atomic<u32>, MATRIX>;    // bits of the largest of each row
var<workgroup> products: array<f32, PRODUCTS_LEN>;       // of queries and nu
var<workgroup> row_factors: array<vec3<f32>, MATRIX>;    // of panel, of partial, and of both

@compute @workgroup_size(THREADS)
fn segment_output(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    let item = matrix_item(workgroup, thread, params.head_blocks, params.segments);
    if (!item.is_active) { return; }
    if (!item.has_sequence) {
        fill_rows(item, thread, 0.0);
        return;
    }
    if (!has_subgroups(thread, subgroups)) {
        fill_rows(item, thread, poison());
        if (FINAL_STATE && item.is_last) { poison_state(state_offset(item.state, item.head), item, thread); }
        return;
    }

    // Of a segment's own in scratch, or the initial state, or the one that will be overwritten.
    let begin = state_offset(select(item.source, item.segment, SEGMENT_STATES), item.head);
    var mu: Tiles;
    load_state(&mu, begin, item, thread, subgroup);
    workgroupBarrier();

    // Chunks end where the state is to be stored on the way.
    var stop = next_stop(item, item.begin, thread);
    var tokens = 0u;
    for (var t = item.begin; t < item.end; t += tokens) {
        tokens = min(params.chunk_len, stop - t);
        let chunk = Chunk(t, tokens);
        halve_state(&mu, thread, subgroup);
        load_tokens(item, chunk, thread);
        correct_values(item, chunk, thread, subgroup);
        weigh_tokens(thread);
        for (var h = 0u; h < item.heads; h++) {
            load_queries(item, chunk, h, thread);
            multiply_queries(thread, subgroup);
            let of_chunk = mask_scores(chunk, thread);
            multiply_values(chunk, of_chunk, thread, subgroup);
            write_outputs(item, chunk, h, thread);
        }
        update_state(&mu, thread, subgroup);
        if (CHECKPOINTS > 0u && t + tokens == stop) {
            for (var c = 0u; c < CHECKPOINTS; c++) {
                let to = checkpoint_state(item, c, stop, thread);
                if (to != NONE) { store_state(&mu, state_offset(to, item.head), item, thread, subgroup); }
            }
            stop = next_stop(item, stop, thread);
        }
    }

    if (FINAL_STATE && item.is_last) { store_state(&mu, state_offset(item.state, item.head), item, thread, subgroup); }
}

const NONE: u32 = 0xFFFFFFFFu;

// The state to store the tokens before `stop` in, if checkpoint c asks for it.
fn checkpoint_state(item: WorkItem, c: u32, stop: u32, thread: u32) -> u32 {
    let entry = checkpoint_entry(item.sequence, c);
    return shared_word(2u, select(NONE, entry.state, entry.is_active != 0u && entry.end == stop), thread);
}

// Of the queries of a head: with S, with keys and with nu.
fn multiply_queries(thread: u32, subgroup: u32) {
    multiply_rows(QUERIES, subgroup);
    if (NORMALIZE) {
        let row = thread / ROW_THREADS;
        var sum = 0.0;
        for (var f4 = thread % ROW_THREADS; f4 < BLOCK_VEC4; f4 += ROW_THREADS) {
            let at = factor_index(row, f4);
            @unroll
            for (var f = 0u; f < 4u; f++) { sum += f32(factors[QUERIES + 4u * at + f]) * nu[4u * f4 + f]; }
        }
        products[thread] = sum;
    }
    if (thread < MATRIX) { atomicStore(&score_max[thread], 0u); }
    workgroupBarrier();
}

// The products of each query with the keys up to its own, decayed, and times what brings values
// back. Where o is normalised, returns the sum of this thread's query, without that.
fn mask_scores(chunk: Chunk, thread: u32) -> f32 {
    var x: array<f32, PAIR_LOADS>;
    @unroll
    for (var n = 0u; n < PAIR_LOADS; n++) {
        let pair = thread + n * THREADS;
        let i = pair / MATRIX;
        let j = pair % MATRIX;
        if (pair < PAIRS && i < chunk.tokens && j <= i) {
            let score = pair_sum(pair) * key_inverses[j] * kept_between(j + 1u, i + 1u);
            if (NORMALIZE) { partial[pair] = score; }
            x[n] = score * value_inverse(j);
            atomicMax(&score_max[i], bitcast<u32>(abs(x[n])));
        }
    }
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < PAIR_LOADS; n++) {
        let pair = thread + n * THREADS;
        if (pair < PAIRS) { scores[pair] = f16(x[n] * half_scale(atomicLoad(&score_max[pair / MATRIX]))); }
    }
    var sum = 0.0;
    if (NORMALIZE && thread < chunk.tokens) {
        for (var j = 0u; j <= thread; j++) { sum += partial[thread * MATRIX + j]; }
    }
    workgroupBarrier();
    return sum;
}

// Scores times values into partial, and the factors of both parts of each row, of which `of_chunk`
// is a part of the weight.
fn multiply_values(chunk: Chunk, of_chunk: f32, thread: u32, subgroup: u32) {
    let left = coopLoadT<Left>(&scores[0], MATRIX);
    @unroll
    for (var c = 0u; c < COLUMN_TILES; c++) {
        let at = subgroup * SUBGROUP_COLUMNS + c * MATRIX;
        let sums = coopMultiplyAdd(left, coopLoad<Right>(&values[at * MATRIX], MATRIX), Sums());
        coopStoreT(sums, &partial[at], COLUMNS);
    }
    if (thread < chunk.tokens) {
        let i = thread;
        let kept = kept_between(0u, i + 1u);
        let of_scores = half_inverse(atomicLoad(&score_max[i]));
        let of_query = half_inverse(atomicLoad(&query_max[i]));
        var weight = 0.0;
        if (NORMALIZE) {
            for (var n = 0u; n < ROW_THREADS; n++) { weight += products[i * ROW_THREADS + n]; }
            weight = (kept * weight + of_chunk) * of_query;
        }
        let factor = row_factor_of(weight, gains[i]);
        row_factors[i] = vec3<f32>(kept * state_inverse(), of_scores, of_query);
        gains[i] = factor;
    }
    workgroupBarrier();
}

fn write_outputs(item: WorkItem, chunk: Chunk, h: u32, thread: u32) {
    @unroll
    for (var n = 0u; n < VALUE_LOADS; n++) {
        let i = thread + n * THREADS;
        let row = i / BLOCK_COLUMNS_VEC4;
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        if (row < chunk.tokens) {
            let before = vec4<f32>(panel[4u * i], panel[4u * i + 1u], panel[4u * i + 2u], panel[4u * i + 3u]);
            let own = vec4<f32>(partial[4u * i], partial[4u * i + 1u], partial[4u * i + 2u], partial[4u * i + 3u]);
            let by = row_factors[row];
            // The query's comes first: nothing is larger on the way than in q' mu.
            let o = (before * by.z * by.x + own * by.z * by.y) * gains[row];
            store_o(output_begin(chunk.first + row, item.first_head + h), c4, o);
        }
    }
}

fn fill_rows(item: WorkItem, thread: u32, x: f32) {
    let len = (item.end - item.begin) * item.heads * BLOCK_COLUMNS_VEC4;
    for (var i = thread; i < len; i += THREADS) {
        let row = i / BLOCK_COLUMNS_VEC4;
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        let head = item.first_head + row_head(item, row);
        let begin = output_begin(item.begin + row_token(item, row), head);
        store_o(begin, c4, vec4<f32>(x));
    }
}
