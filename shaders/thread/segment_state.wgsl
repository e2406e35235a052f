// What one segment adds to the state:  mu = sum phi(k_i)^T v_i   nu = sum phi(k_i)
//
// A thread has all features of TILE_QUADS quads of values.
//
// reads   k [M,G,K]  v [M,G,V]
// writes  end: a state for each segment that another follows
// grid    one thread for each of segments x G x slices of V, folded
// memory  none

@compute @workgroup_size(THREADS)
fn segment_state(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let place = thread_place(workgroup, thread, 1u, params.segments - 1u);
    if (!place.inside || place.is_last) {
        return;
    }
    var mu_0 = Block(); var mu_64 = Block(); var mu_128 = Block(); var mu_192 = Block();
    var nu_0 = Features(); var nu_64 = Features(); var nu_128 = Features(); var nu_192 = Features();
    var step: Step;
    step.is_token = true;
    step.value_quad = place.value_block * TILE_QUADS;
    for (var t = place.begin; t < place.end; t++) {
        step.kv_row = kv_row(t, place.g);
        add(&mu_0, &nu_0, step, 0u);
        if (FEATURE_DIM > 64u) { add(&mu_64, &nu_64, step, 64u); }
        if (FEATURE_DIM > 128u) { add(&mu_128, &nu_128, step, 128u); }
        if (FEATURE_DIM > 192u) { add(&mu_192, &nu_192, step, 192u); }
    }
    leave(&mu_0, &nu_0, place, 0u);
    if (FEATURE_DIM > 64u) { leave(&mu_64, &nu_64, place, 64u); }
    if (FEATURE_DIM > 128u) { leave(&mu_128, &nu_128, place, 128u); }
    if (FEATURE_DIM > 192u) { leave(&mu_192, &nu_192, place, 192u); }
}

// A token enters a block of the state.
fn add(mu: ptr<function, Block>, nu: ptr<function, Features>, step: Step, first: u32) {
    let k = load_keys(step, first / 4u);
    add_keys(nu, k, 1.0);
    let n = features_from(first);
    let quad = step.value_quad;
    var strip = (*mu).a; add_outer(&strip, k, v_quad(step.kv_row, quad + 0u), n); (*mu).a = strip;
    if (TILE_QUADS > 1u) {
        strip = (*mu).b; add_outer(&strip, k, v_quad(step.kv_row, quad + 1u), n); (*mu).b = strip;
    }
    if (TILE_QUADS > 2u) {
        strip = (*mu).c; add_outer(&strip, k, v_quad(step.kv_row, quad + 2u), n); (*mu).c = strip;
        strip = (*mu).d; add_outer(&strip, k, v_quad(step.kv_row, quad + 3u), n); (*mu).d = strip;
    }
    if (TILE_QUADS > 4u) {
        strip = (*mu).e; add_outer(&strip, k, v_quad(step.kv_row, quad + 4u), n); (*mu).e = strip;
        strip = (*mu).f; add_outer(&strip, k, v_quad(step.kv_row, quad + 5u), n); (*mu).f = strip;
        strip = (*mu).g; add_outer(&strip, k, v_quad(step.kv_row, quad + 6u), n); (*mu).g = strip;
        strip = (*mu).h; add_outer(&strip, k, v_quad(step.kv_row, quad + 7u), n); (*mu).h = strip;
    }
}

// The rows of a block leave, each as what a query with the features e_f reads.
fn leave(mu: ptr<function, Block>, nu: ptr<function, Features>, place: Place, first: u32) {
    let state = state_at(place.segment, place.g);
    let quad = place.value_block * TILE_QUADS;
    let n = features_from(first);
    for (var feature = first; feature < min(first + 64u, FEATURE_DIM); feature++) {
        let q = unit_features(feature, first / 4u);
        var strip = (*mu).a; store_end_mu_quad(state, feature, quad, apply(&strip, q, n));
        if (TILE_QUADS > 1u) {
            strip = (*mu).b; store_end_mu_quad(state, feature, quad + 1u, apply(&strip, q, n));
        }
        if (TILE_QUADS > 2u) {
            strip = (*mu).c; store_end_mu_quad(state, feature, quad + 2u, apply(&strip, q, n));
            strip = (*mu).d; store_end_mu_quad(state, feature, quad + 3u, apply(&strip, q, n));
        }
        if (TILE_QUADS > 4u) {
            strip = (*mu).e; store_end_mu_quad(state, feature, quad + 4u, apply(&strip, q, n));
            strip = (*mu).f; store_end_mu_quad(state, feature, quad + 5u, apply(&strip, q, n));
            strip = (*mu).g; store_end_mu_quad(state, feature, quad + 6u, apply(&strip, q, n));
            strip = (*mu).h; store_end_mu_quad(state, feature, quad + 7u, apply(&strip, q, n));
        }
        if (place.value_block == 0u) {
            let shares = dot_shares(nu, q);
            store_end_nu_element(state, feature, shares.x + shares.y + shares.z + shares.w);
        }
    }
}
