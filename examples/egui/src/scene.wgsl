// The tokens of the sequence, written before attention, and the panels, painted after it.

struct Params {
    first: u32,      // position of the first token in the endless signal
    tokens: u32,     // T
    width: u32,      // V
    selected: u32,   // the token whose weights are marked
    sharpness: f32,  // q and k are multiplied by it
    noise: f32,
    log_decay: f32,  // of every token
    forgets: f32,    // 1: the first token of a rhythm decays all before it
}

const TAU = 6.2831853;
const KEY_DIM = 16u;
const PERIOD = 16.0;
const SECTION = 96u; // tokens until the rhythm changes

@group(0) @binding(0) var<uniform> params: Params;

// Tokens.

@group(0) @binding(1) var<storage, read_write> rows: array<f32>; // q and k: [T,K]
@group(0) @binding(2) var<storage, read_write> values: array<f32>; // v: [T,V]
@group(0) @binding(3) var<storage, read_write> decays: array<f32>; // [T]

fn phase(position: u32) -> f32 {
    return fract(f32(position % 1024u) / PERIOD);
}

fn is_second_rhythm(position: u32) -> bool {
    return (position / SECTION) % 2u == 1u;
}

fn bump(x: f32, at: f32, width: f32) -> f32 {
    return exp(-(x - at) * (x - at) / (width * width));
}

// One rhythm is a heartbeat, the other a ramp.
fn signal(position: u32) -> f32 {
    let x = phase(position);
    if (is_second_rhythm(position)) {
        return 0.9 - 1.8 * x;
    }
    return 0.4 * bump(x, 0.2, 0.09) + 1.6 * bump(x, 0.45, 0.08) - 0.7 * bump(x, 0.62, 0.08)
        + 0.5 * bump(x, 0.82, 0.1) - 0.35;
}

fn hash(x: u32) -> u32 {
    var h = x * 0x9E3779B9u;
    h = (h ^ (h >> 16u)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13u)) * 0xC2B2AE35u;
    return h ^ (h >> 16u);
}

// Four uniform variables, near enough to a normal one: mean 0, deviation 1.
fn normal(position: u32) -> f32 {
    var sum = -2.0;
    for (var i = 0u; i < 4u; i++) {
        sum += f32(hash(4u * position + i) >> 8u) / 16777216.0;
    }
    return sum * 1.7320508;
}

@compute @workgroup_size(64)
fn write_tokens(@builtin(global_invocation_id) id: vec3<u32>) {
    let token = id.x;
    if (token >= params.tokens) { return; }
    let position = params.first + token;
    // A row is the phase of the token as 16 cosines: two rows are alike where the phases are.
    for (var i = 0u; i < KEY_DIM; i++) {
        let angle = TAU * (phase(position) - f32(i) / f32(KEY_DIM));
        rows[token * KEY_DIM + i] = params.sharpness * cos(angle);
    }
    // The first T elements of a value are a row of the identity, so that those of an output are
    // the weights of the tokens. The signal follows.
    for (var i = 0u; i < params.width; i++) {
        values[token * params.width + i] = select(0.0, 1.0, i == token);
    }
    let sample = signal(position) + params.noise * normal(position);
    values[token * params.width + params.tokens] = sample;
    let begins = params.forgets > 0.0 && position % SECTION == 0u;
    decays[token] = select(params.log_decay, -20.0, begins);
}

// Panels. Token x of T lies between x / T and (x + 1) / T of the width of each.

@group(0) @binding(4) var<storage, read> v: array<f32>; // [T,V]
@group(0) @binding(5) var<storage, read> o: array<f32>; // [T,V]

struct Pixel {
    @builtin(position) position: vec4<f32>,
    @location(0) at: vec2<f32>, // from 0 at the top left to 1
}

const BACKGROUND = vec3<f32>(0.055, 0.06, 0.085);
const ORANGE = vec3<f32>(1.0, 0.62, 0.2);
const CYAN = vec3<f32>(0.3, 0.85, 0.95);

@vertex
fn panel(@builtin(vertex_index) index: u32) -> Pixel {
    let at = vec2(f32((index << 1u) & 2u), f32(index & 2u));
    return Pixel(vec4(2.0 * at.x - 1.0, 1.0 - 2.0 * at.y, 0.0, 1.0), at);
}

fn weight(query: u32, key: u32) -> f32 {
    return o[query * params.width + key];
}

// A weight as a brightness: the root shows the small ones, too.
fn brightness(weight: f32) -> f32 {
    return saturate(2.4 * sqrt(max(weight, 0.0)));
}

// From the background through violet and orange to a pale yellow.
fn heat(x: f32) -> vec3<f32> {
    let low = mix(BACKGROUND, vec3(0.42, 0.16, 0.55), saturate(3.0 * x));
    let middle = mix(low, vec3(0.96, 0.45, 0.22), saturate(3.0 * x - 1.0));
    return mix(middle, vec3(1.0, 0.97, 0.75), saturate(3.0 * x - 2.0));
}

