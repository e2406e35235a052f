//! A device that refuses an object on purpose, to prove that a program survives every refusal.

use std::cell::Cell;

use crate::error::DeviceError;

thread_local! {
    /// Objects until the one that is refused; `None` where none will be.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Calls `call`, and refuses object `number`, from 0 on, of those that this crate asks a device for
/// on this thread (buffers, bind groups, pipelines, submissions), as if there were no memory. True
/// if `call` asked for that many.
///
/// A program goes up from 0 until that is false, and so meets every refusal that a call can meet.
pub fn refuse_object<T>(number: u32, call: impl FnOnce() -> T) -> (T, bool) {
    /// Disarmed also where `call` panics.
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }
    LEFT.set(Some(number));
    let _armed = Armed;
    let result = call();
    (result, LEFT.get().is_none())
}

/// Counts an object that is about to be made.
pub(super) fn count(what: &str) -> Result<(), DeviceError> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => {
            LEFT.set(None);
            Err(DeviceError::new(what, "out of memory, on purpose"))
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
