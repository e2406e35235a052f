//! The rules with decays of heads, with betas or with both: gradients block by block of tokens, by
//! products of the rows of a block with states and with one another.
//!
//! With `P_t` the decays of a block's tokens up to t multiplied, `D_jt` those of the tokens after j
//! up to t, S the state before the block and dS the gradient of the one behind it; with `e = v`,
//! beta = 1 and no r for the rule gated; and with `dy_i = c_i do_i`, c the factor of a row of o,
//!
//! ```text
//! e_t  = v_t - P_t k'_t S - Σ_{j<t} D_jt (k'_t . k'_j) u_j     u_t = beta_t e_t
//! du_j = D_jn k'_j dS + Σ_{i>=j} D_ji (k'_j . q'_i) dy_i
//! x_j  = du_j + Σ_{t>j} D_jt (k'_j . k'_t) r_t                 r_t = -beta_t x_t
//! dv_t = beta_t x_t                                            dbeta_t = x_t . e_t
//! dq'_i = P_i dy_i S^T + Σ_{j<=i} D_ji (u_j . dy_i) k'_j
//! dk'_j = D_jn u_j dS^T + Σ_{i>=j} D_ji (u_j . dy_i) q'_i      as a write
//!       + P_j r_j S^T + Σ_{t<j} D_tj (u_t . r_j) k'_t          as what recalls
//!       + Σ_{t>j} D_jt (u_j . r_t) k'_t                        as what is recalled
//! dS   = P_n dS + Σ_i P_i q'_i^T dy_i + Σ_t P_t k'_t^T r_t     the gradient of S
//! ```
//!
//! nu is one more column of the state, with 1 in v and `-c_i (q'_i . g_i)` in dy, where g is dq'
//! without it. Gradients by decays are sums of what tokens exchange: see [`pairs::Exchanges`]. The
//! states before blocks are computed again, a segment of blocks at a time.

mod decays;
mod enter;
mod leave;
mod memory;
mod pairs;
mod solve;

use std::ops::Range;
use std::sync::PoisonError;

use pulp::{Simd, WithSimd};

use crate::cpu::ahead::fetch;
use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::vectors::dot;
use crate::cpu::backward::{AHEAD, Backward, MapGradients, Targets, Task, TaskHeads};
use crate::cpu::mutation::{Mistake, Mutation};
use crate::cpu::tiles::TOKENS;
use crate::problem::config::{Config, Gating};
use crate::problem::gradients::OutputGradients;

use enter::Entry;
use memory::{Head, Memory, Read, Results};

/// True for configs whose gradients are such products. Decays of rows are no factors of pairs.
pub(super) fn suit(config: &Config) -> bool {
    config.gates() == Some(Gating::PerHead)
}

/// The value heads of a task, in the vectors of a CPU.
pub(super) struct Blocks<'a, 'b> {
    pub(super) of: &'a Backward<'b>,
    pub(super) task: &'a Task,
    pub(super) targets: &'a Targets<'b>,
    pub(super) mistake: Mistake,
}

