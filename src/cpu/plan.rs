//! Calls of one shape: their tasks, and the memory that they need.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::cpu::call::Call;
use crate::cpu::cut::Extent;
use crate::cpu::engine::CpuAttention;
use crate::cpu::features::Features;
use crate::cpu::gates::Gates;
use crate::cpu::head::is_long;
use crate::cpu::in_pool::InPool;
use crate::cpu::outputs::{OutputParts, OutputRows, Outputs};
use crate::cpu::pool::{State, StatePool};
use crate::cpu::run::{Pass, Run};
use crate::cpu::scratch::Scratch;
use crate::cpu::states::{StateParts, States};
use crate::cpu::strips::Strips;
use crate::cpu::task::{Start, Task};
use crate::cpu::tensors::Tensors;
use crate::cpu::threads;
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
use crate::problem::heads::Heads;
use crate::problem::shape::{Lens, Shape};
use crate::serve::Entry;

/// Bytes of a token's rows of q or of o that one thread takes, where there are enough.
const ROW_BYTES: usize = 4096;

/// Bytes of the states that it takes at a time, which should stay in its second cache.
const STATE_BYTES: usize = 1 << 20;

/// Calls of one shape on the CPU, with all the memory that they need.
#[derive(Debug)]
pub struct CpuPlan {
    attention: CpuAttention,
    shape: Shape,
    lens: Lens,
    /// Those of o.
    rows: OutputRows,
    strips: Strips,
    threads: usize,
    /// Tokens of each sequence of the call.
    ranges: Vec<Range<usize>>,
    tasks: Vec<Task>,
    /// The states before segments; empty where sequences are not cut.
    starts: Vec<Mutex<Start>>,
    /// One for each thread.
    scratch: Vec<Mutex<Scratch>>,
    parts: (OutputParts, StateParts),
    in_pool: InPool,
}

impl CpuPlan {
    pub(super) fn new(
        attention: CpuAttention,
        shape: &Shape,
        (strips, threads): (Strips, usize),
    ) -> Result<Self, Error> {
        let config = attention.config().clone();
        let lens = shape.lens(&config)?;
        let rows = OutputRows::new(&config, shape, &lens);
        let threads = threads.max(1);
        let columns = strips.room(config.value_dim as usize);
        let group = shape.value_group() as usize;
        let has_long = is_long(&config, shape.max_len() as usize);
        let heads = Self::most_heads(&config, shape);
        let scratch = || Mutex::new(Scratch::new(&config, [heads, group, columns], has_long));
        let sequences = shape.sequences() as usize;
        let mut plan = Self {
            attention,
            shape: shape.clone(),
            lens,
            rows,
            strips,
            threads,
            ranges: Vec::with_capacity(sequences),
            // As many tasks as `cut` makes of any entries.
            tasks: Vec::with_capacity(sequences * shape.value_heads as usize + 2 * threads),
            starts: Vec::new(),
            scratch: (0..threads).map(|_| scratch()).collect(),
            parts: (
                OutputParts::new(&rows, config.dtype),
                StateParts::new(sequences * shape.value_heads as usize),
            ),
            in_pool: InPool {
                slots: Vec::with_capacity(sequences),
                written: Vec::with_capacity(sequences),
                nus: vec![0.0; lens.nu as usize],
                copied: State::default(),
            },
        };
        if let Some(ranges) = shape.token_ranges() {
            plan.ranges = ranges;
            plan.cut(true);
        }
        Ok(plan)
    }

    /// The most value heads of a task.
    fn most_heads(config: &Config, shape: &Shape) -> usize {
        let width = config.key_dim.max(config.value_dim) as usize * shape.value_group() as usize;
        let state = config.features() as usize * config.value_dim as usize;
        let most = (ROW_BYTES / (4 * width)).min(STATE_BYTES / (4 * state));
        most.clamp(1, shape.value_heads as usize)
    }

    /// Elements of each tensor.
    #[must_use]
    pub fn lens(&self) -> &Lens {
        &self.lens
    }

    /// Computes o and the final state. The contents of the inputs are not inspected, as those of
    /// buffers are not: a NaN spoils its own sequence and value head. Nothing is
    /// allocated, but by a feature map of the caller's own.
    ///
    /// # Errors
    ///
    /// Slices of other lengths or types; weights or gates that are missing or not wanted; a shape
    /// with slots or with lengths that only a call knows. Nothing is written then.
    pub fn run(&mut self, tensors: Tensors<'_>) -> Result<(), Error> {
        self.run_pass(tensors, Pass::Outputs)
    }

