// The outputs of one segment, token by token from the state it starts from:
//
//     mu_i = mu_{i-1} + phi(k_i)^T v_i      nu_i = nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// mu stays in registers, spread over the workgroup: each thread holds a tile of F x V.
// It adds the token to its tile, multiplies q through it, and leaves its share of o in
// workgroup memory, where the shares of all threads along F are added up.
//
// reads   q [M,H,K]  k [M,G,K]  v [M,G,V]  start: a state for each segment
// writes  o [M,H,V], or where F falls into several blocks the shares of each; in the last segment
//         of a sequence end: a state for each sequence
// grid    segments x G x blocks of query heads x blocks of F x slices of V, folded
// memory  with F those of a block: (tokens + rows) F + tokens columns
//         + rows (F/16 columns + F/4 + 1) + F floats; and mapped.wgsl's

@compute @workgroup_size(THREADS)
fn segment_output(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let place = workgroup_place(
        workgroup_index(workgroup), params.head_blocks, params.segments, thread);
    if (!place.inside) {
        return;
    }
    // Of a segment's own, or the initial state, or the one that it will overwrite.
    let start_state = state_at(select(place.state, place.segment, STARTS_IN_SCRATCH), place.g);
    var mu = start_tile(start_state, place.feature_block, place.value_block, thread);
    load_start_nu(start_state, place.feature_block, thread);

    var chunk = chunk_of(place);
    for (var first = place.begin; first < place.end; first += params.chunk_len) {
        chunk.first = first;
        chunk.count = min(params.chunk_len, place.end - first);
        chunk_outputs(&mu, chunk, thread);
    }

    // Blocks of query heads carry the same state; one of them writes it.
    if (WRITE_END && place.is_last && place.head_block == 0u) {
        let end_state = state_at(place.state, place.g);
        store_tile(&mu, end_state, place.feature_block, place.value_block, thread);
        if (place.value_block == 0u) {
            store_end_nu(end_state, place.feature_block, thread);
        }
    }
}