impl WithSimd for Blocks<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut memory = Memory::new::<S>(&self);
        let mut found = self.of.map_gradients();
        self.run(simd, &mut memory, &mut found);
        *self.task.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl Blocks<'_, '_> {
    /// True for delta rules.
    #[inline(always)]
    fn corrects(&self) -> bool {
        self.of.config.update_rule.beta().is_some()
    }

    /// F and V.
    #[inline(always)]
    fn sizes(&self) -> [usize; 2] {
        [self.of.config.features(), self.of.config.value_dim].map(|size| size as usize)
    }

    #[inline(always)]
    fn task_heads(&self) -> TaskHeads {
        self.of.task_heads(self.task)
    }

    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, memory: &mut Memory, found: &mut MapGradients) {
        let tokens = self.task.tokens.clone();
        let segment = memory.segment * TOKENS;
        let segments = tokens.clone().step_by(segment);
        let segments = segments.map(|first| first..tokens.end.min(first + segment)).enumerate();
        self.load(memory);
        for (i, segment) in segments.clone() {
            memory.heads.iter_mut().for_each(|head| head.starts[i].copy(&head.state));
            if segment.end < tokens.end {
                for block in blocks(&segment) {
                    self.enter_all(simd, &block, Entry { kept: None, updates: true }, memory);
                }
            }
        }
        for (i, segment) in segments.rev() {
            memory.heads.iter_mut().for_each(|head| head.state.copy(&head.starts[i]));
            for (place, block) in blocks(&segment).enumerate() {
                let updates = block.end < segment.end;
                self.enter_all(simd, &block, Entry { kept: Some(place), updates }, memory);
            }
            for (place, block) in blocks(&segment).enumerate().rev() {
                self.leave_all(simd, &block, place, (memory, found));
            }
        }
        self.store(memory);
    }

    /// The initial states, and the gradients of the final ones.
    fn load(&self, memory: &mut Memory) {
        let [features, values] = memory.widths;
        let initial = self.of.inputs.initial_state;
        let OutputGradients { mu, nu, .. } = self.of.gradients;
        for head in &mut memory.heads {
            let at = self.task.n * self.of.heads.value + head.of.value;
            let (sizes, by_value) = (self.sizes(), !self.corrects());
            let width = if by_value { features } else { values };
            let slices = (at, initial.map(|of| of.mu), initial.map(|of| of.nu));
            head.state.load(sizes, (width, by_value), slices);
            head.of_state.load(sizes, (values, false), (at, mu, nu));
        }
    }

    /// Gradients by the initial state.
    fn store(&self, memory: &Memory) {
        let ([features, value_dim], [_, width]) = (self.sizes(), memory.widths);
        for head in &memory.heads {
            let at = self.task.n * self.of.heads.value + head.of.value;
            self.targets.mu.with_row(at, |to| {
                for (to, from) in to.chunks_mut(value_dim).zip(head.of_state.mu.chunks(width)) {
                    to.copy_from_slice(&from[..value_dim]);
                }
            });
            if self.of.config.is_normalized() {
                let nu = head.of_state.nu.sum();
                self.targets.nu.with_row(at, |to| to.copy_from_slice(&nu[..features]));
            }
        }
    }

    /// A block of tokens enters the states of all heads.
    #[inline(always)]
    fn enter_all<S: Simd>(&self, simd: S, block: &Range<usize>, entry: Entry, memory: &mut Memory) {
        let (of, [features, value_dim], [width, value_width]) =
            (self.of, self.sizes(), memory.widths);
        let (key_dim, end) = (of.config.key_dim as usize, self.task.tokens.end);
        let Memory { heads, maps, .. } = memory;
        for (j, t) in block.clone().enumerate() {
            for Head { of: rows, keys, values, .. } in heads.iter_mut() {
                if t + AHEAD < end {
                    fetch(of.inputs.k, of.heads.k.begin(t + AHEAD, rows.key), key_dim);
                    fetch(of.inputs.v, of.heads.v.begin(t + AHEAD, rows.value), value_dim);
                }
                let key = &mut keys[j * width..][..features];
                of.of_keys.row(of.key(t, rows), rows.key, maps, key);
                values[j * value_width..][..value_dim].copy_from_slice(of.value(t, rows));
            }
        }
        for i in 0..memory.heads.len() {
            self.enter(simd, [block.start, block.len(), i], entry, memory);
        }
    }

    /// A block of tokens leaves the gradients of the states of all heads.
    #[inline(always)]
    fn leave_all<S: Simd>(
        &self,
        simd: S,
        block: &Range<usize>,
        place: usize,
        (memory, found): (&mut Memory, &mut MapGradients),
    ) {
        self.map(block, memory);
        memory.results.clear();
        for i in 0..memory.heads.len() {
            self.leave(simd, [block.start, block.len(), i], place, (memory, found));
            self.pull_writes(block, i, place, (memory, found));
        }
        self.write(block, &memory.results);
    }

    /// Features and gradients by rows of o, of a block of tokens of all heads; values where they
    /// are what is written.
    #[inline(always)]
    fn map(&self, block: &Range<usize>, memory: &mut Memory) {
        let (of, [features, value_dim], [width, value_width]) =
            (self.of, self.sizes(), memory.widths);
        let begin = self.task.tokens.start;
        let Memory { heads, maps, .. } = memory;
        for (j, t) in block.clone().enumerate().rev() {
            for Head { of: rows, keys, values, reads, .. } in heads.iter_mut() {
                let key = &mut keys[j * width..][..features];
                of.of_keys.row(of.key(t, rows), rows.key, maps, key);
                if !self.corrects() {
                    values[j * value_width..][..value_dim].copy_from_slice(of.value(t, rows));
                }
                for read in reads {
                    if t >= begin + AHEAD {
                        of.fetch(t - AHEAD, &read.of);
                    }
                    let query = &mut read.queries[j * width..][..features];
                    let row = of.query(t, &read.of);
                    read.gains[j] = of.of_queries.row(row, read.of.weights, maps, query);
                    let of_row = &mut read.of_rows[j * value_width..][..value_dim];
                    of_row.copy_from_slice(of.of_output(t, &read.of));
                }
            }
        }
    }

    /// Adds what an output head has found for queries to the results.
    #[inline(always)]
    fn pull_queries(
        &self,
        [first, count]: [usize; 2],
        read: &Read,
        (of_queries, width): (&[f32], usize),
        (results, maps, found): (&mut Results, &mut MapMemory, &mut MapGradients),
    ) {
        let (of, features, key_dim) = (self.of, self.sizes()[0], self.of.config.key_dim as usize);
        let TaskHeads { query: heads, .. } = self.task_heads();
        for j in 0..count {
            let column = (j * heads.len() + read.of.query - heads.start) * key_dim;
            let to = (&mut results.queries[column..][..key_dim], &mut *found);
            let row = (of.query(first + j, &read.of), read.of.weights);
            let query = (&read.queries[j * width..][..features], read.gains[j]);
            of.pull_back_query(row, query, maps, &of_queries[j * width..][..features], to);
        }
    }

    /// Adds what head i of the task has found for a block of tokens to the results.
    #[inline(always)]
    fn pull_writes(
        &self,
        block: &Range<usize>,
        i: usize,
        place: usize,
        (memory, found): (&mut Memory, &mut MapGradients),
    ) {
        let ([features, value_dim], [width, value_width]) = (self.sizes(), memory.widths);
        let (of, key_dim, count) = (self.of, self.of.config.key_dim as usize, memory.heads.len());
        let TaskHeads { key: key_heads, .. } = self.task_heads();
        let Memory { heads, of_block, results, maps, .. } = memory;
        let Head { of: rows, keys, kept, .. } = &heads[i];
        let is_late = self.mistake.is(Mutation::DecaySumsLate);
        let decays = of_block.exchanges.sums(block.len(), is_late);
        for (j, t) in block.clone().enumerate() {
            let of_value = &of_block.of_values[j * value_width..][..value_dim];
            let to = &mut results.values[(j * count + i) * value_dim..][..value_dim];
            let beta = of_block.betas[j];
            for (to, x) in to.iter_mut().zip(of_value) {
                *to = beta * x;
            }
            if self.corrects() {
                let entered = &kept[place].entered[j * value_width..][..value_dim];
                results.betas[j * count + i] = dot(of_value, entered);
            }
            results.decays[j * count + i] = decays[j];
            let column = (j * key_heads.len() + rows.key - key_heads.start) * key_dim;
            let to = (&mut results.keys[column..][..key_dim], &mut found.of_keys);
            let row = (of.key(t, rows), &keys[j * width..][..features], 1.0);
            let of_key = &of_block.of_keys[j * width..][..features];
            of.of_keys.pull_back(row, rows.key, maps, of_key, to);
        }
    }

    /// Writes the results of a block of tokens.
    #[inline(always)]
    fn write(&self, block: &Range<usize>, results: &Results) {
        let [key_dim, value_dim] =
            [self.of.config.key_dim, self.of.config.value_dim].map(|size| size as usize);
        let (TaskHeads { query, key, value }, turn) = (self.task_heads(), self.task.values.start);
        let Targets { q, k, v, decays, betas, .. } = self.targets;
        let has_decays = self.of.config.update_rule.decay().is_some();
        for (is_there, to, from, heads, len) in [
            (true, q, &results.queries, &query, key_dim),
            (true, k, &results.keys, &key, key_dim),
            (true, v, &results.values, &value, value_dim),
            (has_decays, decays, &results.decays, &value, 1),
            (self.corrects(), betas, &results.betas, &value, 1),
        ] {
            if !is_there {
                continue;
            }
            let width = heads.len() * len;
            to.write(block.clone(), turn, |t, row| {
                let from = &from[(t - block.start) * width..][..width];
                row[heads.start * len..][..width].copy_from_slice(from);
            });
        }
    }
}

/// The blocks of a segment.
fn blocks(
    segment: &Range<usize>,
) -> impl DoubleEndedIterator<Item = Range<usize>> + ExactSizeIterator + use<> {
    let end = segment.end;
    segment.clone().step_by(TOKENS).map(move |first| first..end.min(first + TOKENS))
}

/// `to_t = factors_t rows_t`, of `count` rows.
#[inline(always)]
fn scale_rows(rows: &[f32], width: usize, factors: &[f32; TOKENS], count: usize, to: &mut [f32]) {
    let rows = rows.chunks(width).zip(to.chunks_mut(width));
    for ((row, to), factor) in rows.zip(factors).take(count) {
        for (to, x) in to.iter_mut().zip(row) {
            *to = factor * x;
        }
    }
}
