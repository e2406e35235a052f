// The outputs of one segment, token by token from the state it starts from:
//
//     mu_i = mu_{i-1} + phi(k_i)^T v_i      nu_i = nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// A thread has all features of TILE_QUADS quads of values, and one query head. It adds the
// token to its part of mu, multiplies q through it, and has its part of o.
//
// reads   q [M,H,K]  k [M,G,K]  v [M,G,V]  start: a state for each segment
// writes  o [M,H,V]; in the last segment of a sequence end: a state for each sequence
// grid    one thread for each of segments x H x slices of V, folded
// memory  none

@compute @workgroup_size(THREADS)
fn segment_output(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let place = thread_place(workgroup, thread, params.head_blocks, params.segments);
    if (!place.inside) {
        return;
    }
    let head = place.g * params.group + place.head_block;
    // Of a segment's own, or the initial state, or the one that it will overwrite.
    let start_state = state_at(select(place.state, place.segment, STARTS_IN_SCRATCH), place.g);
    let end_state = state_at(place.state, place.g);
    // Query heads of one key/value head carry the same state; the first writes it.
    let writes_end = WRITE_END && place.is_last && place.head_block == 0u;

    var mu_0 = Block(); var mu_64 = Block(); var mu_128 = Block(); var mu_192 = Block();
    var nu_0 = Features(); var nu_64 = Features(); var nu_128 = Features(); var nu_192 = Features();

    // The state enters, the tokens, the state leaves.
    let tokens_begin = select(FEATURE_DIM, 0u, START == START_ZERO);
    let tokens_end = tokens_begin + place.end - place.begin;
    let steps = tokens_end + select(0u, FEATURE_DIM, writes_end);
    for (var i = 0u; i < steps; i++) {
        var step: Step;
        step.enters = START != START_ZERO && i < tokens_begin;
        step.leaves = WRITE_END && i >= tokens_end;
        step.is_token = !step.enters && !step.leaves;
        step.feature = select(i, i - tokens_end, step.leaves);
        step.start = start_state;
        step.end = end_state;
        step.value_quad = place.value_block * TILE_QUADS;
        // What enters or leaves reads the row of some token, and does not use it. An empty
        // sequence, which may begin where the tensors end, reads the one before.
        let last = max(tokens_end, 1u) - 1u;
        let t = min(place.begin + max(min(i, last), tokens_begin) - tokens_begin, params.tokens - 1u);
        step.q_row = t * params.heads + head;
        step.kv_row = kv_row(t, place.g);

        var row = Row();
        advance(&mu_0, &nu_0, &row, step, 0u);
        if (FEATURE_DIM > 64u) { advance(&mu_64, &nu_64, &row, step, 64u); }
        if (FEATURE_DIM > 128u) { advance(&mu_128, &nu_128, &row, step, 128u); }
        if (FEATURE_DIM > 192u) { advance(&mu_192, &nu_192, &row, step, 192u); }
    }
}

// What blocks add up to one row of o: q' mu, and q' . nu in four shares.
struct Row { o: Values, shares: vec4<f32>, factor: f32, shift: f32 }

// One step through one block of the state. The row is whole with the last block, and is
// written as it comes.
fn advance(
    mu: ptr<function, Block>,
    nu: ptr<function, Features>,
    row: ptr<function, Row>,
    step: Step,
    first: u32,
) {
    let k = load_keys(step, first / 4u);
    if (QUERY_MAP == EXP) { shift_row(row, step, first); }
    let q = load_queries(step, first / 4u, (*row).shift);
    // A token counts once in nu; a row of the start state as often as its nu says.
    var weight = 1.0;
    if (step.enters) { weight = start_nu_element(step.start, step.feature); }
    add_keys(nu, k, weight);
    (*row).shares += dot_shares(nu, q);
    if (first + 64u >= FEATURE_DIM) {
        (*row).factor = factor_of_step(step, (*row).shares, (*row).shift);
    }
    let f = (*row).factor;
    var strip = (*mu).a; (*row).o.a = advance_strip(&strip, k, q, (*row).o.a, f, step, 0u, first); (*mu).a = strip;
    if (TILE_QUADS > 1u) {
        strip = (*mu).b; (*row).o.b = advance_strip(&strip, k, q, (*row).o.b, f, step, 1u, first); (*mu).b = strip;
    }
    if (TILE_QUADS > 2u) {
        strip = (*mu).c; (*row).o.c = advance_strip(&strip, k, q, (*row).o.c, f, step, 2u, first); (*mu).c = strip;
        strip = (*mu).d; (*row).o.d = advance_strip(&strip, k, q, (*row).o.d, f, step, 3u, first); (*mu).d = strip;
    }
    if (TILE_QUADS > 4u) {
        strip = (*mu).e; (*row).o.e = advance_strip(&strip, k, q, (*row).o.e, f, step, 4u, first); (*mu).e = strip;
        strip = (*mu).f; (*row).o.f = advance_strip(&strip, k, q, (*row).o.f, f, step, 5u, first); (*mu).f = strip;
        strip = (*mu).g; (*row).o.g = advance_strip(&strip, k, q, (*row).o.g, f, step, 6u, first); (*mu).g = strip;
        strip = (*mu).h; (*row).o.h = advance_strip(&strip, k, q, (*row).o.h, f, step, 7u, first); (*mu).h = strip;
    }
}

