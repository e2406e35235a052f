//! Memory that invocations share, and who has touched each word of it.

use std::collections::HashMap;

use crate::fault::{Fault, FaultKind};
use crate::history::{Access, Clock, History};

/// The checks beside bounds, barriers and loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a literal names each, and there are no more")]
pub struct Checks {
    /// Reads of memory that nothing has written.
    pub reads: bool,
    /// Races, and elements of storage with several writers.
    pub races: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Self { reads: true, races: true }
    }
}

/// A buffer of a device.
#[derive(Clone, Debug)]
pub struct Buffer {
    name: &'static str,
    words: Vec<u32>,
    is_written: Vec<bool>,
    history: Vec<History>,
}

impl Buffer {
    /// With these words.
    #[must_use]
    pub fn new(name: &'static str, words: Vec<u32>) -> Self {
        let (is_written, history) =
            (vec![true; words.len()], vec![History::default(); words.len()]);
        Self { name, words, is_written, history }
    }

    /// With `len` words that hold anything, here NaN: they are to be written before they are read.
    #[must_use]
    pub fn undefined(name: &'static str, len: usize) -> Self {
        let is_written = vec![false; len];
        Self { is_written, ..Self::new(name, vec![u32::MAX; len]) }
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// The buffers of a device.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    buffers: Vec<Buffer>,
    /// Goes on from dispatch to dispatch, so that no history must be cleared.
    clock: u32,
    /// The invocation that has cleared a half of a word of atomics, by buffer, word and half.
    owners: HashMap<(usize, usize, u32), u32>,
}

impl Memory {
    /// Adds a buffer, and returns its index.
    pub fn add(&mut self, buffer: Buffer) -> usize {
        self.buffers.push(buffer);
        self.buffers.len() - 1
    }

    /// The buffer with this index.
    #[must_use]
    pub fn buffer(&self, index: usize) -> &Buffer {
        &self.buffers[index]
    }
}

/// A range of a buffer that is bound, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a literal names each, and there are no more")]
pub struct View {
    /// The binding of group 0.
    pub binding: u32,
    /// The index of the buffer.
    pub buffer: usize,
    /// The first word.
    pub begin: usize,
    /// Words.
    pub len: usize,
}

/// The storage of a dispatch.
pub(crate) struct Storage<'a> {
    pub(crate) memory: &'a mut Memory,
    pub(crate) clock: Clock,
    pub(crate) checks: Checks,
}

impl Storage<'_> {
    /// A barrier of storage, or the next workgroup.
    pub(crate) fn tick(&mut self) {
        self.memory.clock += 1;
        self.clock.now = self.memory.clock;
    }

    pub(crate) fn begin_workgroup(&mut self) {
        self.tick();
        self.clock.workgroup = self.clock.now;
    }

    pub(crate) fn begin_dispatch(&mut self) {
        self.begin_workgroup();
        self.clock.dispatch = self.clock.now;
        self.memory.owners.clear();
    }

    pub(crate) fn load(&mut self, view: View, offset: usize, lane: u32) -> Result<u32, Fault> {
        let at = self.touch(view, offset, lane, Access::Read)?;
        Ok(self.memory.buffers[view.buffer].words[at])
    }

    pub(crate) fn store(
        &mut self,
        view: View,
        offset: usize,
        lane: u32,
        word: u32,
    ) -> Result<(), Fault> {
        let at = self.touch(view, offset, lane, Access::Write)?;
        let buffer = &mut self.memory.buffers[view.buffer];
        (buffer.words[at], buffer.is_written[at]) = (word, true);
        Ok(())
    }

    /// Replaces a word by what `change` makes of it, and returns the one before.
    pub(crate) fn atomic(
        &mut self,
        view: View,
        offset: usize,
        lane: u32,
        change: impl FnOnce(u32) -> u32,
    ) -> Result<u32, Fault> {
        let at = self.touch(view, offset, lane, Access::Atomic)?;
        let word = &mut self.memory.buffers[view.buffer].words[at];
        let before = *word;
        *word = change(before);
        Ok(before)
    }

    /// A half of a word of atomics, which one invocation of the dispatch may write: `and` clears
    /// it, and `or` sets it. `changed` are the bits that change.
    pub(crate) fn own_halves(
        &mut self,
        view: View,
        offset: usize,
        invocation: u32,
        changed: u32,
    ) -> Result<(), Fault> {
        if !self.checks.races {
            return Ok(());
        }
        let name = self.memory.buffers[view.buffer].name;
        for half in 0..2 {
            if (changed >> (16 * half)) & 0xFFFF == 0 {
                continue;
            }
            let key = (view.buffer, view.begin + offset, half);
            if *self.memory.owners.entry(key).or_insert(invocation) != invocation {
                let message =
                    format!("half {half} of {name}[{offset}]: another invocation writes it");
                return Err(Fault::new(FaultKind::SeveralWriters, message));
            }
        }
        Ok(())
    }

    fn touch(
        &mut self,
        view: View,
        offset: usize,
        lane: u32,
        access: Access,
    ) -> Result<usize, Fault> {
        let Some(buffer) = self.memory.buffers.get_mut(view.buffer) else {
            return Err(Fault::new(FaultKind::OutOfBounds, "no such buffer"));
        };
        let name = buffer.name;
        let at = view.begin + offset;
        if offset >= view.len || at >= buffer.words.len() {
            let message = format!("word {offset} of {name}, of which {} are bound", view.len);
            return Err(Fault::new(FaultKind::OutOfBounds, message));
        }
        if self.checks.reads && access != Access::Write && !buffer.is_written[at] {
            return Err(Fault::new(FaultKind::Uninitialised, format!("word {offset} of {name}")));
        }
        let wrong = buffer.history[at].touch(self.clock, lane, access, true);
        if let Some((kind, what)) = wrong.filter(|_| self.checks.races) {
            return Err(Fault::new(kind, format!("word {offset} of {name}: {what}")));
        }
        Ok(at)
    }
}

