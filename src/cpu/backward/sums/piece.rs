//! The rows of a piece, before and after its calls.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{AHEAD, Rows, States, Sums, TaskHeads};
use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::vectors::{dot, wide_dot};
use crate::cpu::backward::{MapGradients, targets};
use crate::cpu::block::row_factor;

/// The work on the rows of a piece before and after its calls.
#[derive(Clone, Copy)]
pub(super) enum Step {
    MapForward,
    PullForward,
    MapReverse,
    PullReverse,
}

/// A step, in the vectors of a CPU.
pub(super) struct Piece<'a, 'b, 'm> {
    pub(super) sums: &'a Sums<'a, 'b>,
    pub(super) step: Step,
    pub(super) tokens: Range<usize>,
    pub(super) memory: (&'m mut Rows, &'m mut States, &'m mut MapMemory, &'m mut MapGradients),
}

impl WithSimd for Piece<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.step {
            Step::MapForward => self.map_forward(),
            Step::PullForward => self.pull_forward(),
            Step::MapReverse => self.map_reverse(),
            Step::PullReverse => self.pull_reverse(),
        }
    }
}

impl Piece<'_, '_, '_> {
    /// Features, nu and the factors of rows of o.
    #[inline(always)]
    fn map_forward(self) {
        let Self { sums: sums @ Sums { of, task, .. }, tokens, .. } = self;
        let (rows, states, maps, _) = self.memory;
        let (features, value_dim) = (of.config.features() as usize, of.config.value_dim as usize);
        let is_normalized = of.config.is_normalized();
        let (heads, count) = (sums.heads(), sums.heads().len());
        for (j, t) in tokens.enumerate() {
            for (i, h) in heads.clone().enumerate() {
                let (e, at) = (of.heads.value_head(h), j * count + i);
                if t + AHEAD < task.tokens.end {
                    of.fetch(t + AHEAD, [h, e]);
                }
                let key = &mut rows.keys[at * features..][..features];
                let query = &mut rows.queries[at * features..][..features];
                of.of_keys.row(of.key(t, e), of.heads.key_head(e), maps, key);
                let (x, head) = of.query(t, h);
                let gain = of.of_queries.row(x, head, maps, query);
                rows.gains[at] = gain;
                let mut weight = 0.0;
                if is_normalized {
                    let nu = &mut states.nu[i * features..][..features];
                    let to = &mut rows.nus[at * features..][..features];
                    for ((nu, k), to) in nu.iter_mut().zip(&*key).zip(to) {
                        *nu += f64::from(*k);
                        *to = *nu as f32;
                    }
                    weight = wide_dot(query, nu) as f32;
                }
                let factor = row_factor(of.config, weight, gain);
                states.factors[(t - task.tokens.start) * count + i] = factor;
                rows.values[at * value_dim..][..value_dim].copy_from_slice(of.value(t, e));
                let of_row = &mut rows.of_rows[at * value_dim..][..value_dim];
                for (to, x) in of_row.iter_mut().zip(of.of_output(t, h)) {
                    *to = factor * x;
                }
            }
        }
    }

    /// dq' of g, and dq of dq'.
    #[inline(always)]
    fn pull_forward(self) {
        let Self { sums: sums @ Sums { of, task, targets, .. }, tokens, .. } = self;
        let (rows, states, maps, found) = self.memory;
        let (features, key_dim) = (of.config.features() as usize, of.config.key_dim as usize);
        let (heads, count) = (sums.heads(), sums.heads().len());
        let queries = sums.task_heads().query;
        let width = queries.len() * key_dim;
        rows.to_elements.fill(0.0);
        for (j, t) in tokens.clone().enumerate() {
            for (i, h) in heads.clone().enumerate() {
                let at = j * count + i;
                let query = &rows.queries[at * features..][..features];
                let of_query = &mut rows.of_features[at * features..][..features];
                let of_task = (t - task.tokens.start) * count + i;
                if of.config.is_normalized() {
                    let taken = states.factors[of_task] * dot(query, of_query);
                    let nu = &rows.nus[at * features..][..features];
                    for (of_query, nu) in of_query.iter_mut().zip(nu) {
                        *of_query -= taken * nu;
                    }
                    states.taken[of_task] = taken;
                }
                let column = j * width + (of.heads.query_head(h) - queries.start) * key_dim;
                let to = (&mut rows.to_elements[column..][..key_dim], &mut *found);
                of.pull_back_query(of.query(t, h), (query, rows.gains[at]), maps, of_query, to);
            }
        }
        let (first, turn) = (tokens.start, task.values.start);
        targets.q.write(tokens, turn, |t, row| {
            let from = &rows.to_elements[(t - first) * width..][..width];
            row[queries.start * key_dim..][..width].copy_from_slice(from);
        });
    }

    /// Features and dn in reversed time.
    #[inline(always)]
    fn map_reverse(self) {
        let Self { sums: sums @ Sums { of, task, .. }, tokens, .. } = self;
        let (rows, states, maps, _) = self.memory;
        let (features, value_dim) = (of.config.features() as usize, of.config.value_dim as usize);
        let (heads, count) = (sums.heads(), sums.heads().len());
        for (j, t) in tokens.rev().enumerate() {
            for (i, h) in heads.clone().enumerate() {
                let (e, at) = (of.heads.value_head(h), j * count + i);
                if t >= task.tokens.start + AHEAD {
                    of.fetch(t - AHEAD, [h, e]);
                }
                let key = &mut rows.keys[at * features..][..features];
                let query = &mut rows.queries[at * features..][..features];
                of.of_keys.row(of.key(t, e), of.heads.key_head(e), maps, key);
                let (x, head) = of.query(t, h);
                of.of_queries.row(x, head, maps, query);
                rows.values[at * value_dim..][..value_dim].copy_from_slice(of.value(t, e));
                let factor = states.factors[(t - task.tokens.start) * count + i];
                let of_row = &mut rows.of_rows[at * value_dim..][..value_dim];
                for (to, x) in of_row.iter_mut().zip(of.of_output(t, h)) {
                    *to = factor * x;
                }
            }
        }
    }

    /// dk and dv.
    #[inline(always)]
    fn pull_reverse(self) {
        let Self { sums: sums @ Sums { of, task, targets, .. }, tokens, .. } = self;
        let (rows, states, maps, found) = self.memory;
        let (features, key_dim) = (of.config.features() as usize, of.config.key_dim as usize);
        let value_dim = of.config.value_dim as usize;
        let (heads, count) = (sums.heads(), sums.heads().len());
        let TaskHeads { key: key_heads, value: value_heads, .. } = sums.task_heads();
        let (of_keys, of_values) = (key_heads.len() * key_dim, value_heads.len() * value_dim);
        rows.to_elements.fill(0.0);
        rows.to_values.fill(0.0);
        let first = tokens.start;
        for (j, t) in tokens.clone().rev().enumerate() {
            for (i, h) in heads.clone().enumerate() {
                let (e, at) = (of.heads.value_head(h), j * count + i);
                let key = &rows.keys[at * features..][..features];
                let of_key = &mut rows.of_features[at * features..][..features];
                let of_task = (t - task.tokens.start) * count + i;
                if of.config.is_normalized() {
                    let taken = f64::from(states.taken[of_task]);
                    let nu = &mut states.nu[i * features..][..features];
                    let query = &rows.queries[at * features..][..features];
                    for ((nu, q), of_key) in nu.iter_mut().zip(query).zip(&mut *of_key) {
                        *nu -= taken * f64::from(*q);
                        *of_key += *nu as f32;
                    }
                }
                let column = e - value_heads.start;
                let to = &mut rows.to_values[(t - first) * of_values + column * value_dim..];
                targets::add(&mut to[..value_dim], &rows.of_values[at * value_dim..]);
                let key_head = of.heads.key_head(e);
                let column = (t - first) * of_keys + (key_head - key_heads.start) * key_dim;
                let to = (&mut rows.to_elements[column..][..key_dim], &mut found.of_keys);
                of.of_keys.pull_back((of.key(t, e), key, 1.0), key_head, maps, of_key, to);
            }
        }
        let turn = value_heads.start;
        targets.k.write(tokens.clone(), turn, |t, row| {
            let from = &rows.to_elements[(t - first) * of_keys..][..of_keys];
            row[key_heads.start * key_dim..][..of_keys].copy_from_slice(from);
        });
        targets.v.write(tokens, turn, |t, row| {
            let from = &rows.to_values[(t - first) * of_values..][..of_values];
            row[value_heads.start * value_dim..][..of_values].copy_from_slice(from);
        });
    }
}
