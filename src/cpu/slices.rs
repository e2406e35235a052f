//! Tensors as slices of the type that they are stored in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::problem::dtype::Dtype;

/// A tensor to read. In f32 it is rounded to the type that the config says before anything is
/// computed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "one for each type that `Dtype` has")]
pub enum Slice<'a> {
    /// In f32.
    F32(&'a [f32]),
    /// In `f16`.
    F16(&'a [f16]),
    /// In `bf16`.
    Bf16(&'a [bf16]),
}

/// A tensor to write. In f32 it gets what the config's type can store.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "one for each type that `Dtype` has")]
pub enum SliceMut<'a> {
    /// In f32.
    F32(&'a mut [f32]),
    /// In `f16`.
    F16(&'a mut [f16]),
    /// In `bf16`.
    Bf16(&'a mut [bf16]),
}

macro_rules! from_slices {
    ($($variant:ident, $float:ty;)*) => {$(
        impl<'a> From<&'a [$float]> for Slice<'a> {
            fn from(slice: &'a [$float]) -> Self {
                Self::$variant(slice)
            }
        }

        impl<'a> From<&'a Vec<$float>> for Slice<'a> {
            fn from(slice: &'a Vec<$float>) -> Self {
                Self::$variant(slice)
            }
        }

        impl<'a> From<&'a mut [$float]> for SliceMut<'a> {
            fn from(slice: &'a mut [$float]) -> Self {
                Self::$variant(slice)
            }
        }

        impl<'a> From<&'a mut Vec<$float>> for SliceMut<'a> {
            fn from(slice: &'a mut Vec<$float>) -> Self {
                Self::$variant(slice)
            }
        }
    )*};
}
from_slices!(F32, f32; F16, f16; Bf16, bf16;);

macro_rules! sizes {
    ($($of:ident)*) => {$(
        impl $of<'_> {
            pub(super) fn len(&self) -> usize {
                match self {
                    Self::F32(x) => x.len(),
                    Self::F16(x) => x.len(),
                    Self::Bf16(x) => x.len(),
                }
            }

            pub(super) fn dtype(&self) -> Dtype {
                match self {
                    Self::F32(_) => Dtype::F32,
                    Self::F16(_) => Dtype::F16,
                    Self::Bf16(_) => Dtype::Bf16,
                }
            }
        }
    )*};
}
sizes!(Slice SliceMut);

impl<'a> Slice<'a> {
    /// An element, as `dtype` stores it.
    #[inline(always)]
    pub(super) fn get(&self, at: usize, dtype: Dtype) -> f32 {
        match self {
            Self::F32(x) => dtype.round(x[at]),
            Self::F16(x) => x[at].to_f32(),
            Self::Bf16(x) => x[at].to_f32(),
        }
    }

    /// The elements from `at` on that `to` has room for, as `dtype` stores them.
    #[inline(always)]
    pub(super) fn copy(&self, at: usize, dtype: Dtype, to: &mut [f32]) {
        let range = at..at + to.len();
        match self {
            Self::F32(x) if dtype == Dtype::F32 => to.copy_from_slice(&x[range]),
            Self::F32(x) => {
                to.copy_from_slice(&x[range]);
                round(to, dtype);
            }
            Self::F16(x) => x[range].convert_to_f32_slice(to),
            // The upper half of an f32, in so many words that the loop becomes vectors.
            Self::Bf16(x) => {
                for (to, x) in to.iter_mut().zip(&x[range]) {
                    *to = f32::from_bits(u32::from(x.to_bits()) << 16);
                }
            }
        }
    }

    /// All elements, where they need no conversion.
    pub(super) fn f32s(&self, dtype: Dtype) -> Option<&'a [f32]> {
        match self {
            Self::F32(x) if dtype == Dtype::F32 => Some(x),
            _ => None,
        }
    }

    /// The same without a copy where none is needed.
    #[inline(always)]
    pub(super) fn row<'b>(&self, at: usize, dtype: Dtype, buffer: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::F32(x) if dtype == Dtype::F32 => &x[at..at + buffer.len()],
            _ => {
                self.copy(at, dtype, buffer);
                buffer
            }
        }
    }
}

/// Rounds to what a type can store.
#[inline(always)]
pub(super) fn round(x: &mut [f32], dtype: Dtype) {
    match dtype {
        Dtype::F32 => {}
        Dtype::F16 => {
            let mut halves = [f16::ZERO; 64];
            for x in x.chunks_mut(halves.len()) {
                let halves = &mut halves[..x.len()];
                halves.convert_from_f32_slice(x);
                halves.convert_to_f32_slice(x);
            }
        }
        Dtype::Bf16 => {
            for x in x {
                *x = f32::from_bits(u32::from(bf16_bits(*x)) << 16);
            }
        }
    }
}

/// The nearest bf16, ties to even, in so many words that a loop becomes vectors.
#[inline(always)]
pub(super) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // A NaN stays one.
    let bits = if x.is_nan() { (bits >> 16) | 0x40 } else { rounded };
    bits as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let bits = (0..=u16::MAX).flat_map(|high| {
            [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| u32::from(high) << 16 | low)
        });
        for x in bits.map(f32::from_bits) {
            let (found, expected) = (bf16::from_bits(bf16_bits(x)), bf16::from_f32(x));
            assert!(found == expected || (found.is_nan() && expected.is_nan()), "{x}");
            for dtype in Dtype::ALL {
                let mut found = [x];
                round(&mut found, dtype);
                let expected = dtype.round(x);
                assert!(found[0] == expected || (found[0].is_nan() && expected.is_nan()), "{x}");
            }
        }
    }
}
