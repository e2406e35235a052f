// What one segment adds to the state:  mu = sum phi(k_i)^T v_i   nu = sum phi(k_i)
//
// reads   k [M,G,K]  v [M,G,V]
// writes  end: a state for each segment that another follows
// grid    segments x G x blocks of F x slices of V, folded
// memory  (tokens + rows) F + tokens columns + F floats

@compute @workgroup_size(THREADS)
fn segment_state(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let place = workgroup_place(workgroup_index(workgroup), 1u, params.segments - 1u, thread);
    if (!place.inside || place.is_last) {
        return;
    }
    let feature_thread = thread / COLUMN_THREADS;
    let column_thread = thread % COLUMN_THREADS;

    var mu = Tile();
    for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
        nu[quad] = vec4<f32>(0.0);
    }

    var chunk = chunk_of(place);
    for (var first = place.begin; first < place.end; first += params.chunk_len) {
        let count = min(params.chunk_len, place.end - first);
        chunk.first = first;
        chunk.count = count;
        workgroupBarrier();
        load_chunk_keys(chunk, thread);
        load_chunk_values(chunk, thread);
        workgroupBarrier();
        map_chunk(chunk, 0u, thread);

        for (var token = 0u; token < count; token++) {
            add_outer(&mu, features_of(token, feature_thread), values_of(token, column_thread));
        }
        for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
            var sum = nu[quad];
            for (var token = 0u; token < count; token++) {
                sum += feature_chunk[token * FEATURE_QUADS + quad];
            }
            nu[quad] = sum;
        }
    }

    let state = state_at(place.segment, place.g);
    store_tile(&mu, state, place.feature_block, place.value_block, thread);
    if (place.value_block == 0u) {
        store_end_nu(state, place.feature_block, thread);
    }
}
