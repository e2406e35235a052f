//! A task's tokens, block by block.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

use crate::cpu::ahead::Ahead;
use crate::cpu::block::Block;
use crate::cpu::call::Call;
use crate::cpu::gates::next_kept;
use crate::cpu::head::{Head, goes_one_by_one, is_long};
use crate::cpu::mutation::Mutation;
use crate::cpu::one_by_one::OfHead;
use crate::cpu::passes::{AT_A_TIME, OfBlock};
use crate::cpu::rows::{Rows, fill_values};
use crate::cpu::scratch::Scratch;
use crate::cpu::step::Token;
use crate::cpu::task::{Segment, Start, Task};
use crate::cpu::tiles::{ROWS, TOKENS, width};

/// The way in which a task goes through its tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// They enter the state; it becomes the start of the next segment.
    Sum,
    /// They enter the state, which goes to where the call wants it.
    State,
    /// The same, and they read it.
    Outputs,
}

/// A task, in the vectors of a CPU.
pub(super) struct Run<'a, 'b> {
    pub(super) call: &'a Call<'b>,
    pub(super) task: &'a Task,
    pub(super) scratch: &'a mut Scratch,
    pub(super) starts: &'a [Mutex<Start>],
    pub(super) pass: Pass,
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.is_step() {
            return self.step(simd);
        }
        self.run(simd);
    }
}

impl Run<'_, '_> {
    /// True for one token of all columns, whose state goes to where the call wants it.
    fn is_step(&self) -> bool {
        let Task { columns, .. } = self.task;
        let is_wanted = self.call.states.are_written();
        self.task.entering() == 1
            && columns.len() == self.call.config.value_dim as usize
            && is_wanted
    }

    /// The token, on the states in the place to which they go.
    #[inline(always)]
    fn step<S: Simd>(self, simd: S) {
        let Self { call, task, scratch: Scratch { step, outputs, .. }, .. } = self;
        let (t, group, value_dim) = (task.tokens.start, call.heads.value_group, task.columns.len());
        let of_heads = outputs.chunks_mut(group * value_dim);
        for (e, o) in task.heads.clone().zip(of_heads) {
            // A closure has no vectors of its own.
            call.states.update([task.n, e], |mu, nu| {
                let state = (&mut *mu, nu);
                simd.vectorize(Token { step, call, tokens: [t, e], state, o });
                if call.mistake.is(Mutation::StepForgets) {
                    mu.fill(0.0);
                }
            });
        }
        call.write_rows(task, task.tokens.clone(), value_dim, |_| &outputs[..]);
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for e in self.task.heads.clone() {
            self.load(e);
        }
        let pass = self.pass;
        for (tokens, pass) in [(&self.task.before, Pass::State), (&self.task.tokens, pass)] {
            self.pass = pass;
            self.run_blocks(simd, tokens);
        }
        for e in self.task.heads.clone() {
            self.store(e);
        }
    }

    /// Tokens, block by block.
    #[inline(always)]
    fn run_blocks<S: Simd>(&mut self, simd: S, tokens: &Range<usize>) {
        let most = Block::tokens(self.call.config);
        let has_outputs = self.pass == Pass::Outputs;
        let (group, entering) = (self.call.heads.value_group, self.task.entering());
        let one_by_one = has_outputs && goes_one_by_one(self.call.config, group, entering);
        let strips = self.call.strips.of(self.task.columns.len()).count();
        let tiles = self.task.heads.len()
            * strips
            * if one_by_one {
                most / AT_A_TIME * width(self.call.config) / ROWS
            } else {
                (width(self.call.config) + most) / ROWS
            };
        let mut ahead = Ahead::new(self.call, self.task, tiles, most);
        for first in tokens.clone().step_by(most) {
            let count = most.min(tokens.end - first);
            let is_last = first + count == self.task.tokens.end;
            ahead.begin(tokens.end.min(first + most)..tokens.end.min(first + 2 * most));
            self.fill_rows([first, count], one_by_one);
            for e in self.task.heads.clone() {
                if one_by_one {
                    self.one_by_one(simd, [first, count, e], &mut ahead);
                } else {
                    self.block(simd, [first, count, e], &mut ahead);
                }
                if self.call.mistake.is(Mutation::StateNotCarried) && !is_last {
                    let Head { mu, entered, .. } =
                        &mut self.scratch.heads[e - self.task.heads.start];
                    mu.fill(0.0);
                    entered.fill(0.0);
                }
            }
            if has_outputs {
                let columns = self.call.strips.room(self.task.columns.len());
                let row = self.task.heads.len() * self.call.heads.value_group * columns;
                let outputs = &self.scratch.outputs;
                self.call.write_rows(self.task, first..first + count, columns, |t| {
                    &outputs[(t - first) * row..]
                });
            }
        }
    }

