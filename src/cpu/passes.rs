//! The two passes of a block over the state, in vectors.
//!
//! A state is in strips of [`strip_width`] columns: `[strips][F][width]`, so that a strip lies in the
//! first cache and its columns in registers.

use pulp::Simd;

/// Tokens of a block.
pub(super) const TOKENS: usize = 8;

/// Columns of a strip: two vectors where there are 32 registers of them, else one.
pub(super) fn strip_width<S: Simd>() -> usize {
    S::F32_LANES * vectors::<S>()
}

/// Vectors of a row of a strip.
fn vectors<S: Simd>() -> usize {
    if S::F32_LANES >= 16 { 2 } else { 1 }
}

/// `out[t] = coefficients[.][t] strip`, for the tokens of a block.
#[inline(always)]
pub(super) fn read<S: Simd>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    strip: &[f32],
    out: &mut [f32],
) {
    match vectors::<S>() {
        1 => read_vectors::<S, 1>(simd, coefficients, strip, out),
        _ => read_vectors::<S, 2>(simd, coefficients, strip, out),
    }
}

#[inline(always)]
fn read_vectors<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    strip: &[f32],
    out: &mut [f32],
) {
    let sums = sums::<S, N>(simd, coefficients, strip);
    let (out, _) = S::as_mut_simd_f32s(out);
    let (out, _) = out.as_chunks_mut::<N>();
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = sums;
    }
}

#[inline(always)]
fn sums<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    strip: &[f32],
) -> [[S::f32s; N]; TOKENS] {
    let (rows, _) = S::as_simd_f32s(strip);
    let (rows, _) = rows.as_chunks::<N>();
    let mut sums = [[simd.splat_f32s(0.0); N]; TOKENS];
    for (row, coefficients) in rows.iter().zip(coefficients) {
        for (sums, coefficient) in sums.iter_mut().zip(coefficients) {
            let coefficient = simd.splat_f32s(*coefficient);
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum = simd.mul_add_e_f32s(coefficient, *x, *sum);
            }
        }
    }
    sums
}

/// Outputs: `out[t] = (coefficients[.][t] strip + Σ_{j<=t} products[t][j] values[j]) factors[t]`.
#[inline(always)]
pub(super) fn outputs<S: Simd>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    strip: &[f32],
    tokens: (&[[f32; TOKENS]; TOKENS], &[f32], &[f32; TOKENS]),
    out: &mut [f32],
) {
    match vectors::<S>() {
        1 => output_vectors::<S, 1>(simd, coefficients, strip, tokens, out),
        _ => output_vectors::<S, 2>(simd, coefficients, strip, tokens, out),
    }
}

#[inline(always)]
fn output_vectors<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    strip: &[f32],
    (products, values, factors): (&[[f32; TOKENS]; TOKENS], &[f32], &[f32; TOKENS]),
    out: &mut [f32],
) {
    let sums = sums::<S, N>(simd, coefficients, strip);
    let (values, _) = S::as_simd_f32s(values);
    let (values, _) = values.as_chunks::<N>();
    let (out, _) = S::as_mut_simd_f32s(out);
    let (out, _) = out.as_chunks_mut::<N>();
    let rows = out.iter_mut().zip(sums).zip(products).zip(factors);
    for (t, (((out, mut sums), products), factor)) in rows.enumerate() {
        for (product, value) in products.iter().zip(values).take(t + 1) {
            let product = simd.splat_f32s(*product);
            for (sum, x) in sums.iter_mut().zip(value) {
                *sum = simd.mul_add_e_f32s(product, *x, *sum);
            }
        }
        let factor = simd.splat_f32s(*factor);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = simd.mul_f32s(factor, sum);
        }
    }
}

/// `strip += kept strip + coefficients values`, row by row; `kept` is less 1.
#[inline(always)]
pub(super) fn update<S: Simd>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    values: &[f32],
    kept: &[f32],
    strip: &mut [f32],
) {
    match vectors::<S>() {
        1 => update_vectors::<S, 1>(simd, coefficients, values, kept, strip),
        _ => update_vectors::<S, 2>(simd, coefficients, values, kept, strip),
    }
}

