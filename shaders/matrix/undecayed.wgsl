// implements: token_decay
//
// The rule `linear`: nothing decays.

// exp(decay) - 1 of a token and value head.
fn token_decay(row: u32) -> f32 { return 0.0; }
