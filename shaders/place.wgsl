// Which part of the problem a workgroup has, or in thread/ a thread: the stages that walk
// segments ask here.

// What sequence_table found out about each sequence: the first of its tokens, the one after
// its last, its state in `start` and `end`, and whether it takes part. [N]
@group(0) @binding(7) var<storage, read_write> table: array<vec4<u32>>;

struct Place {
    inside: bool,      // false for what is nobody's
    segment: u32,      // number among all segments, and of its state in scratch
    is_last: bool,     // whether it is the last of its sequence
    state: u32,        // its sequence's state in `start` and `end`, outside scratch
    g: u32,            // key/value head
    head_block: u32,
    value_block: u32,
    feature_block: u32,
    begin: u32,        // tokens begin .. end, counted through all sequences
    end: u32,
}

// `segments` is how many of each sequence's segments have a place in this stage, where all
// sequences have as many.
fn place_of(index: u32, head_blocks: u32, segments: u32) -> Place {
    var place: Place;
    var rest = index;
    place.value_block = rest % params.value_blocks;
    rest /= params.value_blocks;
    place.feature_block = rest % FEATURE_BLOCKS;
    rest /= FEATURE_BLOCKS;
    place.head_block = rest % head_blocks;
    rest /= head_blocks;
    place.g = rest % params.kv_heads;
    rest /= params.kv_heads;

    let n = rest / segments;
    let s = rest % segments;
    let first_token = n * params.seq_len;
    place.inside = n < params.sequences;
    place.segment = n * params.segments + s;
    place.is_last = s + 1u == params.segments;
    place.state = n;
    place.begin = first_token + s * params.segment_len;
    place.end = first_token + min((s + 1u) * params.segment_len, params.seq_len);
    return place;
}

// The same where lengths differ or states have slots.
fn place_in_table(index: u32, head_blocks: u32) -> Place {
    let segment = index / params.value_blocks / FEATURE_BLOCKS / head_blocks / params.kv_heads;
    var place = place_of(index, head_blocks, 1u);
    // The last sequence whose numbers begin at or before this one.
    var n = 0u;
    var beyond = params.sequences;
    while (beyond - n > 1u) {
        let middle = n + (beyond - n) / 2u;
        if (first_segment(middle, table[middle]) <= segment) { n = middle; } else { beyond = middle; }
    }
    let entry = entry_of(n);
    let s = segment - first_segment(n, entry);
    let segments = segments_of(entry);
    // Where a first entry is bad, s may have wrapped: then it is too large as well.
    place.inside = s < segments && entry.w != 0u;
    place.segment = segment;
    place.is_last = s + 1u == segments;
    place.state = entry.z;
    place.begin = entry.x + s * params.segment_len;
    place.end = place.begin + min(params.segment_len, entry.y - place.begin);
    return place;
}

// What the table has for a sequence. The table is in the caller's scratch: whatever is there by
// now, it leads no shader out of its buffers.
fn entry_of(n: u32) -> vec4<u32> {
    let entry = table[n];
    let can_be = entry.x <= entry.y && entry.y <= params.tokens && entry.z < params.states;
    return select(vec4<u32>(0u), entry, can_be);
}

// Segments of a sequence: an empty one has one, too, which carries its state on.
fn segments_of(entry: vec4<u32>) -> u32 {
    return max((entry.y - entry.x + params.segment_len - 1u) / params.segment_len, 1u);
}

// The number of its first. Every sequence has numbers enough before those of the next, since
// ceil(x / L) <= floor((begin + x) / L) - floor(begin / L) + 1.
fn first_segment(n: u32, entry: vec4<u32>) -> u32 {
    return n + entry.x / params.segment_len;
}
