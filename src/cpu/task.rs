//! Some columns of a value head of a sequence, from its first token to its last.

use std::ops::Range;

use pulp::Simd;

use super::block::{Block, Call};
use super::passes::{self, TOKENS};
use crate::problem::config::Config;
use crate::problem::state::StateSlices;

/// Tokens after which outputs go from the threads' own memory to o.
pub(super) const PANEL: usize = 512;
/// Tokens beyond which the rounding of a running sum is compensated. What a delta rule corrects does
/// not drift.
const LONG: usize = 4096;

/// Some columns of a value head of a sequence, and all that a thread needs for them.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) n: usize,
    pub(super) e: usize,
    tokens: Range<usize>,
    columns: Range<usize>,
    /// Columns of a strip.
    width: usize,
    /// mu in strips: `[strips][F][width]`.
    mu: Vec<f32>,
    /// The part of mu that rounding took, where a sequence is long; else empty.
    compensation: Vec<f32>,
    /// nu `[F]`; empty where o is not normalised.
    nu: Vec<f32>,
    block: Block,
    /// u, and what is read of the state: `[TOKENS][width]` each.
    values: Vec<f32>,
    read: Vec<f32>,
    /// Rows of o of a panel: `[tokens][group][columns]`.
    panel: Vec<f32>,
}

impl Task {
    pub(super) fn new(
        config: &Config,
        group: usize,
        width: usize,
        [n, e]: [usize; 2],
        tokens: Range<usize>,
        columns: Range<usize>,
    ) -> Self {
        let features = config.features() as usize;
        let mu = vec![0.0; columns.len().div_ceil(width) * features * width];
        let is_long = tokens.len() > LONG && config.update_rule.beta().is_none();
        let panel = tokens.len().min(PANEL) * group * columns.len();
        Self {
            n,
            e,
            width,
            compensation: vec![0.0; if is_long { mu.len() } else { 0 }],
            mu,
            nu: vec![0.0; if config.is_normalized() { features } else { 0 }],
            block: Block::new(config, group),
            values: vec![0.0; TOKENS * width],
            read: vec![0.0; TOKENS * width],
            panel: vec![0.0; panel],
            tokens,
            columns,
        }
    }

    /// Starts from the initial state, or from zero.
    pub(super) fn load(&mut self, call: &Call<'_>, initial: Option<StateSlices<'_>>) {
        self.compensation.fill(0.0);
        let Some(initial) = initial else {
            self.mu.fill(0.0);
            self.nu.fill(0.0);
            return;
        };
        let (features, value_dim) =
            (call.config.features() as usize, call.config.value_dim as usize);
        let (width, state) = (self.width, self.n * call.heads.value + self.e);
        for (strip, rows) in self.mu.chunks_mut(features * width).enumerate() {
            let begin = self.columns.start + strip * width;
            for (f, row) in rows.chunks_mut(width).enumerate() {
                let from = &initial.mu[(state * features + f) * value_dim..][..value_dim];
                let from = &from[begin..self.columns.end.min(begin + width)];
                row[..from.len()].copy_from_slice(from);
            }
        }
        let len = self.nu.len();
        self.nu.copy_from_slice(&initial.nu[state * len..][..len]);
    }

    /// Its tokens of the panel that begins `begin` tokens after the first.
    pub(super) fn panel_tokens(&self, begin: usize) -> Range<usize> {
        let first = (self.tokens.start + begin).min(self.tokens.end);
        first..self.tokens.end.min(first + PANEL)
    }

    #[inline(always)]
    pub(super) fn run<S: Simd>(&mut self, simd: S, call: &Call<'_>, begin: usize) {
        let tokens = self.panel_tokens(begin);
        for first in tokens.clone().step_by(TOKENS) {
            let count = TOKENS.min(tokens.end - first);
            self.block.fill(call, first, count, self.e, &mut self.nu);
            let strip_len = call.config.features() as usize * self.width;
            for strip in 0..self.mu.len() / strip_len {
                self.run_strip(simd, call, [first, count, first - tokens.start], strip);
            }
        }
    }