    /// The state of a value head before the first token.
    fn load(&mut self, e: usize) {
        let Self { call, task, starts, pass, scratch } = self;
        let head = &mut scratch.heads[e - task.heads.start];
        let Head { mu, lost, entered, nu, lost_nu, kept, .. } = head;
        mu.fill(0.0);
        entered.fill(0.0);
        lost.fill(0.0);
        nu.fill(0.0);
        lost_nu.fill(0.0);
        kept.fill(0.0);
        let is_summed = *pass == Pass::Sum;
        let start = task.segment.and_then(|segment| starts.get(segment.start));
        let start = start.map(|start| start.lock().unwrap_or_else(PoisonError::into_inner));
        match (task.segment, &start) {
            // Segments but the first are summed from zero.
            (Some(Segment { is_first: false, .. }), _) if is_summed => return,
            (_, Some(start)) if !is_summed => {
                copy(&start.mu, mu);
                nu.copy_from_slice(&start.nu);
                return;
            }
            _ => {}
        }
        let value_dim = call.config.value_dim as usize;
        call.states.read([task.n, e], |from_mu, from_nu| {
            for strip in call.strips.of(task.columns.len()) {
                let rows = mu[strip.rows(width(call.config))].chunks_mut(strip.width);
                for (row, from) in rows.zip(from_mu.chunks(value_dim)) {
                    let from = &from[task.columns.clone()][strip.columns.clone()];
                    row[..from.len()].copy_from_slice(from);
                }
            }
            nu.copy_from_slice(from_nu);
        });
        if let Some(mut start) = start {
            copy(mu, &mut start.mu);
            start.nu.copy_from_slice(nu);
        }
    }

    /// The state of a value head after the last token.
    fn store(&mut self, e: usize) {
        let Self { call, task, starts, pass, scratch } = self;
        let Head { mu, nu, kept, .. } = &scratch.heads[e - task.heads.start];
        if *pass == Pass::Sum {
            let next = task.segment.and_then(|segment| starts.get(segment.start + 1));
            let Some(next) = next else { return };
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            copy(mu, &mut next.mu);
            next.nu.copy_from_slice(nu);
            copy(kept, &mut next.kept);
            return;
        }
        if !task.is_last {
            return;
        }
        let value_dim = call.config.value_dim as usize;
        let is_first = task.columns.start == 0;
        call.states.write([task.n, e], is_first, |to_mu, to_nu| {
            for strip in call.strips.of(task.columns.len()) {
                let rows = mu[strip.rows(width(call.config))].chunks(strip.width);
                for (row, to) in rows.zip(to_mu.chunks_mut(value_dim)) {
                    let to = &mut to[task.columns.clone()][strip.columns.clone()];
                    to.copy_from_slice(&row[..to.len()]);
                }
            }
            to_nu.copy_from_slice(&nu[..to_nu.len()]);
        });
    }

    /// Features of a block of tokens, of all value heads; of queries where they are read. Values, too,
    /// but where tokens go through the state one by one.
    #[inline(always)]
    fn fill_rows(&mut self, [first, count]: [usize; 2], one_by_one: bool) {
        let (call, task) = (self.call, self.task);
        let Scratch { heads, row, .. } = &mut *self.scratch;
        for (e, head) in task.heads.clone().zip(heads) {
            head.rows.fill_keys(call, [first, count, e], row);
            if self.pass == Pass::Outputs {
                head.rows.fill_queries(call, [first, count, e], row);
            }
            if one_by_one {
                continue;
            }
            for strip in call.strips.of(task.columns.len()) {
                fill_values((call, task), [first, count, e], &strip, &mut head.values);
            }
        }
    }

    /// A block of tokens of a value head, one by one.
    #[inline(always)]
    fn one_by_one<S: Simd>(
        &mut self,
        simd: S,
        [first, count, e]: [usize; 3],
        ahead: &mut Ahead<'_>,
    ) {
        let (call, task) = (self.call, self.task);
        let columns = call.strips.room(task.columns.len());
        let Scratch { one_by_one, heads, outputs, row, .. } = &mut *self.scratch;
        let head = e - task.heads.start;
        let o = (&mut outputs[head * columns..], task.heads.len() * columns);
        let mut of_head = OfHead { one_by_one, head: &mut heads[head], row };
        of_head.block(simd, (call, task), [first, count, e], o, ahead);
    }

