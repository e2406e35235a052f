//! The invocations of a workgroup that are active.

use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// Most invocations of a workgroup: the default limit of WebGPU.
pub(crate) const MAX_LANES: usize = 256;

/// A set of invocations of a workgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mask([u64; MAX_LANES / 64]);

impl Mask {
    /// The first `len` invocations.
    pub(crate) fn first(len: usize) -> Self {
        let mut mask = Self::default();
        (0..len).for_each(|lane| mask.insert(lane));
        mask
    }

    pub(crate) fn insert(&mut self, lane: usize) {
        self.0[lane / 64] |= 1 << (lane % 64);
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those of which `is_in` holds.
    pub(crate) fn filter(self, is_in: impl Fn(usize) -> bool) -> Self {
        let mut mask = Self::default();
        self.lanes().filter(|lane| is_in(*lane)).for_each(|lane| mask.insert(lane));
        mask
    }

    /// All of them, in order.
    pub(crate) fn lanes(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(i, mut word)| {
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                word &= word - 1;
                Some(64 * i + bit)
            })
        })
    }
}

impl BitAnd for Mask {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }
}

impl BitOr for Mask {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }
}

impl BitOrAssign for Mask {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl Not for Mask {
    type Output = Self;

    fn not(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}