/// The workgroup memory of one workgroup at a time.
pub(crate) struct Shared {
    words: Vec<u32>,
    is_written: Vec<bool>,
    history: Vec<History>,
    clock: Clock,
    checks: Checks,
}

impl Shared {
    pub(crate) fn new(len: usize, checks: Checks) -> Self {
        let (words, is_written) = (vec![u32::MAX; len], vec![false; len]);
        let history = vec![History::default(); len];
        Self { words, is_written, history, clock: Clock::default(), checks }
    }

    /// A barrier of workgroup memory.
    pub(crate) fn tick(&mut self) {
        self.clock.now += 1;
    }

    /// Another workgroup, whose memory holds anything.
    pub(crate) fn begin_workgroup(&mut self) {
        self.tick();
        self.clock.workgroup = self.clock.now;
        self.clock.dispatch = self.clock.now;
        self.words.fill(u32::MAX);
        self.is_written.fill(false);
    }

    pub(crate) fn load(&mut self, at: usize, lane: u32) -> Result<u32, Fault> {
        self.touch(at, lane, Access::Read)?;
        Ok(self.words[at])
    }

    pub(crate) fn store(&mut self, at: usize, lane: u32, word: u32) -> Result<(), Fault> {
        self.touch(at, lane, Access::Write)?;
        (self.words[at], self.is_written[at]) = (word, true);
        Ok(())
    }

    /// As [`Storage::atomic`]. One that only writes needs no value before it.
    pub(crate) fn atomic(
        &mut self,
        at: usize,
        lane: u32,
        is_write: bool,
        change: impl FnOnce(u32) -> u32,
    ) -> Result<u32, Fault> {
        if is_write && at < self.words.len() {
            self.is_written[at] = true;
        }
        self.touch(at, lane, Access::Atomic)?;
        let before = self.words[at];
        self.words[at] = change(before);
        Ok(before)
    }

    fn touch(&mut self, at: usize, lane: u32, access: Access) -> Result<(), Fault> {
        let Some(history) = self.history.get_mut(at) else {
            return Err(Fault::new(
                FaultKind::OutOfBounds,
                format!("word {at} of workgroup memory"),
            ));
        };
        if self.checks.reads && access != Access::Write && !self.is_written[at] {
            let message = "workgroup memory that nothing has written";
            return Err(Fault::new(FaultKind::Uninitialised, message));
        }
        let wrong = history.touch(self.clock, lane, access, false);
        match wrong.filter(|_| self.checks.races) {
            Some((kind, what)) => Err(Fault::new(kind, format!("workgroup memory: {what}"))),
            None => Ok(()),
        }
    }
}
