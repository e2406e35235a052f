//! W and b of y = W x + b, given or sampled.

use crate::error::WeightsError;
use crate::problem::config::{Config, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::random::Random;
use crate::problem::feature_map::real::Real;

/// W and b of y = W x + b, of each head or of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    heads: u32,
    projections: u32,
    key_dim: u32,
    /// `[heads,P,K]`.
    weight: Vec<f32>,
    /// `[heads,P]`.
    bias: Vec<f32>,
}

impl Projection {
    /// Of W `[heads,P,K]`, rows as `torch.nn.Linear` stores them, and b `[heads,P]`, zero if
    /// `None`. `heads` is 1 where all heads share them. P is what
    /// [`FeatureMap::projections`] says: for [`FeatureMap::Product`] the rows of W₁ and then those
    /// of W₂.
    ///
    /// # Errors
    ///
    /// Names the slice whose length or elements are refused.
    pub fn new(
        heads: u32,
        projections: u32,
        key_dim: u32,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Self, WeightsError> {
        for (what, size) in [("heads", heads), ("projections", projections), ("key_dim", key_dim)] {
            if size == 0 {
                return Err(WeightsError::Zero { what });
            }
        }
        let rows = u64::from(heads) * u64::from(projections);
        let required = rows.saturating_mul(key_dim.into());
        let lens = [("weight", Some(weight), required), ("bias", bias, rows)];
        for (what, slice, required) in lens {
            let Some(slice) = slice else { continue };
            if slice.len() as u64 != required {
                return Err(WeightsError::Len { what, required, actual: slice.len() as u64 });
            }
            if let Some(index) = slice.iter().position(|x| !x.is_finite()) {
                let (index, actual) = (index as u64, slice[index].to_string());
                return Err(WeightsError::NonFinite { what, index, actual });
            }
        }
        let bias = bias.map_or_else(|| vec![0.0; rows as usize], <[f32]>::to_vec);
        Ok(Self { heads, projections, key_dim, weight: weight.to_vec(), bias })
    }

    /// The initial weights of a map, shared by all heads. A map that
    /// [`is_random`](FeatureMap::is_random) gets vectors that are normally distributed and in blocks
    /// of K orthogonal to one another, with which it is as good as it will be; the same seed
    /// samples the same, and with those of another seed no state that the first left can go on. A
    /// map that is to be trained gets what training starts from: the Hedgehogs W = 1, others normal
    /// values of variance 1/K; and b = 0.
    ///
    /// # Errors
    ///
    /// A map or K that a [`Config`] would refuse; [`WeightsError::Unexpected`] for a map without
    /// weights.
    pub fn sample(map: &FeatureMap, key_dim: u32, seed: u64) -> Result<Self, WeightsError> {
        let config = Config::new(key_dim, 1)
            .with_feature_map(map.clone())
            .with_normalization(Normalization::None);
        config.validate()?;
        let projections = map.projections(key_dim);
        if projections == 0 {
            return Err(WeightsError::Unexpected { what: "keys" });
        }
        let (rows, width) = (projections as usize, key_dim as usize);
        let mut random = Random::new(seed);
        let weight: Vec<f32> = match map {
            _ if map.is_random() => random.orthogonal(rows, width),
            FeatureMap::Hedgehog | FeatureMap::HedgehogJoint => {
                (0..rows * width).map(|i| f32::from(u8::from(i / width == i % width))).collect()
            }
            _ => {
                let scale = f64::from(key_dim).sqrt().recip();
                (0..rows * width).map(|_| (scale * random.normal()) as f32).collect()
            }
        };
        Self::new(1, projections, key_dim, &weight, None)
    }

    /// Heads that have their own, or 1.
    #[must_use]
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// P and K.
    pub(crate) fn sizes(&self) -> [u32; 2] {
        [self.projections, self.key_dim]
    }

    /// Elements of W and of b, of all heads.
    pub(crate) fn lens(&self) -> [usize; 2] {
        [self.weight.len(), self.bias.len()]
    }

    /// The index of projection p of head `head` among all rows of W.
    pub(crate) fn index(&self, head: usize, p: usize) -> usize {
        head % self.heads as usize * self.projections as usize + p
    }

    /// That row of W.
    pub(crate) fn row(&self, head: usize, p: usize) -> &[f32] {
        let key_dim = self.key_dim as usize;
        &self.weight[self.index(head, p) * key_dim..][..key_dim]
    }

    /// The largest L2 norm of a row of W and the largest |b|, of head `head`.
    pub(crate) fn largest_norms(&self, head: usize) -> (f64, f64) {
        let head = head % self.heads as usize;
        let (projections, key_dim) = (self.projections as usize, self.key_dim as usize);
        let rows = head * projections..(head + 1) * projections;
        let square = |row: &[f32]| row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
        let weight = self.weight[rows.start * key_dim..rows.end * key_dim].chunks(key_dim);
        let weight = weight.map(square).fold(0.0, f64::max).sqrt();
        (weight, self.bias[rows].iter().fold(0.0, |most, b| f64::from(b.abs()).max(most)))
    }

    /// y of a row of head `head`, summed as the shaders do: from the bias on, in vec4s.
    pub(crate) fn project<R: Real>(&self, head: usize, x: &[R], y: &mut [R]) {
        let head = head % self.heads as usize;
        let (projections, key_dim) = (self.projections as usize, self.key_dim as usize);
        for (p, y) in y.iter_mut().enumerate() {
            let row = head * projections + p;
            *y = R::from(self.bias[row]);
            for (w, x) in self.weight[row * key_dim..][..key_dim].chunks(4).zip(x.chunks(4)) {
                let mut sum = R::from(0.0);
                for (w, x) in w.iter().zip(x) {
                    sum = sum + R::from(*w) * *x;
                }
                *y = *y + sum;
            }
        }
    }

    /// Four-vectors of a head as the shaders read it.
    pub(crate) fn head_vec4s(matrix_rows: u32, matrices: u32, key_dim: u32) -> u64 {
        let inputs = u64::from(key_dim).next_multiple_of(4) + 1;
        inputs * u64::from(matrices) * u64::from(matrix_rows.div_ceil(4))
    }

    /// W and b of the same sizes, from elements that lie as [`Projection::pack`] lays them.
    pub(crate) fn unpack(&self, map: &FeatureMap, from: &[f32]) -> [Vec<f32>; 2] {
        let (rows, matrices) = (map.matrix_rows(self.key_dim), map.matrices());
        let [rows, matrices] = [rows, matrices].map(|n| n as usize);
        let (inputs, width) = (self.key_dim.next_multiple_of(4) as usize, rows.next_multiple_of(4));
        let element = |row: usize, input: usize| {
            let (head, p) = (row / (matrices * rows), row % (matrices * rows));
            let vec = (head * (inputs + 1) + input) * matrices + p / rows;
            from.get(vec * width + p % rows).copied().unwrap_or(0.0)
        };
        let key_dim = self.key_dim as usize;
        let weight = (0..self.weight.len()).map(|i| element(i / key_dim, i % key_dim)).collect();
        [weight, (0..self.bias.len()).map(|row| element(row, inputs)).collect()]
    }

    /// As the shaders read it: for each head `[K' + 1, matrices, P'/4]` four-vectors, K' and P'
    /// (the rows of a matrix) being K and P rounded up to fours: W transposed, and in its last row
    /// b.
    pub(crate) fn pack(&self, map: &FeatureMap, to: &mut Vec<f32>) {
        let (rows, matrices) = (map.matrix_rows(self.key_dim), map.matrices());
        let (projections, key_dim) = (self.projections as usize, self.key_dim as usize);
        for head in 0..self.heads as usize {
            for input in 0..=key_dim.next_multiple_of(4) {
                for matrix in 0..matrices as usize {
                    for p in 0..rows.next_multiple_of(4) as usize {
                        let row = head * projections + matrix * rows as usize + p;
                        to.push(match input {
                            _ if p >= rows as usize => 0.0,
                            i if i < key_dim => self.weight[row * key_dim + i],
                            i if i == key_dim.next_multiple_of(4) => self.bias[row],
                            _ => 0.0,
                        });
                    }
                }
            }
        }
    }
}
