// What a thread does at a time: take in one token.
//
// A state enters as F tokens with the features e_f and the values mu_f, and leaves as F
// queries with the features e_f. Both are exact, and both go through the code that tokens
// go through: a memory access for each register, written out, takes a software driver
// longer to compile than everything else.

struct Step {
    is_token: bool,
    enters: bool,     // row `feature` of the state `start`
    leaves: bool,     // row `feature` of the state `end`
    feature: u32,
    start: StateAt,
    end: StateAt,
    q_row: u32,       // row of q and o, seen as [M H, width]
    kv_row: u32,      // row of k and v, seen as [M G, width]
    value_quad: u32,  // first quad of the thread's values
}

// Four numbers of e_f.
fn unit_quad(feature: u32, quad: u32) -> vec4<f32> {
    let is_one = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(feature);
    return select(vec4<f32>(0.0), vec4<f32>(1.0), is_one);
}

fn key_quad(step: Step, quad: u32) -> vec4<f32> {
    if (4u * quad >= FEATURE_DIM) { return vec4<f32>(0.0); }
    let unit = select(vec4<f32>(0.0), unit_quad(step.feature, quad), step.enters);
    return select(unit, feature_quad(KEY_MAP, k_quad(step.kv_row, quad), quad), step.is_token);
}

// Features 4 quad .. + 63 of a row of phi(k).
fn load_keys(step: Step, quad: u32) -> Features {
    return Features(
        key_quad(step, quad + 0u), key_quad(step, quad + 1u),
        key_quad(step, quad + 2u), key_quad(step, quad + 3u),
        key_quad(step, quad + 4u), key_quad(step, quad + 5u),
        key_quad(step, quad + 6u), key_quad(step, quad + 7u),
        key_quad(step, quad + 8u), key_quad(step, quad + 9u),
        key_quad(step, quad + 10u), key_quad(step, quad + 11u),
        key_quad(step, quad + 12u), key_quad(step, quad + 13u),
        key_quad(step, quad + 14u), key_quad(step, quad + 15u),
    );
}

// The same of e_f.
fn unit_features(feature: u32, quad: u32) -> Features {
    return Features(
        unit_quad(feature, quad + 0u), unit_quad(feature, quad + 1u),
        unit_quad(feature, quad + 2u), unit_quad(feature, quad + 3u),
        unit_quad(feature, quad + 4u), unit_quad(feature, quad + 5u),
        unit_quad(feature, quad + 6u), unit_quad(feature, quad + 7u),
        unit_quad(feature, quad + 8u), unit_quad(feature, quad + 9u),
        unit_quad(feature, quad + 10u), unit_quad(feature, quad + 11u),
        unit_quad(feature, quad + 12u), unit_quad(feature, quad + 13u),
        unit_quad(feature, quad + 14u), unit_quad(feature, quad + 15u),
    );
}
