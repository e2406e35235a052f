// implements: token_decay
//
// A decay for each token and value head, as token_gates writes it.

import gates::{load_decay};

// exp(decay) - 1 of a token and value head.
fn token_decay(row: u32) -> f32 { return load_decay(row, 0u).of_head; }
