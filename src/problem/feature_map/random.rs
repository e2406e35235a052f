//! Seeded random numbers: the same seed gives the same numbers everywhere.

/// splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Between 0 and 1, both included, in steps of an f32.
    pub(crate) fn uniform(&mut self) -> f32 {
        self.next() as u32 as f32 / u32::MAX as f32
    }

    /// Normally distributed, mean 0 and variance 1. Box and Muller, "A note on the generation of
    /// random normal deviates", 1958.
    pub(crate) fn normal(&mut self) -> f64 {
        // Never 0, of which there is no logarithm.
        let [radius, angle] =
            [0; 2].map(|_| ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64);
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// `rows` vectors of `width` elements, each distributed as a normal vector is, and in blocks of
    /// `width` orthogonal to one another: Choromanski et al., "Rethinking Attention with
    /// Performers", 2021, section 2.4. Row-major.
    pub(crate) fn orthogonal(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut all = Vec::with_capacity(rows * width);
        while all.len() < rows * width {
            let directions = self.directions(width);
            for direction in directions.iter().take(rows - all.len() / width) {
                let length = (0..width).map(|_| self.normal().powi(2)).sum::<f64>().sqrt();
                all.extend(direction.iter().map(|x| (x * length) as f32));
            }
        }
        all
    }

    /// `width` orthonormal vectors, uniformly distributed: normal vectors made orthogonal by
    /// Gram and Schmidt, twice, since once is not enough where two are nearly parallel.
    fn directions(&mut self, width: usize) -> Vec<Vec<f64>> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut found: Vec<Vec<f64>> = Vec::with_capacity(width);
        while found.len() < width {
            let mut next: Vec<f64> = (0..width).map(|_| self.normal()).collect();
            for _ in 0..2 {
                for other in &found {
                    let along = dot(&next, other);
                    next.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
                }
            }
            let length = dot(&next, &next).sqrt();
            // A vector in the span of the others is sampled again.
            if length > 1e-6 {
                next.iter_mut().for_each(|x| *x /= length);
                found.push(next);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn blocks_are_orthogonal_and_as_long_as_normal_vectors() {
        let (rows, width) = (640, 32);
        let w = Random::new(7).orthogonal(rows, width);
        let row = |i: usize| &w[i * width..][..width];
        let dot = |i, j| row(i).iter().zip(row(j)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for block in 0..rows / width {
            for i in block * width..(block + 1) * width {
                for j in block * width..i {
                    assert!(dot(i, j).abs() < 1e-4 * width as f64, "{i} and {j}");
                }
            }
        }
        // |w|² has mean 32 and variance 64; the mean of 640 of them, 0.32 of standard deviation.
        let mean = (0..rows).map(|i| dot(i, i)).sum::<f64>() / rows as f64;
        assert!((mean - 32.0).abs() < 1.6, "{mean}");
        assert_ne!(w, Random::new(8).orthogonal(rows, width));
        assert_eq!(w, Random::new(7).orthogonal(rows, width));
    }
}
