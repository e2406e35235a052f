//! Transposed matrices, in tiles that lie in registers.

use pulp::Simd;

/// From `[rows][columns]` to `[columns][width]`, in vectors where columns are whole ones. The width
/// is, and there are rows for whole vectors, which may be transposed beyond the last.
#[inline(always)]
pub(super) fn transpose<S: Simd>(
    simd: S,
    from: &[f32],
    [rows, columns]: [usize; 2],
    (to, width): (&mut [f32], usize),
) {
    let lanes = if columns.is_multiple_of(S::F32_LANES) { S::F32_LANES } else { 1 };
    match lanes {
        4 => in_tiles::<S, 4>(simd, from, [rows, columns], (to, width)),
        8 => in_tiles::<S, 8>(simd, from, [rows, columns], (to, width)),
        16 => in_tiles::<S, 16>(simd, from, [rows, columns], (to, width)),
        _ => {
            for (r, row) in from.chunks(columns).enumerate().take(rows) {
                for (x, to) in row.iter().zip(to.chunks_mut(width)) {
                    to[r] = *x;
                }
            }
        }
    }
}

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
            // Each step exchanges a bit of the numbers of rows with the same bit of those of lanes.
            if L == 16 {
                steps.exchange::<L, 8>(simd, &mut tile);
            }
            if L >= 8 {
                steps.exchange::<L, 4>(simd, &mut tile);
            }
            steps.exchange::<L, 2>(simd, &mut tile);
            steps.exchange::<L, 1>(simd, &mut tile);
            for (i, x) in tile.into_iter().enumerate() {
                to[(c * L + i) * to_row + r] = x;
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
        for (arch, columns) in archs.into_iter().flat_map(|arch| [(arch, 48), (arch, 24)]) {
            let found = arch.dispatch(Transpose { columns });
            for (i, x) in found.into_iter().enumerate() {
                let (column, row) = (i / 64, i % 64);
                let expected = if row < 32 { (row * columns + column) as f32 } else { -1.0 };
                assert_eq!(x, expected, "{row}, {column}");
            }
        }
    }
}
