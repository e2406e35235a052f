//! Features of rows: the common maps with vectors, all others as the reference has them.

use crate::cpu::exp::exp_of_negative;
use crate::cpu::slices::Slice;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::phi::{Phi, RowMemory};
use crate::problem::feature_map::real::Real;

/// φ of keys or of queries.
pub(super) struct Features<'a> {
    phi: Phi<'a>,
    features: usize,
    fast: Option<Fast>,
    /// True for rows that are scaled by a power of two, or less their largest.
    is_scaled: bool,
}

/// The memory of a row of q or k.
#[derive(Debug)]
pub(super) struct RowBuffer {
    /// Its elements, where they are converted: K.
    pub(super) row: Vec<f32>,
    memory: RowMemory<f32>,
}

impl RowBuffer {
    pub(super) fn new(config: &Config) -> Self {
        let (row, mut memory) = (vec![0.0; config.key_dim as usize], RowMemory::default());
        memory.reserve(config);
        Self { row, memory }
    }
}

/// Rows of a tensor, one for each token.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) slice: Slice<'a>,
    pub(super) dtype: Dtype,
    /// Elements before the first, and from one to the next.
    pub(super) first: usize,
    pub(super) stride: usize,
}

impl Source<'_> {
    #[inline(always)]
    fn at(&self, t: usize) -> usize {
        self.first + t * self.stride
    }
}

/// The maps that are a few instructions an element.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::cpu) enum Fast {
    Identity,
    Relu,
    Elu,
}

impl Fast {
    pub(super) fn new(config: &Config, map: &FeatureMap) -> Option<Self> {
        match map {
            _ if config.l2_norm => None,
            FeatureMap::Identity => Some(Self::Identity),
            FeatureMap::Relu => Some(Self::Relu),
            FeatureMap::Elu => Some(Self::Elu),
            _ => None,
        }
    }

    /// The features of a row without a scale, whose gain is 1.
    #[inline(always)]
    pub(super) fn map(self, x: &[f32], features: &mut [f32]) -> f32 {
        match self {
            Self::Identity => map(x, features, |x| x),
            Self::Relu => map(x, features, positive),
            Self::Elu => map(x, features, elu),
        }
        1.0
    }
}

impl<'a> Features<'a> {
    pub(super) fn new(config: &Config, map: &FeatureMap, phi: Phi<'a>, is_scaled: bool) -> Self {
        let fast = Fast::new(config, map);
        Self { phi, features: config.features() as usize, fast, is_scaled }
    }

    /// The features of the rows of `from`, `width` apart, and the gains that their scales put on
    /// them. The common maps leave the scale out: see [`Features::lacks_scale`].
    #[inline(always)]
    pub(super) fn rows(
        &self,
        from: Source<'_>,
        head: usize,
        buffer: &mut RowBuffer,
        (rows, width): (&mut [f32], usize),
        gains: &mut [f32],
    ) {
        let rows = rows.chunks_mut(width);
        match (self.fast, from.slice.f32s(from.dtype)) {
            (Some(fast), Some(x)) => {
                gains.fill(1.0);
                let x = (0..gains.len()).map(|t| &x[from.at(t)..][..buffer.row.len()]);
                // The match is outside of the loops, whose constants stay in registers.
                match fast {
                    Fast::Identity => map_rows(x, rows, |x| x),
                    Fast::Relu => map_rows(x, rows, positive),
                    Fast::Elu => map_rows(x, rows, elu),
                }
            }
            (fast, _) => {
                for (t, (row, gain)) in rows.zip(gains).enumerate() {
                    let x = from.slice.row(from.at(t), from.dtype, &mut buffer.row);
                    let row = &mut row[..self.features];
                    *gain = match fast {
                        Some(fast) => fast.map(x, row),
                        None => self.phi.row_in(&mut buffer.memory, x, head, row),
                    };
                }
            }
        }
    }

    /// True if [`Features::rows`] has left out scales that may be needed.
    pub(super) fn leaves_out_scales(&self) -> bool {
        self.is_scaled && self.fast.is_some()
    }

    /// True for a row of that largest feature if it should have been scaled: see [`Features::row`].
    pub(super) fn lacks_scale(largest: f32) -> bool {
        !(0.0625..=16.0).contains(&largest)
    }

    /// The features of the first row of `from`, and the gain that its scale puts on them: as
    /// `Phi::row`.
    #[inline(always)]
    pub(super) fn row(
        &self,
        from: Source<'_>,
        head: usize,
        RowBuffer { row, memory }: &mut RowBuffer,
        features: &mut [f32],
    ) -> f32 {
        let x = from.slice.row(from.first, from.dtype, row);
        let Some(fast) = self.fast else { return self.phi.row_in(memory, x, head, features) };
        if !self.is_scaled {
            return fast.map(x, features);
        }
        let largest = x.iter().fold(f32::MIN, |most, x| match fast {
            Fast::Identity => most.max(x.abs()),
            _ => most.max(*x),
        });
        let (shift, scale) = match fast {
            Fast::Elu => (largest.min(0.0), (largest.max(0.0) + 1.0).inverse_power_of_two()),
            _ => (0.0, largest.inverse_power_of_two()),
        };
        match fast {
            Fast::Identity => map(x, features, |x| x * scale),
            Fast::Relu => map(x, features, |x| positive(x) * scale),
            Fast::Elu => {
                map(x, features, |x| (positive(x) + exp_of_negative(negative(x) - shift)) * scale)
            }
        }
        scale * (-shift).exp()
    }

    /// The head whose weights a query has: as `Phi::weights_head`.
    pub(super) fn weights_head(&self, query_head: usize, key_head: usize) -> usize {
        self.phi.weights_head(query_head, key_head)
    }
}

// Loops here are `for` loops: a closure that is not inlined has no vectors.

#[inline(always)]
fn map(from: &[f32], to: &mut [f32], of: impl Fn(f32) -> f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = of(*from);
    }
}

#[inline(always)]
fn map_rows<'a>(
    from: impl Iterator<Item = &'a [f32]>,
    to: impl Iterator<Item = &'a mut [f32]>,
    of: impl Fn(f32) -> f32,
) {
    for (from, to) in from.zip(to) {
        map(from, to, &of);
    }
}

/// elu + 1.
#[inline(always)]
fn elu(x: f32) -> f32 {
    positive(x) + exp_of_negative(negative(x))
}

/// The larger of x and 0.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// The smaller of x and 0.
#[inline(always)]
fn negative(x: f32) -> f32 {
    if x < 0.0 { x } else { 0.0 }
}
