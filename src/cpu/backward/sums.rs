//! The rule `linear`: gradients block by block of tokens, by products that are the forward pass
//! with the roles of the tensors exchanged.
//!
//! With `c_i` the factor of row i of o and `dn_i = c_i do_i`,
//!
//! ```text
//! g_i   = Σ_{j<=i} (dn_i . v_j) k'_j           dn, v, k'  as q, k, v
//! dq'_i = g_i - c_i (q'_i . g_i) nu_i
//! dk'_j = Σ_{i>=j} (v_j . dn_i) q'_i + dnu_j   v, dn, q'  with time reversed
//! dv_j  = Σ_{i>=j} (k'_j . q'_i) dn_i          k', q', dn  with time reversed
//! dnu_j = Σ_{i>=j} (-c_i (q'_i . g_i)) q'_i
//! ```

mod memory;
mod product;

use std::ops::Range;
use std::sync::PoisonError;

use pulp::{Simd, WithSimd};

use crate::cpu::backward::vectors::{DecayFactor, dot};
use crate::cpu::backward::{AHEAD, Backward, MapGradients, Targets, Task, TaskHeads, targets};
use crate::cpu::block::row_factor;
use crate::cpu::mutation::Mistake;
use crate::cpu::tiles::TOKENS;
use crate::problem::config::Config;
use crate::problem::gradients::OutputGradients;
use crate::problem::update_rule::UpdateRule;

use memory::{Head, Memory};

/// True for configs whose gradients are such products.
pub(super) fn suit(config: &Config) -> bool {
    config.update_rule == UpdateRule::Linear
}

/// The value heads of a task, in the vectors of a CPU.
pub(super) struct Sums<'a, 'b> {
    pub(super) of: &'a Backward<'b>,
    pub(super) task: &'a Task,
    pub(super) targets: &'a Targets<'b>,
    pub(super) mistake: Mistake,
}