// The vertical range of the plots.
fn level(at: f32) -> f32 {
    return 1.7 - 3.4 * at;
}

fn y_of(level: f32) -> f32 {
    return (1.7 - level) / 3.4;
}

fn observed(token: u32) -> f32 {
    return v[token * params.width + params.tokens];
}

fn average(token: u32) -> f32 {
    return o[token * params.width + params.tokens];
}

fn segment_distance(at: vec2<f32>, a: vec2<f32>, b: vec2<f32>) -> f32 {
    let along = b - a;
    let nearest = saturate(dot(at - a, along) / max(dot(along, along), 1e-6));
    return distance(at, a + nearest * along);
}

fn stroke(distance: f32, half_width: f32) -> f32 {
    return saturate(half_width + 0.5 - distance);
}

fn x_of(token: u32) -> f32 {
    return (f32(token) + 0.5) / f32(params.tokens);
}

// The ground of a plot: rhythms that differ a little, and the token that is marked.
fn ground(at: vec2<f32>, size: vec2<f32>) -> vec3<f32> {
    let token = u32(at.x * f32(params.tokens));
    var color = BACKGROUND;
    if (is_second_rhythm(params.first + token)) {
        color += vec3(0.03, 0.03, 0.04);
    }
    let line = stroke(abs(at.x - x_of(params.selected)) * size.x, 0.5);
    return mix(color, CYAN, 0.6 * line);
}

@fragment
fn paint_values(pixel: Pixel) -> @location(0) vec4<f32> {
    let size = 1.0 / vec2(dpdx(pixel.at.x), dpdy(pixel.at.y));
    var color = ground(pixel.at, abs(size));
    let token = i32(pixel.at.x * f32(params.tokens));
    for (var i = max(token - 3, 0); i <= min(token + 3, i32(params.tokens) - 1); i++) {
        let key = u32(i);
        let x = brightness(weight(params.selected, key));
        let center = vec2(x_of(key), y_of(observed(key)));
        let covered = stroke(distance(pixel.at * size, center * size), 1.8 + 3.6 * x);
        let dot = mix(vec3(0.36, 0.38, 0.47), heat(0.2 + 0.8 * x), saturate(4.0 * x));
        color = mix(color, dot, covered);
    }
    return vec4(color, 1.0);
}

@fragment
fn paint_weights(pixel: Pixel) -> @location(0) vec4<f32> {
    let at = vec2<u32>(pixel.at * f32(params.tokens));
    let size = 1.0 / vec2(dpdx(pixel.at.x), dpdy(pixel.at.y));
    if (at.x > at.y) {
        // Half of the square is the future, of which no token sees anything.
        let stripe = (u32(pixel.position.x + pixel.position.y) / 5u) % 2u;
        return vec4(BACKGROUND * (0.55 + 0.2 * f32(stripe)), 1.0);
    }
    var color = heat(brightness(weight(at.y, at.x)));
    let edge = abs(pixel.at.y - x_of(params.selected)) - 0.5 / f32(params.tokens);
    color = mix(color, CYAN, stroke(abs(edge * size.y), 0.4));
    return vec4(color, 1.0);
}

@fragment
fn paint_outputs(pixel: Pixel) -> @location(0) vec4<f32> {
    let size = abs(1.0 / vec2(dpdx(pixel.at.x), dpdy(pixel.at.y)));
    var color = ground(pixel.at, size);
    let at = pixel.at * size;
    let token = i32(pixel.at.x * f32(params.tokens));
    var distances = vec3(1e6);
    for (var i = max(token - 3, 0); i <= min(token + 3, i32(params.tokens) - 1); i++) {
        let here = u32(i);
        let next = min(here + 1u, params.tokens - 1u);
        let x = vec2(x_of(here), x_of(next));
        let truth = vec2(y_of(signal(params.first + here)), y_of(signal(params.first + next)));
        let found = vec2(y_of(average(here)), y_of(average(next)));
        let dot = distance(at, vec2(x.x, y_of(observed(here))) * size);
        let line = segment_distance(at, vec2(x.x, truth.x) * size, vec2(x.y, truth.y) * size);
        let thick = segment_distance(at, vec2(x.x, found.x) * size, vec2(x.y, found.y) * size);
        distances = min(distances, vec3(dot, line, thick));
    }
    color = mix(color, vec3(0.34, 0.36, 0.44), stroke(distances.x, 1.6));
    color = mix(color, vec3(0.62, 0.66, 0.75), 0.8 * stroke(distances.y, 0.4));
    color = mix(color, ORANGE, stroke(distances.z, 1.1));
    let mark = distance(at, vec2(x_of(params.selected), y_of(average(params.selected))) * size);
    color = mix(color, CYAN, stroke(mark, 4.5));
    return vec4(color, 1.0);
}
