// The quotient of a row:  o_i = (s q'_i mu_i) / (s q'_i . nu_i + eps)

import constants::{EPS, NORMALIZE, SCALE};

// The factor of a row of q' mu whose weight q' . nu is given. The query's features were multiplied
// by `gain`, which cancels in the quotient, but for eps: see map/stabiliser.
fn row_factor_of(weight: f32, gain: f32) -> f32 {
    if (!NORMALIZE) { return SCALE / gain; }
    // s is a common factor as well.
    if (EPS == 0.0) { return quotient(1.0, weight); }
    return quotient(SCALE, SCALE * weight + EPS * gain);
}

// A row without any weight is 0, and so is one whose weight is below every normal value: some
// devices flush it.
fn quotient(x: f32, denominator: f32) -> f32 {
    return select(x / denominator, 0.0, abs(denominator) < 1.1754944e-38);
}