    #[inline(always)]
    fn run_strip<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        [first, count, row]: [usize; 3],
        strip: usize,
    ) {
        let (width, group) = (self.width, call.heads.value_group);
        let value_dim = call.config.value_dim as usize;
        let strip_len = call.config.features() as usize * width;
        let mu = &mut self.mu[strip * strip_len..][..strip_len];
        let begin = self.columns.start + strip * width;
        let len = width.min(self.columns.end - begin);
        let block = &self.block;
        for (t, value) in self.values.chunks_mut(width).enumerate() {
            if t >= count || len < width {
                value.fill(0.0);
            }
            if t < count {
                let v = &call.v[call.heads.value_row(first + t, self.e) * value_dim + begin..];
                value.iter_mut().zip(&v[..len]).for_each(|(value, v)| *value = *v);
            }
        }
        if call.config.update_rule.beta().is_some() {
            passes::read(simd, &block.recall, mu, &mut self.read);
            correct(block, &self.read, &mut self.values, width, count);
        }
        for h in 0..group {
            let tokens = (&block.of_queries[h], &self.values[..], &block.factors[h]);
            passes::outputs(simd, &block.read[h], mu, tokens, &mut self.read);
            for (t, o) in self.read.chunks(width).enumerate().take(count) {
                let at = ((row + t) * group + h) * self.columns.len() + strip * width;
                let panel = &mut self.panel[at..][..len];
                panel.iter_mut().zip(o).for_each(|(panel, o)| *panel = *o);
            }
        }
        let (write, values, kept) = (&block.write, &self.values, &block.kept);
        match self.compensation.get_mut(strip * strip_len..(strip + 1) * strip_len) {
            Some(lost) if !lost.is_empty() => {
                passes::update_compensated(simd, write, values, kept, mu, lost);
            }
            _ => passes::update(simd, write, values, kept, mu),
        }
    }

    /// Copies its rows of some tokens to those of o, of which the first is `first`.
    pub(super) fn store_outputs(&self, call: &Call<'_>, begin: usize, first: usize, o: &mut [f32]) {
        let (value_dim, group) = (call.config.value_dim as usize, call.heads.value_group);
        let (heads, width) = (call.heads.output, self.columns.len());
        let skipped = (first - self.panel_tokens(begin).start) * group * width;
        let mut rows = self.panel[skipped..].chunks(width.max(1));
        for o in o.chunks_mut(heads * value_dim) {
            for h in self.e * group..(self.e + 1) * group {
                let Some(row) = rows.next() else { return };
                let at = h * value_dim + self.columns.start;
                o[at..at + row.len()].copy_from_slice(row);
            }
        }
    }

    /// Copies its columns to the state of its value head: mu `[F,V]`, nu `[F]`.
    pub(super) fn store_state(&self, call: &Call<'_>, mu: &mut [f32], nu: &mut [f32]) {
        let (features, value_dim) =
            (call.config.features() as usize, call.config.value_dim as usize);
        for (strip, rows) in self.mu.chunks(features * self.width).enumerate() {
            let begin = self.columns.start + strip * self.width;
            let end = self.columns.end.min(begin + self.width);
            for (mu, row) in mu.chunks_mut(value_dim).zip(rows.chunks(self.width)) {
                mu[begin..end].copy_from_slice(&row[..end - begin]);
            }
        }
        nu.copy_from_slice(&self.nu);
    }
}

/// `u_t = beta_t (v_t - r_t - Σ_{j<t} (k'_t A_tj . k'_j) u_j)`, by forward substitution.
#[inline(always)]
fn correct(block: &Block, recalled: &[f32], values: &mut [f32], width: usize, count: usize) {
    for t in 0..count {
        let (before, rest) = values.split_at_mut(t * width);
        let u = &mut rest[..width];
        let recalled = &recalled[t * width..][..width];
        u.iter_mut().zip(recalled).for_each(|(u, r)| *u -= r);
        for (product, before) in block.of_keys[t].iter().zip(before.chunks(width)) {
            u.iter_mut().zip(before).for_each(|(u, before)| *u = (-product).mul_add(*before, *u));
        }
        u.iter_mut().for_each(|u| *u *= block.betas[t]);
    }
}