// A key enters the state before its query reads it, so that a token sees itself.
fn advance_strip(
    mu: ptr<function, Strip>,
    k: Features,
    q: Features,
    o: vec4<f32>,
    factor: f32,
    step: Step,
    index: u32,
    first: u32,
) -> vec4<f32> {
    let features = features_from(first);
    add_outer(mu, k, value_quad(step, index), features);
    let sum = o + apply(mu, q, features);
    // Written here and not after all strips: software drivers compile small blocks better.
    if (first + 64u >= FEATURE_DIM) {
        store_value_quad(step, index, factor * sum);
    }
    return sum;
}

// What a row of q' mu is multiplied by. What leaves with nu leaves here.
fn factor_of_step(step: Step, shares: vec4<f32>, shift: f32) -> f32 {
    let sum = shares.x + shares.y + shares.z + shares.w;
    if (step.leaves && step.value_quad == 0u) {
        store_end_nu_element(step.end, step.feature, sum);
    }
    return select(factor_of(sum, shift), 1.0, step.leaves);
}

fn query_quad(step: Step, quad: u32, shift: f32) -> vec4<f32> {
    if (4u * quad >= FEATURE_DIM) { return vec4<f32>(0.0); }
    let unit = unit_quad(step.feature, quad);
    let features = query_feature_quad(q_quad(step.q_row, quad), quad, shift);
    return select(unit, features, step.is_token);
}

// Features 4 quad .. + 63 of a row of phi(q).
fn load_queries(step: Step, quad: u32, shift: f32) -> Features {
    return Features(
        query_quad(step, quad + 0u, shift), query_quad(step, quad + 1u, shift),
        query_quad(step, quad + 2u, shift), query_quad(step, quad + 3u, shift),
        query_quad(step, quad + 4u, shift), query_quad(step, quad + 5u, shift),
        query_quad(step, quad + 6u, shift), query_quad(step, quad + 7u, shift),
        query_quad(step, quad + 8u, shift), query_quad(step, quad + 9u, shift),
        query_quad(step, quad + 10u, shift), query_quad(step, quad + 11u, shift),
        query_quad(step, quad + 12u, shift), query_quad(step, quad + 13u, shift),
        query_quad(step, quad + 14u, shift), query_quad(step, quad + 15u, shift),
    );
}

// A row of EXP is mapped less the largest of its first 64 numbers, or nearly; only where a later
// one is larger than that is all that was added up so far brought to another measure.
fn shift_row(row: ptr<function, Row>, step: Step, first: u32) {
    if (!step.is_token) { return; }
    let largest = shift_of(largest_of(step, first));
    if (first == 0u) {
        (*row).shift = largest;
    } else if (largest > (*row).shift + 4.0) {
        let shrink = exp((*row).shift - largest);
        (*row).shift = largest;
        (*row).shares *= shrink;
        (*row).o.a *= shrink; (*row).o.b *= shrink; (*row).o.c *= shrink; (*row).o.d *= shrink;
        (*row).o.e *= shrink; (*row).o.f *= shrink; (*row).o.g *= shrink; (*row).o.h *= shrink;
    }
}

// The largest of numbers first .. + 63 of a row of q.
fn largest_of(step: Step, first: u32) -> f32 {
    var most = number_quad(step, first, 0u);
    if (features_from(first) > 4u) { most = max(most, number_quad(step, first, 1u)); }
    if (features_from(first) > 8u) { most = max(most, number_quad(step, first, 2u)); }
    if (features_from(first) > 12u) { most = max(most, number_quad(step, first, 3u)); }
    if (features_from(first) > 16u) { most = max(most, number_quad(step, first, 4u)); }
    if (features_from(first) > 20u) { most = max(most, number_quad(step, first, 5u)); }
    if (features_from(first) > 24u) { most = max(most, number_quad(step, first, 6u)); }
    if (features_from(first) > 28u) { most = max(most, number_quad(step, first, 7u)); }
    if (features_from(first) > 32u) { most = max(most, number_quad(step, first, 8u)); }
    if (features_from(first) > 36u) { most = max(most, number_quad(step, first, 9u)); }
    if (features_from(first) > 40u) { most = max(most, number_quad(step, first, 10u)); }
    if (features_from(first) > 44u) { most = max(most, number_quad(step, first, 11u)); }
    if (features_from(first) > 48u) { most = max(most, number_quad(step, first, 12u)); }
    if (features_from(first) > 52u) { most = max(most, number_quad(step, first, 13u)); }
    if (features_from(first) > 56u) { most = max(most, number_quad(step, first, 14u)); }
    if (features_from(first) > 60u) { most = max(most, number_quad(step, first, 15u)); }
    return max(max(most.x, most.y), max(most.z, most.w));
}

fn number_quad(step: Step, first: u32, quad: u32) -> vec4<f32> {
    return or_lowest(q_quad(step.q_row, first / 4u + quad), first / 4u + quad);
}

fn value_quad(step: Step, index: u32) -> vec4<f32> {
    let quad = step.value_quad + index;
    if (step.enters) {
        return start_mu_quad(step.start, step.feature, quad);
    }
    let v = v_quad(step.kv_row, quad);
    // An empty sequence has read another's row, which may hold anything, to add 0 times it.
    if (LENGTHS_GIVEN && !step.is_token) { return vec4<f32>(0.0); }
    return v;
}

fn store_value_quad(step: Step, index: u32, x: vec4<f32>) {
    let quad = step.value_quad + index;
    if (step.is_token) {
        store_o_quad(step.q_row, quad, x);
    }
    if (step.leaves) {
        store_end_mu_quad(step.end, step.feature, quad, x);
    }
}
