//! Many conversations: a pool of states, and the sequences of a call.

pub(crate) mod batch;
pub(crate) mod pool;
pub(crate) mod sequences;
pub(crate) mod slots;
pub(crate) mod snapshot;
pub(crate) mod status;

pub use batch::{Batch, Checkpoint, Entry};
pub use pool::StatePool;
pub use sequences::Sequences;
pub use slots::Slot;
pub use snapshot::Snapshot;
pub use status::Status;
