// What every stage shares: the numbers fixed when a pipeline is made, the numbers
// fixed when tensors are bound, the feature map, and who has which part of the problem.
//
// The last part of every module.

// Fixed per pipeline. src/stage.rs sets every one; none has a second home.
override KEY_DIM: u32;          // K
override VALUE_DIM: u32;        // V
override FEATURE_MAP: u32;      // 0 identity, 1 relu, 2 elu + 1
override NORMALIZE: bool;
override SCALE: f32;            // s
override EPS: f32;
override START: u32;            // START_*: what a sequence starts from
override WRITE_END: bool;       // whether the final state is wanted

const START_ZERO: u32 = 0u;
const START_GIVEN: u32 = 1u;
const START_IN_PLACE: u32 = 2u;

// Fixed per binding. src/params.rs mirrors it field by field, and a test compares the offsets.
struct Params {
    batch: u32,         // N
    seq_len: u32,       // T
    heads: u32,         // H
    kv_heads: u32,      // G
    group: u32,         // H / G: query heads that read one key/value head
    head_tile: u32,     // query heads of a place
    head_blocks: u32,   // ceil(group / head_tile)
    value_blocks: u32,  // ceil(V / values of a place)
    segments: u32,      // S
    segment_len: u32,   // tokens of a segment; the last may have fewer
    chunk_len: u32,     // tokens of a chunk, at most CHUNK_TOKENS
    grid_width: u32,    // workgroups along x; the rest is folded into y
}

@group(0) @binding(0) var<uniform> params: Params;

// phi, element by element. Of the two terms of elu + 1 one is always exact, exp(0) = 1 or
// 0, so that nothing cancels as it does in expm1(x) + 1; and exp stays in range.
fn phi(x: vec4<f32>) -> vec4<f32> {
    switch FEATURE_MAP {
        case 1u: { return max(x, vec4<f32>(0.0)); }
        case 2u: { return exp(min(x, vec4<f32>(0.0))) + max(x, vec4<f32>(0.0)); }
        default: { return x; }
    }
}

// phi(0) need not be 0: what lies beyond K is masked after the map.
fn feature_quad(x: vec4<f32>, quad: u32) -> vec4<f32> {
    let feature = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), phi(x), feature < vec4<u32>(KEY_DIM));
}

// Which part of the problem a workgroup has, or in thread/ a thread.
struct Place {
    inside: bool,      // false for the overhang of a folded grid
    n: u32,            // sequence
    segment: u32,
    g: u32,            // key/value head
    head_block: u32,
    value_block: u32,
    begin: u32,        // tokens begin .. end
    end: u32,
}

fn place_of(index: u32, head_blocks: u32, segments: u32) -> Place {
    var place: Place;
    var rest = index;
    place.value_block = rest % params.value_blocks;
    rest /= params.value_blocks;
    place.head_block = rest % head_blocks;
    rest /= head_blocks;
    place.g = rest % params.kv_heads;
    rest /= params.kv_heads;
    place.segment = rest % segments;
    place.n = rest / segments;
    place.inside = place.n < params.batch;
    place.begin = place.segment * params.segment_len;
    place.end = min(place.begin + params.segment_len, params.seq_len);
    return place;
}

// Row of token t in k and v, seen as [N T G, width].
fn kv_row(place: Place, t: u32) -> u32 {
    return (place.n * params.seq_len + t) * params.kv_heads + place.g;
}