    /// The same without o, of which only the rows of single tokens may be written.
    pub(super) fn run_without_outputs(&mut self, tensors: Tensors<'_>) -> Result<(), Error> {
        self.run_pass(tensors, Pass::State)
    }

    fn run_pass(&mut self, tensors: Tensors<'_>, pass: Pass) -> Result<(), Error> {
        if self.shape.slots.is_some() {
            return Err(Error::HostShape { what: "slots" });
        }
        if self.shape.is_packed_up_to() {
            return Err(Error::HostShape { what: "packed_up_to" });
        }
        let config = self.attention.config();
        tensors.check(config, &self.shape, &self.lens)?;
        let mut tensors = tensors;
        let last = tensors.final_state.take();
        let mut parts = std::mem::take(&mut self.parts);
        let heads = (config, self.shape.value_heads);
        let states = States::in_slices(heads, tensors.initial_state, last, &mut parts.1);
        self.compute((tensors, states), &mut parts, pass);
        self.parts = parts;
        Ok(())
    }

    /// Computes o, and updates the states of sequences in a pool. Entries are in the order of their
    /// tokens along T or, in a shape that is not packed, along the batch. Where there are fewer
    /// than the shape has, their rows of o are zero. A state that is read from another slot is
    /// copied first.
    ///
    /// # Errors
    ///
    /// As [`CpuPlan::run`]; an initial or a final state beside the pool; [`PoolError::Pool`] for a
    /// pool of other states, [`PoolError::Slot`], [`PoolError::Duplicate`], [`PoolError::Source`]
    /// where one sequence reads what another writes, or [`PoolError::Entries`] where there are more
    /// sequences or tokens than the shape has. Neither the pool nor o is written then.
    ///
    /// [`PoolError::Pool`]: crate::error::PoolError::Pool
    /// [`PoolError::Slot`]: crate::error::PoolError::Slot
    /// [`PoolError::Duplicate`]: crate::error::PoolError::Duplicate
    /// [`PoolError::Source`]: crate::error::PoolError::Source
    /// [`PoolError::Entries`]: crate::error::PoolError::Entries
    pub fn run_in_pool(
        &mut self,
        pool: &StatePool,
        entries: &[Entry],
        tensors: Tensors<'_>,
    ) -> Result<(), Error> {
        let config = self.attention.config();
        pool.check_call(config, &self.shape)?;
        tensors.check(config, &self.shape, &self.lens)?;
        tensors.check_no_states(config)?;
        self.in_pool.check(pool, &self.shape, entries)?;
        for (entry, slot) in entries.iter().zip(&self.in_pool.slots) {
            if let Some(source) = entry.source.filter(|source| *source != entry.slot) {
                pool.copy_through(source.index(), *slot, &mut self.in_pool.copied);
            }
        }
        let next = |end: &mut usize, (n, entry): (usize, &Entry)| {
            // A padded row has its valid tokens where it has them, any other follows the one
            // before.
            let begin = self.shape.valid_tokens(n).map_or(*end, |tokens| tokens.start);
            *end = begin + entry.tokens as usize;
            Some(begin..*end)
        };
        self.ranges.clear();
        self.ranges.extend(entries.iter().enumerate().scan(0, next));
        self.cut(false);
        let mut nus = std::mem::take(&mut self.in_pool.nus);
        let are_shared = !nus.is_empty() && self.tasks.iter().any(|task| task.columns.start > 0);
        let mut parts = std::mem::take(&mut self.parts);
        let (slots, config) = (&self.in_pool.slots, self.attention.config());
        let of_threads = are_shared.then_some(&mut nus[..]);
        let heads = (config, self.shape.value_heads);
        let states = States::in_pool(heads, (pool, slots), of_threads, &mut parts.1);
        self.compute((tensors, states), &mut parts, Pass::Outputs);
        if are_shared {
            let value_heads = self.shape.value_heads as usize;
            let heads = slots.iter().flat_map(|slot| (0..value_heads).map(move |e| (*slot, e)));
            for ((slot, e), nu) in heads.zip(nus.chunks(config.features() as usize)) {
                pool.with(slot, e, |state| state.nu.copy_from_slice(nu));
            }
        }
        (self.in_pool.nus, self.parts) = (nus, parts);
        Ok(())
    }

