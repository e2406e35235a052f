//! A task's tokens, block by block.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

use crate::cpu::ahead::Ahead;
use crate::cpu::block::Block;
use crate::cpu::call::Call;
use crate::cpu::gates::next_kept;
use crate::cpu::mutation::Mutation;
use crate::cpu::rows::{Rows, TOKENS, width};
use crate::cpu::scratch::{Head, Scratch, is_long};
use crate::cpu::step::Token;
use crate::cpu::task::{Segment, Start, Task};
use crate::cpu::tiles::{self, HasWide, ROWS};

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
        let columns = self.call.config.value_dim as usize;
        if HasWide::<S>::TILES && tiles::vectors::<S>(columns) == 2 {
            self.run::<S, 2>(simd);
        } else {
            self.run::<S, 1>(simd);
        }
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
    fn run<S: Simd, const N: usize>(mut self, simd: S) {
        let columns = N * S::F32_LANES;
        for e in self.task.heads.clone() {
            self.load(e, columns);
        }
        let pass = self.pass;
        for (tokens, pass) in [(&self.task.before, Pass::State), (&self.task.tokens, pass)] {
            self.pass = pass;
            self.run_blocks::<S, N>(simd, tokens);
        }
        for e in self.task.heads.clone() {
            self.store(e, columns);
        }
    }

    /// Tokens, block by block.
    #[inline(always)]
    fn run_blocks<S: Simd, const N: usize>(&mut self, simd: S, tokens: &Range<usize>) {
        let columns = N * S::F32_LANES;
        let most = Block::tokens(self.call.config);
        let corrects = self.call.config.update_rule.beta().is_some();
        let has_outputs = self.pass == Pass::Outputs;
        let strips = self.task.heads.len() * self.task.columns.len().div_ceil(columns);
        let tiles = strips * (width(self.call.config) + most) / ROWS;
        let mut ahead = Ahead::new(self.call, self.task, tiles, most);
        for first in tokens.clone().step_by(most) {
            let count = most.min(tokens.end - first);
            let is_last = first + count == self.task.tokens.end;
            ahead.begin(tokens.end.min(first + most)..tokens.end.min(first + 2 * most));
            self.fill_rows::<S, N>(first, count);
            for e in self.task.heads.clone() {
                let Scratch { block, heads, .. } = &mut *self.scratch;
                let keys = &heads[e - self.task.heads.start].rows.keys;
                block.fill_keys(simd, self.call, [first, count, e], keys);
                if corrects {
                    self.correct::<S, N>(simd, e, count);
                }
                if has_outputs {
                    self.outputs::<S, N>(simd, [first, count, e], &mut ahead);
                }
                if !(count < most && self.call.mistake.is(Mutation::RaggedBlockSkipped)) {
                    self.update::<S, N>(simd, e, count, &mut ahead);
                }
                if self.call.mistake.is(Mutation::StateNotCarried) && !is_last {
                    self.scratch.heads[e - self.task.heads.start].mu.fill(0.0);
                }
            }
            if has_outputs {
                let columns = self.task.columns.len().next_multiple_of(columns);
                let row = self.task.heads.len() * self.call.heads.value_group * columns;
                let outputs = &self.scratch.outputs;
                self.call.write_rows(self.task, first..first + count, columns, |t| {
                    &outputs[(t - first) * row..]
                });
            }
        }
    }

    /// The state of a value head before the first token.
    fn load(&mut self, e: usize, width: usize) {
        let Self { call, task, starts, pass, scratch } = self;
        let head = &mut scratch.heads[e - task.heads.start];
        let Head { mu, lost, nu, lost_nu, kept, .. } = head;
        mu.fill(0.0);
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
        let strip_len = block_width(call) * width;
        call.states.read([task.n, e], |from_mu, from_nu| {
            for (begin, rows) in task.columns.clone().step_by(width).zip(mu.chunks_mut(strip_len)) {
                let columns = begin..task.columns.end.min(begin + width);
                for (row, from) in rows.chunks_mut(width).zip(from_mu.chunks(value_dim)) {
                    row[..columns.len()].copy_from_slice(&from[columns.clone()]);
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
    fn store(&mut self, e: usize, width: usize) {
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
        let strip_len = block_width(call) * width;
        let is_first = task.columns.start == 0;
        call.states.write([task.n, e], is_first, |to_mu, to_nu| {
            for (begin, rows) in task.columns.clone().step_by(width).zip(mu.chunks(strip_len)) {
                let columns = begin..task.columns.end.min(begin + width);
                for (row, to) in rows.chunks(width).zip(to_mu.chunks_mut(value_dim)) {
                    to[columns.clone()].copy_from_slice(&row[..columns.len()]);
                }
            }
            to_nu.copy_from_slice(&nu[..to_nu.len()]);
        });
    }

    /// Features and values of a block of tokens, of all value heads; of queries where they are read.
    #[inline(always)]
    fn fill_rows<S: Simd, const N: usize>(&mut self, first: usize, count: usize) {
        let (call, task) = (self.call, self.task);
        let Scratch { heads, row, .. } = &mut *self.scratch;
        let width = N * S::F32_LANES;
        for (e, head) in task.heads.clone().zip(heads) {
            head.rows.fill_keys(call, [first, count, e], row);
            if self.pass == Pass::Outputs {
                head.rows.fill_queries(call, [first, count, e], row);
            }
            let strips = head.values.chunks_mut(TOKENS * width);
            for (begin, values) in task.columns.clone().step_by(width).zip(strips) {
                let len = width.min(task.columns.end - begin);
                for (t, to) in values.chunks_mut(width).enumerate().take(count) {
                    let at = call.heads.value(first + t, e) + begin;
                    call.v.copy(at, call.config.dtype, &mut to[..len]);
                    to[len..].fill(0.0);
                }
            }
        }
    }

    /// `u_t = beta_t (v_t - r_t - Σ_{j<t} (k'_t A_tj . k'_j) u_j)`, by forward substitution.
    #[inline(always)]
    fn correct<S: Simd, const N: usize>(&mut self, simd: S, e: usize, count: usize) {
        let width = N * S::F32_LANES;
        let Scratch { block, heads, .. } = &mut *self.scratch;
        let Head { mu, values, .. } = &mut heads[e - self.task.heads.start];
        let recall = block.recall().as_chunks::<ROWS>().0;
        let of_keys = block.of_keys.as_flattened().as_chunks::<ROWS>().0;
        let strips = self.task.columns.len().div_ceil(width);
        let states = mu.chunks(block.width * width).zip(values.chunks_mut(TOKENS * width));
        for (state, values) in states.take(strips) {
            let state = tiles::rows_of::<S, N>(state);
            let values = tiles::rows_of_mut::<S, N>(values);
            for first in (0..count).step_by(ROWS) {
                let zeros = tiles::zeros::<S, N>(simd);
                let (before, of_tile) = values.split_at_mut(first);
                let recall = (&recall[first / ROWS..], TOKENS / ROWS);
                let sums = tiles::multiply(simd, recall, state, zeros);
                let pairs = (&of_keys[first / ROWS..], TOKENS / ROWS);
                let sums = tiles::multiply(simd, pairs, &*before, sums);
                for (r, mut sums) in sums.into_iter().enumerate() {
                    let (before, rest) = of_tile.split_at_mut(r);
                    let pairs = block.of_keys[first..].iter().map(|pairs| pairs[first + r]);
                    for (pair, before) in pairs.zip(&*before) {
                        tiles::add(simd, pair, before, &mut sums);
                    }
                    for (u, sum) in rest[0].iter_mut().zip(sums) {
                        *u = simd.sub_f32s(*u, sum);
                    }
                    rest[0] = tiles::scale(simd, block.betas[first + r], rest[0]);
                }
            }
        }
    }

    /// o of all output heads of a value head.
    #[inline(always)]
    fn outputs<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        [first, count, e]: [usize; 3],
        ahead: &mut Ahead<'_>,
    ) {
        let (call, task, width) = (self.call, self.task, N * S::F32_LANES);
        let (group, head) = (call.heads.value_group, e - task.heads.start);
        let Scratch { block, heads, outputs, row, .. } = &mut *self.scratch;
        let Head { rows: Rows { keys, queries }, mu, nu, values, .. } = &mut heads[head];
        let columns = task.columns.len().next_multiple_of(width);
        for (h, queries) in queries.iter_mut().enumerate() {
            let tokens = [first, count, e * group + h];
            block.fill_queries(simd, call, tokens, (keys, queries), (nu, row));
            let factors = block.queries.as_chunks::<ROWS>().0;
            let of_queries = block.of_queries.as_flattened().as_chunks::<ROWS>().0;
            let strips = mu.chunks(block.width * width).zip(values.chunks(TOKENS * width));
            for (strip, (state, values)) in strips.enumerate().take(columns / width) {
                let state = tiles::rows_of::<S, N>(state);
                let values = tiles::rows_of::<S, N>(values);
                for t in (0..count).step_by(ROWS) {
                    ahead.fetch();
                    let zeros = tiles::zeros::<S, N>(simd);
                    let factors = (&factors[t / ROWS..], TOKENS / ROWS);
                    let sums = tiles::multiply(simd, factors, state, zeros);
                    let pairs = (&of_queries[t / ROWS..], TOKENS / ROWS);
                    let mut sums = tiles::multiply(simd, pairs, &values[..t], sums);
                    // Within the tile a token sees those up to itself.
                    let pairs = of_queries[t * TOKENS / ROWS..]
                        .iter()
                        .skip(t / ROWS)
                        .step_by(TOKENS / ROWS);
                    for ((j, value), pairs) in values[t..t + ROWS].iter().enumerate().zip(pairs) {
                        for r in j + usize::from(call.mistake.is(Mutation::MaskOffByOne))..ROWS {
                            tiles::add(simd, pairs[r], value, &mut sums[r]);
                        }
                    }
                    for (r, sums) in sums.into_iter().enumerate() {
                        let row = (t + r) * task.heads.len() * group + head * group + h;
                        let at = row * columns + strip * width;
                        tiles::rows_of_mut::<S, N>(&mut outputs[at..at + width])[0] =
                            tiles::scale(simd, block.factors[t + r], sums);
                    }
                }
            }
        }
    }

    /// `S = P_n S + Σ_j (k'_j A_nj)^T u_j`, and nu alike.
    #[inline(always)]
    fn update<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        e: usize,
        count: usize,
        ahead: &mut Ahead<'_>,
    ) {
        let width = N * S::F32_LANES;
        let is_summed = self.pass == Pass::Sum;
        let compensates = is_long(self.task.entering());
        let decays = !self.call.mistake.is(Mutation::DecayForgotten);
        let Scratch { block, heads, .. } = &mut *self.scratch;
        let head = &mut heads[e - self.task.heads.start];
        let Head { rows: Rows { keys, .. }, mu, lost, nu, lost_nu, values, kept } = head;
        let tiles_of_row = block.width / ROWS;
        let strip_len = block.width * width;
        let strips = self.task.columns.len().div_ceil(width);
        let written = block.written(keys).as_chunks::<ROWS>().0;
        for strip in 0..strips {
            let values = &tiles::rows_of::<S, N>(&values[strip * TOKENS * width..])[..count];
            let state = tiles::rows_of_mut::<S, N>(&mut mu[strip * strip_len..][..strip_len]);
            let lost = lost.get_mut(strip * strip_len..(strip + 1) * strip_len);
            let lost = lost.filter(|_| compensates).unwrap_or_default();
            let mut lost = tiles::rows_of_mut::<S, N>(lost).iter_mut();
            for (tile, rows) in state.chunks_mut(ROWS).enumerate() {
                ahead.fetch();
                let zeros = tiles::zeros::<S, N>(simd);
                let written = (&written[tile..], tiles_of_row);
                let sums = tiles::multiply(simd, written, values, zeros);
                for (r, (row, sums)) in rows.iter_mut().zip(&sums).enumerate() {
                    let kept = block.kept.get(tile * ROWS + r).copied().filter(|_| decays);
                    tiles::accumulate(simd, kept, sums, row, lost.next());
                }
            }
        }
        if !nu.is_empty() && !self.call.mistake.is(Mutation::NuNotUpdated) {
            block.add_to_nu((keys, count), nu, lost_nu);
        }
        if is_summed {
            for (kept, m) in kept.iter_mut().zip(&block.kept) {
                *kept = next_kept(*kept, *m);
            }
        }
    }
}

/// Elements from one row of features to the next.
fn block_width(call: &Call<'_>) -> usize {
    width(call.config)
}

/// Copies as many as both have.
fn copy(from: &[f32], to: &mut [f32]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}