    /// A block of tokens of a value head, by products of its tokens.
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, [first, count, e]: [usize; 3], ahead: &mut Ahead<'_>) {
        let call = self.call;
        let Scratch { block, heads, .. } = &mut *self.scratch;
        let keys = &heads[e - self.task.heads.start].rows.keys;
        block.fill_keys(simd, call, [first, count, e], keys);
        if call.config.update_rule.beta().is_some() {
            self.correct(simd, e, count);
        }
        if self.pass == Pass::Outputs {
            self.outputs(simd, [first, count, e], ahead);
        }
        let is_whole = count == Block::tokens(call.config);
        if is_whole || !call.mistake.is(Mutation::RaggedBlockSkipped) {
            self.update(simd, e, count, ahead);
        }
    }

    /// Corrects the values of a block by what the state recalls.
    #[inline(always)]
    fn correct<S: Simd>(&mut self, simd: S, e: usize, count: usize) {
        let (call, task) = (self.call, self.task);
        let Scratch { block, heads, .. } = &mut *self.scratch;
        let Head { mu, values, .. } = &mut heads[e - task.heads.start];
        let of_block = OfBlock { simd, block, count, mistake: call.mistake };
        for strip in call.strips.of(task.columns.len()) {
            let (state, values) = (&mu[strip.rows(block.width)], &mut values[strip.rows(TOKENS)]);
            if strip.is_wide::<S>() {
                of_block.correct::<2>(state, values);
            } else {
                of_block.correct::<1>(state, values);
            }
        }
    }

    /// o of all output heads of a value head.
    #[inline(always)]
    fn outputs<S: Simd>(&mut self, simd: S, [first, count, e]: [usize; 3], ahead: &mut Ahead<'_>) {
        let (call, task) = (self.call, self.task);
        let (group, head) = (call.heads.value_group, e - task.heads.start);
        let columns = call.strips.room(task.columns.len());
        let stride = task.heads.len() * group * columns;
        let Scratch { block, heads, outputs, row, .. } = &mut *self.scratch;
        let Head { rows: Rows { keys, queries }, mu, nu, values, .. } = &mut heads[head];
        for (h, queries) in queries.iter_mut().enumerate() {
            let tokens = [first, count, e * group + h];
            block.fill_queries(simd, call, tokens, (keys, queries), (nu, row));
            let of_block = OfBlock { simd, block, count, mistake: call.mistake };
            for strip in call.strips.of(task.columns.len()) {
                let of = (&mu[strip.rows(block.width)], &values[strip.rows(TOKENS)]);
                let begin = (head * group + h) * columns + strip.columns.start;
                let o = (&mut outputs[begin..], stride);
                if strip.is_wide::<S>() {
                    of_block.outputs::<2>(of, o, ahead);
                } else {
                    of_block.outputs::<1>(of, o, ahead);
                }
            }
        }
    }

    /// Adds a block to the state of a value head.
    #[inline(always)]
    fn update<S: Simd>(&mut self, simd: S, e: usize, count: usize, ahead: &mut Ahead<'_>) {
        let (call, task) = (self.call, self.task);
        let compensates = is_long(call.config, task.entering());
        let Scratch { block, heads, .. } = &mut *self.scratch;
        let head = &mut heads[e - task.heads.start];
        let Head { rows: Rows { keys, .. }, mu, lost, nu, lost_nu, values, kept, .. } = head;
        let of_block = OfBlock { simd, block, count, mistake: call.mistake };
        for strip in call.strips.of(task.columns.len()) {
            let rows = strip.rows(block.width);
            let lost = lost.get_mut(rows.clone()).filter(|_| compensates).unwrap_or_default();
            let of = (block.written(keys), &values[strip.rows(TOKENS)]);
            let state = (&mut mu[rows], lost);
            if strip.is_wide::<S>() {
                of_block.update::<2>(of, state, ahead);
            } else {
                of_block.update::<1>(of, state, ahead);
            }
        }
        if !nu.is_empty() && !call.mistake.is(Mutation::NuNotUpdated) {
            block.add_to_nu((keys, count), nu, lost_nu);
        }
        if self.pass == Pass::Sum {
            for (kept, m) in kept.iter_mut().zip(&block.kept) {
                *kept = next_kept(*kept, *m);
            }
        }
    }
}

/// Copies as many as both have.
fn copy(from: &[f32], to: &mut [f32]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}
