// The formulas of the maps of whole rows, for mapped.wgsl: what all features of a row share, and the
// features. x is the row, y its projections; the table with the sources is in src/problem/feature_map/mod.rs.

override ROOT_SCALE: f32;           // K^(-1/4)
override FEATURE_SCALE: f32;        // F^(-1/2)

// EXP of a query: what it is mapped less. SOFTMAX: the largest number, and 1 over the sum of what is
// exponentiated less that. HEDGEHOG: the same of y and of -y; HEDGEHOG_JOINT: of [2 y, -2 y].
// FAVOR: half of the square of the length of x / K^(1/4).
fn stats_of(map: u32, row: Row) -> vec4<f32> {
    switch map {
        case EXP: {
            if (!row.is_query) { return vec4<f32>(0.0); }
            return vec4<f32>(shift_of(largest_x(row)));
        }
        case SOFTMAX: {
            let most = largest_x(row);
            var sum = 0.0;
            for (var quad = 0u; quad < ROW_QUADS; quad++) {
                sum += total(inside(exp(x_quad(row, quad) - most), quad, 0.0));
            }
            return vec4<f32>(most, 1.0 / sum, 0.0, 0.0);
        }
        case HEDGEHOG, HEDGEHOG_JOINT: {
            var most = vec4<f32>(-3.4e38);
            var least = vec4<f32>(3.4e38);
            for (var quad = 0u; quad < ROW_QUADS; quad++) {
                most = max(most, inside(y_quad(row, quad), quad, -3.4e38));
                least = min(least, inside(y_quad(row, quad), quad, 3.4e38));
            }
            var high = largest(most);
            var low = -largest(-least);
            var scale = 1.0;
            if (map == HEDGEHOG_JOINT) {
                high = max(high, -low);
                low = -high;
                scale = 2.0;
            }
            var sums = vec2<f32>(0.0);
            for (var quad = 0u; quad < ROW_QUADS; quad++) {
                let y = y_quad(row, quad);
                sums.x += total(inside(exp(scale * (y - high)), quad, 0.0));
                sums.y += total(inside(exp(scale * (low - y)), quad, 0.0));
            }
            if (map == HEDGEHOG_JOINT) { sums = vec2<f32>(sums.x + sums.y); }
            return vec4<f32>(high, 1.0 / sums.x, low, 1.0 / sums.y);
        }
        case FAVOR, FAVOR_HYPERBOLIC: {
            var sum = 0.0;
            for (var quad = 0u; quad < ROW_QUADS; quad++) {
                sum += dot(x_quad(row, quad), x_quad(row, quad));
            }
            return vec4<f32>(0.5 * sum * ROOT_SCALE * ROOT_SCALE);
        }
        default: { return vec4<f32>(0.0); }
    }
}

fn largest_x(row: Row) -> f32 {
    var most = vec4<f32>(-3.4e38);
    for (var quad = 0u; quad < ROW_QUADS; quad++) {
        most = max(most, inside(x_quad(row, quad), quad, -3.4e38));
    }
    return largest(most);
}

fn largest(x: vec4<f32>) -> f32 { return max(max(x.x, x.y), max(x.z, x.w)); }
fn total(x: vec4<f32>) -> f32 { return x.x + x.y + x.z + x.w; }

// Features 4 quad .. + 3 of a row.
fn phi_quad(map: u32, row: Row, quad: u32) -> vec4<f32> {
    switch map {
        case SOFTMAX: {
            return exp(x_quad(row, quad) - stats[row.at].x) * stats[row.at].y;
        }
        case T2R: { return max(project(row, quad), vec4<f32>(0.0)); }
        case PRODUCT: { return project(row, quad) * project(row, quad + (FEATURE_DIM + 3u) / 4u); }
        case FAVOR: {
            return FEATURE_SCALE * exp(project(row, quad) * ROOT_SCALE - stats[row.at].x);
        }
        case FAVOR_HYPERBOLIC: {
            let sign = select(-1.0, 1.0, 8u * quad < FEATURE_DIM);
            let y = sign * project(row, quad % max(FEATURE_DIM / 8u, 1u));
            return FEATURE_SCALE * exp(y * ROOT_SCALE - stats[row.at].x);
        }
        case FOURIER: {
            let y = project(row, quad % max(FEATURE_DIM / 8u, 1u)) * ROOT_SCALE;
            return 1.41421356 * FEATURE_SCALE * sin_quarters(y, select(0, 1, 8u * quad < FEATURE_DIM));
        }
        case HEDGEHOG, HEDGEHOG_JOINT, TAYLOR, DPFP, CUSTOM: {
            let f = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(FEATURE_DIM - 1u));
            return vec4<f32>(feature_of(map, row, f.x), feature_of(map, row, f.y),
                feature_of(map, row, f.z), feature_of(map, row, f.w));
        }
        default: { return element_wise(map, x_quad(row, quad) - stats[row.at].x); }
    }
}

