//! Which states a call has.

/// The states that a call reads and writes, for
/// [`LinearAttention::prepare`](crate::LinearAttention::prepare).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum States {
    /// Neither: sequences start from zero, and the final states are dropped.
    #[default]
    None,
    /// Initial states are read.
    Initial,
    /// Final states are written.
    Final,
    /// Both, in two buffers.
    InitialAndFinal,
    /// Both, in one binding or in a pool.
    InPlace,
}

impl States {
    pub(crate) fn reads_initial(self) -> bool {
        matches!(self, Self::Initial | Self::InitialAndFinal | Self::InPlace)
    }

    pub(crate) fn writes_final(self) -> bool {
        matches!(self, Self::Final | Self::InitialAndFinal | Self::InPlace)
    }
}
