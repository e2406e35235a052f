//! The GPUs to compile for.

/// An AMD GPU by the name that RADV has for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Chip {
    /// RDNA3, Radeon RX 7900.
    #[default]
    Navi31,
    /// RDNA2, Radeon RX 6800 and 6900.
    Navi21,
    /// RDNA4, Radeon RX 9070.
    Gfx1201,
}

impl Chip {
    /// Every chip, the one that limits are made for first.
    pub const ALL: [Self; 3] = [Self::Navi31, Self::Navi21, Self::Gfx1201];

    /// The driver's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Navi31 => "navi31",
            Self::Navi21 => "navi21",
            Self::Gfx1201 => "gfx1201",
        }
    }

    /// True if the driver has cooperative matrices for it: not for RDNA2, which has no matrix
    /// units, and in Mesa 25.0 not yet for RDNA4.
    #[must_use]
    pub fn has_matrices(self) -> bool {
        self == Self::Navi31
    }

    /// The chip of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chip| chip.name() == name)
    }

    /// From now on the driver of this process has this chip.
    pub(crate) fn choose(self) {
        // SAFETY: the program and the test of this crate have one thread, and the driver of the
        // chip before has been closed.
        unsafe { std::env::set_var("RADV_FORCE_FAMILY", self.name()) };
    }

    /// True for what the driver says of its device's name.
    pub(crate) fn is_named(self, device: &str) -> bool {
        device.to_lowercase().contains(self.name())
    }
}
