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