impl WithSimd for Sums<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut memory = Memory::new::<S>(&self);
        let mut found = self.of.map_gradients();
        self.forward(simd, &mut memory, &mut found);
        self.reverse(simd, &mut memory, &mut found);
        *self.task.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl Sums<'_, '_> {
    /// The output heads of the task.
    #[inline(always)]
    fn heads(&self) -> Range<usize> {
        let group = self.of.heads.value_group;
        self.task.values.start * group..self.task.values.end * group
    }

    #[inline(always)]
    fn task_heads(&self) -> TaskHeads {
        self.of.task_heads(self.task)
    }

    /// F and V.
    #[inline(always)]
    fn sizes(&self) -> [usize; 2] {
        [self.of.config.features(), self.of.config.value_dim].map(|size| size as usize)
    }

    /// Gradients by queries; keeps the factors that the other direction needs.
    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, memory: &mut Memory, found: &mut MapGradients) {
        let (tokens, group) = (self.task.tokens.clone(), self.of.heads.value_group);
        if let Some(initial) = self.of.inputs.initial_state {
            for (i, head) in memory.heads.iter_mut().enumerate() {
                let state = self.task.n * self.of.heads.value + self.task.values.start + i / group;
                head.load(self.sizes(), memory.widths, (state, Some(initial.mu), Some(initial.nu)));
            }
        }
        for first in tokens.clone().step_by(TOKENS) {
            let block = first..tokens.end.min(first + TOKENS);
            self.map_forward(&block, memory);
            memory.to_elements.fill(0.0);
            for i in 0..memory.heads.len() {
                let [features, values] = memory.widths;
                let Head { of_rows, values: v, keys, by_value, nu, .. } = &mut memory.heads[i];
                let rows = [of_rows, v, keys].map(|rows| &rows[..]);
                let to = &mut memory.of_features;
                memory.product.run(simd, block.len(), rows, [values, features], by_value, to);
                nu.end_block(DecayFactor::ONE);
                self.pull_query(&block, i, memory, found);
            }
            let (queries, key_dim) = (self.task_heads().query, self.of.config.key_dim as usize);
            let width = queries.len() * key_dim;
            self.targets.q.write(block, self.task.values.start, |t, row| {
                let from = &memory.to_elements[(t - first) * width..][..width];
                row[queries.start * key_dim..][..width].copy_from_slice(from);
            });
        }
    }

    /// Gradients by keys, values and the initial state.
    #[inline(always)]
    fn reverse<S: Simd>(&self, simd: S, memory: &mut Memory, found: &mut MapGradients) {
        let (tokens, group) = (self.task.tokens.clone(), self.of.heads.value_group);
        let OutputGradients { mu, nu, .. } = self.of.gradients;
        for (i, head) in memory.heads.iter_mut().enumerate() {
            head.clear();
            // The final state counts once, however many output heads read it.
            if i.is_multiple_of(group) {
                let state = self.task.n * self.of.heads.value + self.task.values.start + i / group;
                head.load(self.sizes(), memory.widths, (state, mu, nu));
            }
        }
        for first in tokens.clone().step_by(TOKENS).rev() {
            let block = first..tokens.end.min(first + TOKENS);
            self.map_reverse(&block, memory);
            memory.to_elements.fill(0.0);
            memory.to_values.fill(0.0);
            for i in 0..memory.heads.len() {
                let [features, values] = memory.widths;
                let Memory { product, of_features, of_values, .. } = memory;
                let Head { of_rows, values: v, keys, queries, by_value, by_feature, .. } =
                    &mut memory.heads[i];
                let rows = [v, of_rows, queries].map(|rows| &rows[..]);
                product.run(simd, block.len(), rows, [values, features], by_value, of_features);
                let rows = [keys, queries, of_rows].map(|rows| &rows[..]);
                product.run(simd, block.len(), rows, [features, values], by_feature, of_values);
                self.pull_key(&block, i, memory, found);
                memory.heads[i].nu.end_block(DecayFactor::ONE);
            }
            let (key_dim, value_dim) =
                (self.of.config.key_dim as usize, self.of.config.value_dim as usize);
            let TaskHeads { key, value, .. } = self.task_heads();
            let (of_keys, of_values) = (key.len() * key_dim, value.len() * value_dim);
            self.targets.k.write(block.clone(), value.start, |t, row| {
                let from = &memory.to_elements[(t - first) * of_keys..][..of_keys];
                row[key.start * key_dim..][..of_keys].copy_from_slice(from);
            });
            self.targets.v.write(block, value.start, |t, row| {
                let from = &memory.to_values[(t - first) * of_values..][..of_values];
                row[value.start * value_dim..][..of_values].copy_from_slice(from);
            });
        }
        self.store(memory);
    }

    /// Features, nu and the factors of rows of o, of a block of tokens of all heads.
    #[inline(always)]
    fn map_forward(&self, block: &Range<usize>, memory: &mut Memory) {
        let ([features, _], [width, _]) = (self.sizes(), memory.widths);
        let (count, end) = (memory.heads.len(), self.task.tokens.end);
        for (j, t) in block.clone().enumerate() {
            for i in 0..count {
                if t + AHEAD < end {
                    self.of.fetch(t + AHEAD, &memory.heads[i].of);
                }
                let gain = self.map_token([j, t, i], memory);
                let Head { keys, queries, nus, gains, nu, .. } = &mut memory.heads[i];
                gains[j] = gain;
                let mut weight = 0.0;
                if self.of.config.is_normalized() {
                    let sum = &mut nus[j * width..][..features];
                    nu.add_to(1.0, &keys[j * width..][..features], sum);
                    weight = dot(&queries[j * width..][..features], sum);
                }
                let factor = row_factor(self.of.config, weight, gain);
                memory.factors[(t - self.task.tokens.start) * count + i] = factor;
                self.scale_output([j, t, i], factor, memory);
            }
        }
    }

    /// Features and dn of a block of tokens in reversed time, of all heads.
    #[inline(always)]
    fn map_reverse(&self, block: &Range<usize>, memory: &mut Memory) {
        let (count, begin) = (memory.heads.len(), self.task.tokens.start);
        for (j, t) in block.clone().rev().enumerate() {
            for i in 0..count {
                if t >= begin + AHEAD {
                    self.of.fetch(t - AHEAD, &memory.heads[i].of);
                }
                self.map_token([j, t, i], memory);
                let factor = memory.factors[(t - begin) * count + i];
                self.scale_output([j, t, i], factor, memory);
            }
        }
    }

    /// Features and v of token t, the j-th of its block, of output head i of the task; the query's
    /// gain.
    #[inline(always)]
    fn map_token(&self, [j, t, i]: [usize; 3], memory: &mut Memory) -> f32 {
        let of = self.of;
        let ([features, value_dim], [width, value_width]) = (self.sizes(), memory.widths);
        let Memory { heads, maps, .. } = memory;
        let Head { of: rows, keys, queries, values, .. } = &mut heads[i];
        let key = &mut keys[j * width..][..features];
        of.of_keys.row(of.key(t, rows), rows.key, maps, key);
        values[j * value_width..][..value_dim].copy_from_slice(of.value(t, rows));
        let query = &mut queries[j * width..][..features];
        of.of_queries.row(of.query(t, rows), rows.weights, maps, query)
    }

    /// dn of the same.
    #[inline(always)]
    fn scale_output(&self, [j, t, i]: [usize; 3], factor: f32, memory: &mut Memory) {
        let ([_, value_dim], [_, width]) = (self.sizes(), memory.widths);
        let Head { of: rows, of_rows, .. } = &mut memory.heads[i];
        let of_row = &mut of_rows[j * width..][..value_dim];
        for (to, x) in of_row.iter_mut().zip(self.of.of_output(t, rows)) {
            *to = factor * x;
        }
    }

    /// dq' of g, and dq of dq', of output head i of the task.
    #[inline(always)]
    fn pull_query(
        &self,
        block: &Range<usize>,
        i: usize,
        memory: &mut Memory,
        found: &mut MapGradients,
    ) {
        let of = self.of;
        let ([features, _], [width, _]) = (self.sizes(), memory.widths);
        let count = memory.heads.len();
        let (queries, key_dim) = (self.task_heads().query, of.config.key_dim as usize);
        let Head { of: rows, queries: of_head, nus, gains, .. } = &memory.heads[i];
        for (j, t) in block.clone().enumerate() {
            let query = &of_head[j * width..][..features];
            let of_query = &mut memory.of_features[j * width..][..features];
            if of.config.is_normalized() {
                let at = (t - self.task.tokens.start) * count + i;
                let taken = memory.factors[at] * dot(query, of_query);
                for (of_query, nu) in of_query.iter_mut().zip(&nus[j * width..]) {
                    *of_query -= taken * nu;
                }
                memory.taken[at] = taken;
            }
            let column = (j * queries.len() + rows.query - queries.start) * key_dim;
            let to = (&mut memory.to_elements[column..][..key_dim], &mut *found);
            let row = (of.query(t, rows), rows.weights);
            of.pull_back_query(row, (query, gains[j]), &mut memory.maps, of_query, to);
        }
    }

    /// dk and dv of output head i of the task.
    #[inline(always)]
    fn pull_key(
        &self,
        block: &Range<usize>,
        i: usize,
        memory: &mut Memory,
        found: &mut MapGradients,
    ) {
        let of = self.of;
        let ([features, value_dim], [width, value_width]) = (self.sizes(), memory.widths);
        let (count, key_dim) = (memory.heads.len(), of.config.key_dim as usize);
        let TaskHeads { key: key_heads, value: value_heads, .. } = self.task_heads();
        let Head { of: rows, keys, queries, nus, nu, .. } = &mut memory.heads[i];
        for (j, t) in block.clone().rev().enumerate() {
            let of_key = &mut memory.of_features[j * width..][..features];
            if of.config.is_normalized() {
                let taken = memory.taken[(t - self.task.tokens.start) * count + i];
                let of_nu = &mut nus[j * width..][..features];
                nu.add_to(-taken, &queries[j * width..][..features], of_nu);
                targets::add(of_key, of_nu);
            }
            let row = t - block.start;
            let column = (row * value_heads.len() + rows.value - value_heads.start) * value_dim;
            let of_value = &memory.of_values[j * value_width..];
            targets::add(&mut memory.to_values[column..][..value_dim], of_value);
            let column = (row * key_heads.len() + rows.key - key_heads.start) * key_dim;
            let to = (&mut memory.to_elements[column..][..key_dim], &mut found.of_keys);
            let row = (of.key(t, rows), &keys[j * width..][..features], 1.0);
            of.of_keys.pull_back(row, rows.key, &mut memory.maps, of_key, to);
        }
    }

    /// Gradients by the initial state.
    fn store(&self, memory: &Memory) {
        let ([features, value_dim], [_, width]) = (self.sizes(), memory.widths);
        let group = self.of.heads.value_group;
        for (i, head) in memory.heads.iter().enumerate() {
            let row = self.task.n * self.of.heads.value + self.task.values.start + i / group;
            self.targets.mu.with_row(row, |to| {
                for (to, from) in to.chunks_mut(value_dim).zip(head.by_feature.chunks(width)) {
                    targets::add(to, from);
                }
            });
            if self.of.config.is_normalized() {
                self.targets
                    .nu
                    .with_row(row, |to| targets::add(&mut to[..features], head.nu.sum()));
            }
        }
    }
}
