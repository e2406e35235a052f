// The outputs of one segment, token by token from the state it starts from:
//
//     mu_i = mu_{i-1} + phi(k_i)^T v_i      nu_i = nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// mu stays in registers, spread over the workgroup: each thread holds a tile of F x V.
// It adds the token to its tile, multiplies q through it, and leaves its share of o in
// workgroup memory, where the shares of all threads along F are added up.
//
// reads   q [N,T,H,K]  k [N,T,G,K]  v [N,T,G,V]  start_mu [N,S,G,F,V]  start_nu [N,S,G,F]
// writes  o [N,T,H,V]; in the last segment end_mu [N,G,F,V]  end_nu [N,G,F]
// grid    N S G x blocks of query heads x slices of V, folded
// memory  (tokens + rows) F + tokens columns + rows (F/tile columns + F/4 + 1) + F floats

@compute @workgroup_size(THREADS)
fn segment_output(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let place = place_of(workgroup_index(workgroup), params.head_blocks, params.segments);
    if (!place.inside) {
        return;
    }
    let feature_thread = thread / COLUMN_THREADS;
    let column_thread = thread % COLUMN_THREADS;
    // Query heads of this workgroup: heads first_head .. first_head + heads.
    let first_head = place.g * params.group + place.head_block * params.head_tile;
    let heads = min(params.head_tile, params.group - place.head_block * params.head_tile);

    let start = (place.n * params.segments + place.segment) * params.kv_heads + place.g;
    var mu = start_tile(start, place.value_block, thread);
    load_start_nu(start, thread);

    for (var first = place.begin; first < place.end; first += params.chunk_len) {
        let count = min(params.chunk_len, place.end - first);
        let rows = count * heads;
        workgroupBarrier();
        load_keys_and_values(place, first, count, thread);
        for (var i = thread; i < rows * FEATURE_QUADS; i += THREADS) {
            let quad = i % FEATURE_QUADS;
            let row = o_row(place, first, first_head, heads, i / FEATURE_QUADS);
            feature_chunk[CHUNK_TOKENS * FEATURE_QUADS + i] = feature_quad(q_quad(row, quad), quad);
        }
        workgroupBarrier();

        // A token sees itself: its key enters the state before its queries read it.
        for (var token = 0u; token < count; token++) {
            add_outer(&mu, features_of(token, feature_thread), values_of(token, column_thread));
            for (var row = token * heads; row < (token + 1u) * heads; row++) {
                store_partial((row * FEATURE_THREADS + feature_thread) * VALUE_QUADS + column_thread,
                    apply(&mu, features_of(CHUNK_TOKENS + row, feature_thread)));
            }
        }
        for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
            var sum = nu[quad];
            for (var token = 0u; token < count; token++) {
                sum += feature_chunk[token * FEATURE_QUADS + quad];
                for (var row = token * heads; row < (token + 1u) * heads; row++) {
                    dot_partial[row * FEATURE_QUADS + quad] =
                        dot(feature_chunk[(CHUNK_TOKENS + row) * FEATURE_QUADS + quad], sum);
                }
            }
            nu[quad] = sum;
        }
        workgroupBarrier();

        for (var row = thread; row < rows; row += THREADS) {
            factor[row] = SCALE;
            if (NORMALIZE) {
                var sum = 0.0;
                for (var quad = 0u; quad < FEATURE_QUADS; quad++) {
                    sum += dot_partial[row * FEATURE_QUADS + quad];
                }
                let denominator = SCALE * sum + EPS;
                // A row without weight is 0, also where the caller chose eps = 0.
                factor[row] = select(SCALE / denominator, 0.0, denominator == 0.0);
            }
        }
        workgroupBarrier();

        for (var i = thread; i < rows * VALUE_QUADS; i += THREADS) {
            let row = i / VALUE_QUADS;
            let quad = i % VALUE_QUADS;
            store_o_quad(o_row(place, first, first_head, heads, row),
                place.value_block * VALUE_QUADS + quad, sum_of_shares(row, quad) * factor[row]);
        }
    }

    // Blocks of query heads carry the same state; one of them writes it.
    let is_last = place.segment + 1u == params.segments && place.head_block == 0u;
    if (WRITE_END && is_last) {
        let end = place.n * params.kv_heads + place.g;
        store_tile(&mu, end, place.value_block, thread);
        if (place.value_block == 0u) {
            store_end_nu(end, thread);
        }
    }
}

// Row of q and o, seen as [N T H, width], of one of a chunk's query rows.
fn o_row(place: Place, first: u32, first_head: u32, heads: u32, row: u32) -> u32 {
    let token = place.n * params.seq_len + first + row / heads;
    return token * params.heads + first_head + row % heads;
}
