//! The work of one thread, and the states between segments of a sequence.

use std::ops::Range;

use crate::cpu::aligned::Aligned;
use crate::cpu::strips::Strip;
use crate::cpu::tiles::width;
use crate::problem::config::Config;

/// Some tokens of some columns of value heads of a sequence. Heads that are neighbours in memory go
/// through the tokens together: so their rows are read and written in long pieces, which the CPU
/// fetches ahead.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) n: usize,
    pub(super) heads: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) tokens: Range<usize>,
    /// Tokens before them that enter the state first, and whose outputs another task has.
    pub(super) before: Range<usize>,
    /// The segment of the columns' tokens that it is, where these are cut.
    pub(super) segment: Option<Segment>,
    /// True if its tokens are the last: the state after them is the final one.
    pub(super) is_last: bool,
}

impl Task {
    /// Tokens that enter the state.
    pub(super) fn entering(&self) -> usize {
        self.before.len() + self.tokens.len()
    }
}

/// A segment of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The index of the state before it; that of the next segment is the next.
    pub(super) start: usize,
    pub(super) is_first: bool,
}

/// The state before a segment: what the one before it adds, and then what all before it add.
#[derive(Debug)]
pub(super) struct Start {
    /// Rows of a strip.
    rows: usize,
    pub(super) mu: Aligned,
    pub(super) nu: Vec<f32>,
    /// The share of each row that the segment before keeps, less 1; empty without decays.
    pub(super) kept: Vec<f32>,
}

impl Start {
    /// For as many columns as strips fill.
    pub(super) fn new(config: &Config, columns: usize) -> Self {
        let features = config.features() as usize;
        let rows = width(config);
        Self {
            rows,
            mu: Aligned::zeros(rows * columns),
            nu: vec![0.0; if config.is_normalized() { features } else { 0 }],
            kept: vec![0.0; if config.decay_rows() > 0 { features } else { 0 }],
        }
    }

    /// Adds what the start before keeps of itself over the segment between them, of these strips.
    pub(super) fn join(&mut self, before: &Self, strips: impl Iterator<Item = Strip>) {
        for strip in strips {
            let rows = strip.rows(self.rows);
            let before = before.mu[rows.clone()].chunks(strip.width);
            for (f, (mu, before)) in self.mu[rows].chunks_mut(strip.width).zip(before).enumerate() {
                let kept = self.kept.get(f).copied().unwrap_or(0.0);
                mu.iter_mut().zip(before).for_each(|(mu, x)| *mu += x + kept * x);
            }
        }
        for (f, (nu, x)) in self.nu.iter_mut().zip(&before.nu).enumerate() {
            *nu += x + self.kept.get(f).copied().unwrap_or(0.0) * x;
        }
    }
}
