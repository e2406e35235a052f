// The sequence of a token of the backward pass.

import params::{params};

// begin, end of each sequence, and the tokens behind the last that passes in reversed time do not
// have
@group(0) @binding(23) var<storage, read_write> ranges: array<vec2<u32>>;

// The first sequence that ends behind token t; params.sequences where none does.
fn sequence_behind(t: u32) -> u32 {
    var first = 0u;
    var end = params.sequences;
    while (first < end) {
        let n = (first + end) / 2u;
        if (ranges[n].y > t) { end = n; } else { first = n + 1u; }
    }
    return first;
}

fn has_sequence(t: u32) -> bool {
    let n = sequence_behind(t);
    return n < params.sequences && t >= ranges[n].x;
}

// True if token t has another one of its sequence behind it.
fn is_followed(t: u32) -> bool {
    let n = sequence_behind(t);
    return n < params.sequences && t >= ranges[n].x && t + 1u < ranges[n].y;
}
