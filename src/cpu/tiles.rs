//! Products of small matrices in vectors: the work of the engine.
//!
//! Every product is `sums[r] += Σ_i factors[i][r] strip[i]`, a tile of [`ROWS`] rows of N vectors
//! that lies in registers. Factors are read element by element; a strip has rows of N vectors.

use std::marker::PhantomData;

use pulp::Simd;

use crate::problem::config::Config;

/// Rows of a tile.
pub(super) const ROWS: usize = 8;

/// Tokens of a block: the state is read once and written once for all of them.
pub(super) const TOKENS: usize = 32;

/// Elements from one row of features to the next: F, up to whole tiles.
pub(super) fn width(config: &Config) -> usize {
    (config.features() as usize).next_multiple_of(ROWS)
}

/// Sums of a tile.
pub(super) type Tile<S, const N: usize> = [[<S as Simd>::f32s; N]; ROWS];

/// True where a tile of two vectors a row fits the registers: AVX-512 and NEON have 32, all others
/// 16. It is a constant so that no code is generated for the wider tiles elsewhere.
pub(super) struct HasWide<S>(PhantomData<S>);

impl<S: Simd> HasWide<S> {
    pub(super) const TILES: bool = S::F32_LANES == 16 || cfg!(target_arch = "aarch64");
}

/// A slice in rows of N vectors.
#[inline(always)]
pub(super) fn rows_of<S: Simd, const N: usize>(slice: &[f32]) -> &[[S::f32s; N]] {
    S::as_simd_f32s(slice).0.as_chunks().0
}

/// The same, to write to.
#[inline(always)]
pub(super) fn rows_of_mut<S: Simd, const N: usize>(slice: &mut [f32]) -> &mut [[S::f32s; N]] {
    S::as_mut_simd_f32s(slice).0.as_chunks_mut().0
}

#[inline(always)]
pub(super) fn zeros<S: Simd, const N: usize>(simd: S) -> Tile<S, N> {
    [[simd.splat_f32s(0.0); N]; ROWS]
}

/// `sums[r] + Σ_i factors[i][r] strip[i]`, as long as both have rows: every n-th one of the
/// factors.
#[inline(always)]
pub(super) fn multiply<'a, S: Simd, const N: usize>(
    simd: S,
    (factors, nth): (&[[f32; ROWS]], usize),
    strip: impl IntoIterator<Item = &'a [S::f32s; N]>,
    mut sums: Tile<S, N>,
) -> Tile<S, N> {
    for (factors, x) in factors.iter().step_by(nth).zip(strip) {
        for (sums, factor) in sums.iter_mut().zip(factors) {
            add(simd, *factor, x, sums);
        }
    }
    sums
}

/// `sums[r] + Σ_i rows[r][i] strip[i]`: factors that lie in rows, all as long as the first, and
/// every n-th one of the strip.
#[inline(always)]
pub(super) fn multiply_rows<S: Simd, const N: usize, const R: usize>(
    simd: S,
    rows: [&[f32]; R],
    (strip, nth): (&[[S::f32s; N]], usize),
    mut sums: [[S::f32s; N]; R],
) -> [[S::f32s; N]; R] {
    let len = rows[0].len();
    // Eight at a time, so that lengths of rows are compared once for all of them.
    // Loops, since a closure that is not inlined has no vectors.
    let (mut chunks, mut chunk) = ([&[][..]; R], [&[0.0; ROWS]; R]);
    for (chunks, row) in chunks.iter_mut().zip(rows) {
        *chunks = row[..len].as_chunks::<ROWS>().0;
    }
    for at in 0..len / ROWS {
        for (chunk, chunks) in chunk.iter_mut().zip(chunks) {
            *chunk = &chunks[at];
        }
        for i in 0..ROWS {
            let x = &strip[(at * ROWS + i) * nth];
            for (sums, row) in sums.iter_mut().zip(chunk) {
                add(simd, row[i], x, sums);
            }
        }
    }
    for i in len - len % ROWS..len {
        for (sums, row) in sums.iter_mut().zip(rows) {
            add(simd, row[i], &strip[i * nth], sums);
        }
    }
    sums
}

/// `sums += factor x`.
#[inline(always)]
pub(super) fn add<S: Simd, const N: usize>(
    simd: S,
    factor: f32,
    x: &[S::f32s; N],
    sums: &mut [S::f32s; N],
) {
    let factor = simd.splat_f32s(factor);
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = simd.mul_add_e_f32s(factor, *x, *sum);
    }
}

/// `x factor`.
#[inline(always)]
pub(super) fn scale<S: Simd, const N: usize>(
    simd: S,
    factor: f32,
    mut x: [S::f32s; N],
) -> [S::f32s; N] {
    let factor = simd.splat_f32s(factor);
    for x in &mut x {
        *x = simd.mul_f32s(factor, *x);
    }
    x
}

/// `sums += x + kept sums`, where `lost`, if there is one, is what rounding took from the sums
/// before: Kahan's compensation. `kept` is less 1.
#[inline(always)]
pub(super) fn accumulate<S: Simd, const N: usize>(
    simd: S,
    kept: Option<f32>,
    x: &[S::f32s; N],
    sums: &mut [S::f32s; N],
    lost: Option<&mut [S::f32s; N]>,
) {
    let mut added = *x;
    if let Some(kept) = kept {
        add(simd, kept, sums, &mut added);
    }
    let Some(lost) = lost else {
        for (sum, added) in sums.iter_mut().zip(added) {
            *sum = simd.add_f32s(*sum, added);
        }
        return;
    };
    if let Some(kept) = kept {
        let before = *lost;
        add(simd, kept, &before, lost);
    }
    for ((sum, lost), added) in sums.iter_mut().zip(lost).zip(added) {
        let added = simd.sub_f32s(added, *lost);
        let next = simd.add_f32s(*sum, added);
        *lost = simd.sub_f32s(simd.sub_f32s(next, *sum), added);
        *sum = next;
    }
}