#[inline(always)]
fn update_vectors<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    values: &[f32],
    kept: &[f32],
    strip: &mut [f32],
) {
    let values = load_values::<S, N>(simd, values);
    let (rows, _) = S::as_mut_simd_f32s(strip);
    let (rows, _) = rows.as_chunks_mut::<N>();
    // Without decays nothing is multiplied.
    if kept.is_empty() {
        for (row, coefficients) in rows.iter_mut().zip(coefficients) {
            add_tokens(simd, coefficients, &values, row);
        }
        return;
    }
    for ((row, coefficients), kept) in rows.iter_mut().zip(coefficients).zip(kept) {
        let kept = simd.splat_f32s(*kept);
        for x in row.iter_mut() {
            *x = simd.mul_add_e_f32s(kept, *x, *x);
        }
        add_tokens(simd, coefficients, &values, row);
    }
}

/// The same with Kahan's compensation: the next addition gives back the part of a sum that rounding took, so that the error does not grow with the number of blocks.
#[inline(always)]
pub(super) fn update_compensated<S: Simd>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    values: &[f32],
    kept: &[f32],
    strip: &mut [f32],
    lost: &mut [f32],
) {
    match vectors::<S>() {
        1 => update_both::<S, 1>(simd, coefficients, values, kept, strip, lost),
        _ => update_both::<S, 2>(simd, coefficients, values, kept, strip, lost),
    }
}

#[inline(always)]
fn update_both<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[[f32; TOKENS]],
    values: &[f32],
    kept: &[f32],
    strip: &mut [f32],
    lost: &mut [f32],
) {
    let values = load_values::<S, N>(simd, values);
    let (rows, _) = S::as_mut_simd_f32s(strip);
    let (rows, _) = rows.as_chunks_mut::<N>();
    let (lost, _) = S::as_mut_simd_f32s(lost);
    let (lost, _) = lost.as_chunks_mut::<N>();
    let rows = rows.iter_mut().zip(lost).zip(coefficients);
    for (f, ((row, lost), coefficients)) in rows.enumerate() {
        let kept = simd.splat_f32s(kept.get(f).copied().unwrap_or(0.0));
        let mut added = [simd.splat_f32s(0.0); N];
        add_tokens(simd, coefficients, &values, &mut added);
        for ((x, lost), added) in row.iter_mut().zip(lost.iter_mut()).zip(added) {
            let before = simd.mul_add_e_f32s(kept, *lost, *lost);
            let added = simd.sub_f32s(simd.mul_add_e_f32s(kept, *x, added), before);
            let next = simd.add_f32s(*x, added);
            *lost = simd.sub_f32s(simd.sub_f32s(next, *x), added);
            *x = next;
        }
    }
}

#[inline(always)]
fn load_values<S: Simd, const N: usize>(simd: S, values: &[f32]) -> [[S::f32s; N]; TOKENS] {
    let (loaded, _) = S::as_simd_f32s(values);
    let (loaded, _) = loaded.as_chunks::<N>();
    let mut values = [[simd.splat_f32s(0.0); N]; TOKENS];
    for (value, loaded) in values.iter_mut().zip(loaded) {
        *value = *loaded;
    }
    values
}

#[inline(always)]
fn add_tokens<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[f32; TOKENS],
    values: &[[S::f32s; N]; TOKENS],
    row: &mut [S::f32s; N],
) {
    let mut sums = *row;
    for (coefficient, value) in coefficients.iter().zip(values) {
        let coefficient = simd.splat_f32s(*coefficient);
        for (sum, x) in sums.iter_mut().zip(value) {
            *sum = simd.mul_add_e_f32s(coefficient, *x, *sum);
        }
    }
    *row = sums;
}
