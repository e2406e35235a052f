//! The invocations that have touched a word, from which races follow.

use crate::fault::FaultKind;

/// The accesses to a word in one dispatch, or in one workgroup.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct History {
    write: Touch,
    read: Touch,
    /// The time of the first read in the dispatch.
    first_read: u32,
    is_atomic: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Touch {
    /// The time between two barriers; 0 for never.
    time: u32,
    lane: u32,
}

/// More than one invocation.
const SEVERAL: u32 = u32::MAX;

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
}

/// The clock of one address space: it ticks at each barrier and workgroup.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// The time of the beginning of the dispatch; in workgroup memory, of the workgroup.
    pub(crate) dispatch: u32,
    pub(crate) workgroup: u32,
    pub(crate) now: u32,
}

impl History {
    /// Notes an access, and says what is wrong with it. With `has_one_writer` no barrier makes up
    /// for two writers.
    pub(crate) fn touch(
        &mut self,
        clock: Clock,
        lane: u32,
        access: Access,
        has_one_writer: bool,
    ) -> Option<(FaultKind, &'static str)> {
        let Self { write, read, .. } = *self;
        if write.time < clock.dispatch && read.time < clock.dispatch {
            self.is_atomic = false;
        }
        let is_atomic = access == Access::Atomic;
        let is_among_atomics = is_atomic && self.is_atomic;
        let mut wrong = None;
        if write.time >= clock.dispatch && write.time > 0 && !is_among_atomics {
            if write.time < clock.workgroup {
                wrong = Some(match access {
                    Access::Read => (FaultKind::Race, "another workgroup writes it"),
                    _ => (FaultKind::SeveralWriters, "another workgroup writes it as well"),
                });
            } else if write.lane != lane {
                if write.time == clock.now {
                    wrong = Some((
                        FaultKind::Race,
                        "another invocation writes it, and no barrier is between",
                    ));
                } else if access != Access::Read && has_one_writer {
                    wrong =
                        Some((FaultKind::SeveralWriters, "another invocation writes it as well"));
                }
            }
        }
        let was_read = read.time >= clock.dispatch && read.time > 0;
        if access != Access::Read && was_read && !is_among_atomics {
            if self.first_read < clock.workgroup {
                wrong = Some((FaultKind::Race, "another workgroup reads it"));
            } else if read.time == clock.now && read.lane != lane {
                wrong = Some((
                    FaultKind::Race,
                    "another invocation reads it, and no barrier is between",
                ));
            }
        }
        let merged = |touch: Touch| match touch.time == clock.now && touch.lane != lane {
            true => Touch { time: clock.now, lane: SEVERAL },
            false => Touch { time: clock.now, lane },
        };
        if access == Access::Read {
            if !was_read {
                self.first_read = clock.now;
            }
            self.read = merged(read);
        } else {
            self.write = merged(write);
            self.is_atomic = is_atomic;
        }
        wrong
    }
}
