//! The faults of a shader.

use std::fmt;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An index beyond an array, a vector or the range that is bound.
    OutOfBounds,
    /// A read of memory that nothing has written.
    Uninitialised,
    /// An access to an element that another invocation writes, without a barrier between.
    Race,
    /// Two invocations of a dispatch write one element of storage.
    SeveralWriters,
    /// A barrier that not all invocations of a workgroup reach together.
    Barrier,
    /// A loop of too many iterations.
    Endless,
    /// An integer division by zero.
    DivisionByZero,
    /// A shift by 32 bits or more.
    Shift,
    /// The module does not parse, or uses what the interpreter does not know.
    Unsupported,
}

/// A fault, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// A sentence that names the place and the values.
    pub message: String,
    /// The line of the module, 0 where it is unknown.
    pub line: u32,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), line: 0 }
    }

    pub(crate) fn unsupported(what: impl fmt::Debug) -> Self {
        Self::new(FaultKind::Unsupported, format!("{what:?}"))
    }

    /// With a line, unless it has one: the innermost knows best.
    pub(crate) fn at(self, line: impl FnOnce() -> u32) -> Self {
        if self.line > 0 { self } else { Self { line: line(), ..self } }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wgsl:{}: {:?}: {}", self.line, self.kind, self.message)
    }
}

impl std::error::Error for Fault {}
