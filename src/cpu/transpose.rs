//! Transposed matrices, in tiles that lie in registers.

use pulp::{Simd, WithSimd};

/// From `[rows][columns]` to `[columns][width]`. The width is whole vectors, and there are rows for
/// whole ones, which may be transposed beyond the last.
#[inline(always)]
pub(super) fn transpose<S: Simd>(
    simd: S,
    from: &[f32],
    shape: [usize; 2],
    to: (&mut [f32], usize),
) {
    // A function by itself, since many call it.
    simd.vectorize(Transpose { from, shape, to });
}

struct Transpose<'a> {
    from: &'a [f32],
    shape: [usize; 2],
    to: (&'a mut [f32], usize),
}

impl WithSimd for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { from, shape: [rows, columns], to } = self;
        let shape = [rows, columns];
        match (S::F32_LANES, columns % S::F32_LANES) {
            (4, 0) => in_tiles::<S, 4>(simd, from, shape, to),
            (8, 0) => in_tiles::<S, 8>(simd, from, shape, to),
            (16, 0) => in_tiles::<S, 16>(simd, from, shape, to),
            // Apart, since whole vectors are loaded more quickly where the compiler knows that they
            // are.
            (16, _) => in_parts_of_tiles::<S, 16>(simd, from, shape, to),
            _ => {
                for (r, row) in from.chunks(columns).enumerate().take(rows) {
                    for (x, to) in row.iter().zip(to.0.chunks_mut(to.1)) {
                        to[r] = *x;
                    }
                }
            }
        }
    }
}

/// Of columns that are whole vectors.
#[inline(always)]
fn in_tiles<S: Simd, const L: usize>(
    simd: S,
    from: &[f32],
    [rows, columns]: [usize; 2],
    (to, width): (&mut [f32], usize),
) {
    let (from, to) = (S::as_simd_f32s(from).0, S::as_mut_simd_f32s(to).0);
    let (from_row, to_row) = (columns / L, width / L);
    let steps = Steps::new(simd);
    for r in 0..rows.div_ceil(L) {
        for c in 0..from_row {
            let mut tile = [simd.splat_f32s(0.0); L];
            for (i, x) in tile.iter_mut().enumerate() {
                *x = from[(r * L + i) * from_row + c];
            }
            steps.transpose(simd, &mut tile);
            for (i, x) in tile.into_iter().enumerate() {
                to[(c * L + i) * to_row + r] = x;
            }
        }
    }
}

/// Of any columns: the last of a row may fill a part of a vector.
#[inline(always)]
fn in_parts_of_tiles<S: Simd, const L: usize>(
    simd: S,
    from: &[f32],
    [rows, columns]: [usize; 2],
    (to, width): (&mut [f32], usize),
) {
    let steps = Steps::new(simd);
    for (r, rows) in from.chunks(L * columns).enumerate().take(rows.div_ceil(L)) {
        for (c, to) in to.chunks_mut(L * width).enumerate().take(columns.div_ceil(L)) {
            let mut tile = [simd.splat_f32s(0.0); L];
            for (x, row) in tile.iter_mut().zip(rows.chunks(columns)) {
                let row = &row[c * L..];
                *x = simd.partial_load_f32s(&row[..row.len().min(L)]);
            }
            steps.transpose(simd, &mut tile);
            for (x, to) in tile.into_iter().zip(to.chunks_mut(width)).take(columns - c * L) {
                S::as_mut_simd_f32s(to).0[r] = x;
            }
        }
    }
}

/// Lanes whose number does not have the bit 1, 2, 4 or 8.
struct Steps<S: Simd>([S::m32s; 4]);

impl<S: Simd> Steps<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let half = simd.splat_f32s(0.5);
        let mut masks = [simd.less_than_f32s(half, half); 4];
        for (bit, mask) in masks.iter_mut().enumerate() {
            let mut bits = [0.0f32; 16];
            for (lane, x) in bits.iter_mut().enumerate() {
                *x = if lane >> bit & 1 == 0 { 0.0 } else { 1.0 };
            }
            if let Some(bits) = S::as_simd_f32s(&bits).0.first() {
                *mask = simd.less_than_f32s(*bits, half);
            }
        }
        Self(masks)
    }

    /// Each step exchanges a bit of the numbers of rows with the same bit of those of lanes.
    #[inline(always)]
    fn transpose<const L: usize>(&self, simd: S, tile: &mut [S::f32s; L]) {
        if L == 16 {
            self.exchange::<L, 8>(simd, tile);
        }
        if L >= 8 {
            self.exchange::<L, 4>(simd, tile);
        }
        self.exchange::<L, 2>(simd, tile);
        self.exchange::<L, 1>(simd, tile);
    }

    #[inline(always)]
    fn exchange<const L: usize, const STEP: usize>(&self, simd: S, tile: &mut [S::f32s; L]) {
        let mask = self.0[STEP.ilog2() as usize];
        for i in 0..L {
            if i & STEP == 0 && i + STEP < L {
                let (a, b) = (tile[i], tile[i + STEP]);
                tile[i] = simd.select_f32s(mask, a, simd.rotate_right_f32s(b, STEP));
                tile[i + STEP] = simd.select_f32s(mask, simd.rotate_left_f32s(a, STEP), b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Simd, WithSimd};

    struct Transpose {
        columns: usize,
    }

    impl WithSimd for Transpose {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let from: Vec<f32> = (0..32 * self.columns).map(|i| i as f32).collect();
            let mut to = vec![-1.0; self.columns * 64];
            super::transpose(simd, &from, [32, self.columns], (&mut to, 64));
            to
        }
    }

    #[test]
    fn rows_become_columns() {
        let mut archs = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        // Some columns are whole vectors of all CPUs, others are not.
        for (arch, columns) in archs.into_iter().flat_map(|arch| [48, 24, 13].map(|n| (arch, n))) {
            let found = arch.dispatch(Transpose { columns });
            for (i, x) in found.into_iter().enumerate() {
                let (column, row) = (i / 64, i % 64);
                let expected = if row < 32 { (row * columns + column) as f32 } else { -1.0 };
                assert_eq!(x, expected, "{row}, {column}");
            }
        }
    }
}