    /// Runs all tasks of a call.
    fn compute<'a>(
        &'a self,
        (tensors, states): (Tensors<'a>, States<'a>),
        parts: &mut (OutputParts, StateParts),
        pass: Pass,
    ) {
        let config = self.attention.config();
        let heads = Heads::new(config, &self.shape);
        let decay = (tensors.decay, tensors.gate_weights);
        let of_keys = Phi::of_keys(config, tensors.weights);
        let of_queries = Phi::of_queries(config, tensors.weights);
        let scales = config.scales_queries();
        let call = Call {
            config,
            mistake: self.attention.mistake(),
            gates: Gates::new(config, heads.value, decay, tensors.beta),
            of_keys: Features::new(config, config.key_map(), of_keys, false),
            of_queries: Features::new(config, config.query_map(), of_queries, scales),
            q: tensors.q,
            k: tensors.k,
            v: tensors.v,
            o: Outputs::new(tensors.o, self.rows, config.dtype, &mut parts.0),
            heads,
            strips: self.strips,
            states,
        };
        self.run_tasks(&call, pass);
        call.o.finish(&mut parts.0);
        call.states.finish(&mut parts.1);
    }

    fn run_tasks(&self, call: &Call<'_>, last: Pass) {
        let all = self.shape.batch as usize * self.shape.seq_len as usize;
        let ends = std::iter::once(0).chain(self.ranges.iter().map(|range| range.end));
        let begins = self.ranges.iter().map(|range| range.start).chain(std::iter::once(all));
        for (end, begin) in ends.zip(begins).filter(|(end, begin)| end < begin) {
            call.o.clear(end..begin);
        }
        let run = |task: &Task, pass: Pass| {
            let Some(mut scratch) = threads::of_thread(&self.scratch) else { return };
            let scratch = &mut *scratch;
            self.attention.dispatch(Run { call, task, scratch, starts: &self.starts, pass });
        };
        let least = self.extent(false).least_tasks(self.tasks.len());
        if !self.starts.is_empty() {
            threads::for_each(&self.tasks, least, |task| {
                if !task.is_last {
                    run(task, Pass::Sum);
                }
            });
            threads::for_each(&self.tasks, least, |task| {
                if task.segment.is_some_and(|segment| segment.is_first) {
                    self.join_starts(task);
                }
            });
        }
        threads::for_each(&self.tasks, least, |task| {
            if last == Pass::Outputs || task.is_last {
                run(task, last);
            }
        });
    }

    /// Adds up the states before the segments of a task's columns, of which it is the first.
    fn join_starts(&self, first: &Task) {
        let Some(segment) = first.segment else { return };
        let of_columns = self.tasks.iter().skip_while(|task| !std::ptr::eq(*task, first));
        let count = 1 + of_columns.take_while(|task| !task.is_last).count();
        // The second start is whole already: its segment began with the initial state.
        for pair in self.starts[segment.start..segment.start + count].windows(2).skip(1) {
            let [before, start] = pair else { return };
            let before = before.lock().unwrap_or_else(PoisonError::into_inner);
            let strips = self.strips.of(first.columns.len());
            start.lock().unwrap_or_else(PoisonError::into_inner).join(&before, strips);
        }
    }

    fn extent(&self, shares_sequences: bool) -> Extent<'_> {
        let config = self.attention.config();
        Extent {
            config,
            sequences: &self.ranges,
            value_heads: self.shape.value_heads as usize,
            most_heads: Self::most_heads(config, &self.shape),
            width: self.strips.width,
            lanes: self.strips.lanes,
            threads: self.threads,
            shares_sequences,
        }
    }

    /// Cuts the call into tasks.
    fn cut(&mut self, shares_sequences: bool) {
        let mut tasks = std::mem::take(&mut self.tasks);
        self.extent(shares_sequences).cut(&mut tasks);
        let (config, strips) = (self.attention.config(), self.strips);
        let cut = tasks.iter().filter(|task| task.segment.is_some());
        let start = |task: &Task| Mutex::new(Start::new(config, strips.room(task.columns.len())));
        self.starts = cut.map(start).collect();
        self.tasks = tasks;
    }
}