// Feature f of a row, of maps whose features do not come in fours.
fn feature_of(map: u32, row: Row, f: u32) -> f32 {
    switch map {
        case HEDGEHOG, HEDGEHOG_JOINT: {
            let scale = select(1.0, 2.0, map == HEDGEHOG_JOINT);
            let of_row = stats[row.at];
            if (f < KEY_DIM) { return exp(scale * (y(row, f) - of_row.x)) * of_row.y; }
            return exp(scale * (of_row.z - y(row, f - KEY_DIM))) * of_row.w;
        }
        case TAYLOR: { return taylor(row, f); }
        case DPFP: {
            let i = f % (2u * KEY_DIM);
            let j = f / (2u * KEY_DIM) + 1u;
            return rectified(row, i) * rectified(row, (i + 2u * KEY_DIM - j) % (2u * KEY_DIM));
        }
        default: { return phi(row, f); }
    }
}

// [max(x, 0), max(-x, 0)]
fn rectified(row: Row, i: u32) -> f32 {
    if (i < KEY_DIM) { return max(x(row, i), 0.0); }
    return max(-x(row, i - KEY_DIM), 0.0);
}

// [1, x, x_i^2 / 2^(1/2), x_i x_j for i < j] of x / K^(1/4)
fn taylor(row: Row, f: u32) -> f32 {
    if (f == 0u) { return 1.0; }
    if (f <= KEY_DIM) { return x(row, f - 1u) * ROOT_SCALE; }
    let one = ROOT_SCALE * ROOT_SCALE;
    if (f <= 2u * KEY_DIM) {
        let square = x(row, f - 1u - KEY_DIM) * x(row, f - 1u - KEY_DIM);
        return square * one * 0.70710678;
    }
    // Row i of the upper triangle begins at i (2 K - 1 - i) / 2. The root is near enough for i to
    // be off by one at most.
    let pair = f - 1u - 2u * KEY_DIM;
    let width = 2u * KEY_DIM - 1u;
    let root = sqrt(f32(width * width - 8u * pair));
    var i = min(u32(0.5 * max(f32(width) - root, 0.0)), KEY_DIM - 2u);
    if (i * (width - i) / 2u > pair) { i -= 1u; }
    if ((i + 1u) * (width - i - 1u) / 2u <= pair) { i += 1u; }
    let j = i + 1u + pair - i * (width - i) / 2u;
    return x(row, i) * x(row, j) * one;
}

// sin(x + quarters pi/2), to the last places: WGSL lets a device's own be off by 2^-11.
fn sin_quarters(x: vec4<f32>, quarters: i32) -> vec4<f32> {
    let nearest = round(x * 0.63661977);
    // pi/2 in three parts, so that x less its multiples is exact.
    var r = fma(nearest, vec4<f32>(-1.5703125), x);
    r = fma(nearest, vec4<f32>(-4.8351287841796875e-4), r);
    r = fma(nearest, vec4<f32>(-3.13855707e-7), r);
    let r2 = r * r;
    let sine = r + r * r2 * (-1.6666654611e-1 + r2 * (8.3321608736e-3 - r2 * 1.9515295891e-4));
    let cosine = 1.0 - 0.5 * r2
        + r2 * r2 * (4.166664568298827e-2 + r2 * (-1.388731625493765e-3 + r2 * 2.443315711809948e-5));
    let quarter = (vec4<i32>(nearest) + quarters) & vec4<i32>(3);
    let value = select(sine, cosine, (quarter & vec4<i32>(1)) == vec4<i32>(1));
    return select(value, -value, quarter > vec4<i32>(1));
}
