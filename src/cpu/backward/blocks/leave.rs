//! A block of tokens leaves the gradient of the state of a value head.

use pulp::Simd;

use super::memory::{Head, Kept, Memory, OfBlock, Read, State};
use super::pairs::{self, BEFORE, Mask};
use super::solve::WriteBack;
use super::{Blocks, scale_rows};
use crate::cpu::backward::MapGradients;
use crate::cpu::backward::products::{Accumulate, AddEarlier, AddLater, ReadState, on_strips};
use crate::cpu::backward::targets;
use crate::cpu::backward::vectors::{DecayFactor, add, dot_of_vectors};
use crate::cpu::block::row_factor;
use crate::cpu::mutation::Mutation;
use crate::cpu::pairs::{UP_TO, products};
use crate::cpu::tiles::TOKENS;
use crate::cpu::transpose::transpose;

/// Rows that read the state as it decays and what tokens wrote, and the gradients by what they
/// read.
struct Reading<'a> {
    rows: &'a [f32],
    of_read: &'a [f32],
    /// The tokens that each reads.
    mask: &'a Mask,
    /// That of the gradient of the state, before this one adds to it.
    decay: Option<DecayFactor>,
    /// False where it adds nothing, which is a mistake.
    updates: bool,
}

impl Blocks<'_, '_> {
    /// The gradients by all that head i of the task has of the tokens `first .. first + count`, the
    /// block `place` of its segment; the gradient of the state behind them becomes that of the one
    /// before.
    #[inline(always)]
    pub(super) fn leave<S: Simd>(
        &self,
        simd: S,
        [first, count, i]: [usize; 3],
        place: usize,
        (memory, found): (&mut Memory, &mut MapGradients),
    ) {
        let widths = memory.widths;
        let [features, values] = widths;
        let Memory { heads, of_block, results, maps, .. } = memory;
        self.fill_gates([first, count, heads[i].of.value], of_block);
        let Head { keys, values: v, reads, of_state, kept, .. } = &mut heads[i];
        let kept = &kept[place];
        if self.corrects() {
            scale_rows(&kept.entered, values, &of_block.betas, count, v);
        }
        of_block.write_back(simd, count, widths, [keys, v], (kept, of_state));
        let state_decay = self.state_decay(&of_block.decays);
        let updates = count == TOKENS || !self.mistake.is(Mutation::RaggedBlockSkipped);
        for (h, read) in reads.iter_mut().enumerate() {
            let transposed = &mut of_block.transposed[..features * TOKENS];
            transpose(simd, &read.queries, [count, features], (transposed, TOKENS));
            products(simd, (keys, features), transposed, count, &mut of_block.pairs);
            let is_hidden = self.mistake.is(Mutation::MaskOffByOne);
            let mask = if is_hidden { &BEFORE } else { &UP_TO };
            pairs::decay(&mut of_block.pairs, &of_block.decays.between, mask, count);
            let factors = self.divide(simd, count, widths, kept, of_block, read);
            let decay = state_decay.filter(|_| h == 0);
            let reading =
                Reading { rows: &read.queries, of_read: &read.of_rows, mask, decay, updates };
            of_block.read_state(simd, count, widths, v, kept, &reading);
            self.take_weights(simd, count, features, kept, of_block, (read, &factors, of_state));
            let to = (&mut of_block.of_values[..], values);
            let of_values = AddLater { count, pairs: &of_block.pairs, rows: &read.of_rows, to };
            on_strips(simd, values, of_values);
            of_block.spread(simd, count, widths, keys, &reading, of_state);
            let of_queries = (&of_block.of_reads[..], features);
            self.pull_queries([first, count], read, of_queries, (results, maps, found));
        }
        if self.corrects() {
            let rows = [&keys[..], &v[..]];
            self.recall_back(simd, count, widths, rows, (kept, of_block, of_state, updates));
        }
        of_state.nu.end_block(state_decay.unwrap_or(DecayFactor::ONE));
        if self.mistake.is(Mutation::StateNotCarried) {
            of_state.clear();
        }
    }

    /// The gradients by what tokens wrote before beta, and those of what their keys recalled.
    #[inline(always)]
    fn recall_back<S: Simd>(
        &self,
        simd: S,
        count: usize,
        widths: [usize; 2],
        [keys, v]: [&[f32]; 2],
        (kept, of_block, of_state, updates): (&Kept, &mut OfBlock, &mut State, bool),
    ) {
        let [features, values] = widths;
        let OfBlock { pairs, betas, of_values, of_recalled, .. } = &mut *of_block;
        pairs.copy_from_slice(&kept.of_keys[0]);
        let is_forward = self.mistake.is(Mutation::SolveForward);
        let of_written = (&mut of_values[..], values);
        let write_back = WriteBack { count, pairs, betas, of_written, of_recalled, is_forward };
        on_strips(simd, values, write_back);
        let of_recalled = std::mem::take(&mut of_block.of_recalled);
        let (decay, mask) = (None, &BEFORE);
        let reading = Reading { rows: keys, of_read: &of_recalled, mask, decay, updates };
        of_block.read_state(simd, count, widths, v, kept, &reading);
        of_block.spread(simd, count, widths, keys, &reading, of_state);
        targets::add(&mut of_block.of_keys[..count * features], &of_block.of_reads);
        of_block.of_recalled = of_recalled;
    }

    /// The factors of rows of o, and dy: the gradients by what they are before they are divided.
    #[inline(always)]
    fn divide<S: Simd>(
        &self,
        simd: S,
        count: usize,
        [features, values]: [usize; 2],
        kept: &Kept,
        of_block: &OfBlock,
        read: &mut Read,
    ) -> [f32; TOKENS] {
        let mut weights = [0.0; TOKENS];
        if !kept.nu.is_empty() {
            let queries = read.queries.chunks(features).zip(&of_block.decays.up_to);
            for (weight, (query, decay)) in weights.iter_mut().zip(queries).take(count) {
                *weight = decay * dot_of_vectors(simd, query, &kept.nu);
            }
            pairs::add_sums(simd, &mut weights, &of_block.pairs, count);
        }
        let rows = read.of_rows.chunks_mut(values).zip(&read.gains);
        for (weight, (row, gain)) in weights.iter_mut().zip(rows).take(count) {
            *weight = row_factor(self.of.config, *weight, *gain);
            for x in row {
                *x *= *weight;
            }
        }
        weights
    }

    /// Takes off the gradients by queries, by keys and by nu what the denominators take away.
    #[inline(always)]
    fn take_weights<S: Simd>(
        &self,
        simd: S,
        count: usize,
        features: usize,
        kept: &Kept,
        of_block: &mut OfBlock,
        (read, factors, of_state): (&Read, &[f32; TOKENS], &mut State),
    ) {
        if kept.nu.is_empty() {
            return;
        }
        let OfBlock { pairs, weights, decays, exchanges, terms, of_reads, .. } = of_block;
        // q' . g
        let mut taken = *terms;
        pairs::add_sums_of_products(simd, &mut taken, (pairs, weights), count);
        for (taken, factor) in taken.iter_mut().zip(factors) {
            *taken *= factor;
        }
        pairs::subtract(simd, weights, &taken, count);
        let rows = read.queries.chunks(features).zip(of_reads.chunks_mut(features));
        for (t, (query, of_query)) in rows.enumerate().take(count) {
            let factor = -taken[t] * decays.up_to[t];
            add(of_query, factor, &kept.nu);
            exchanges.from_before[t] += factor * dot_of_vectors(simd, query, &kept.nu);
            of_state.nu.add(factor, query);
        }
    }
}

impl OfBlock {
    /// The gradients by what tokens write and by their keys, of what is behind the block, and what
    /// that has of the gradients by decays.
    #[inline(always)]
    fn write_back<S: Simd>(
        &mut self,
        simd: S,
        count: usize,
        [features, values]: [usize; 2],
        [keys, v]: [&[f32]; 2],
        (kept, of_state): (&Kept, &State),
    ) {
        let Self { decays, exchanges, of_keys, of_values, of_mu, .. } = self;
        transpose(simd, &of_state.mu, [features, values], (of_mu, features));
        let factors = &decays.after;
        let (state, to) = (&of_state.mu[..], (&mut of_values[..], values));
        on_strips(simd, values, ReadState { count, rows: (keys, features), factors, state, to });
        let (state, to) = (&of_mu[..], (&mut of_keys[..], features));
        on_strips(simd, features, ReadState { count, rows: (v, values), factors, state, to });
        let of_nu = of_state.nu.sum();
        if !of_nu.is_empty() {
            for (of_key, decay) in of_keys.chunks_mut(features).zip(factors).take(count) {
                add(of_key, *decay, of_nu);
            }
        }
        exchanges.clear();
        if decays.are_there() {
            let rows = keys.chunks(features).zip(of_keys.chunks(features));
            for (to, (key, of_key)) in exchanges.to_behind.iter_mut().zip(rows).take(count) {
                *to = dot_of_vectors(simd, key, of_key);
            }
            let across =
                dot_of_vectors(simd, &kept.mu, state) + dot_of_vectors(simd, &kept.nu, of_nu);
            exchanges.across = decays.of_block.times(across);
        }
    }

    /// The gradients by rows of what they read of the state before the block, and the pairs of
    /// those by what they read with what tokens wrote.
    #[inline(always)]
    fn read_state<S: Simd>(
        &mut self,
        simd: S,
        count: usize,
        [features, values]: [usize; 2],
        v: &[f32],
        kept: &Kept,
        reading: &Reading<'_>,
    ) {
        let Self { decays, transposed, weights, exchanges, terms, of_reads, .. } = self;
        let transposed = &mut transposed[..values * TOKENS];
        transpose(simd, reading.of_read, [count, values], (transposed, TOKENS));
        products(simd, (v, values), transposed, count, weights);
        pairs::hide(weights, reading.mask, count);
        let (rows, to) = ((reading.of_read, values), (&mut of_reads[..], features));
        let factors = &decays.up_to;
        on_strips(simd, features, ReadState { count, rows, factors, state: &kept.mu, to });
        let rows = reading.rows.chunks(features).zip(of_reads.chunks(features));
        let terms = terms.iter_mut().zip(&mut exchanges.from_before);
        for ((term, from_before), (row, of_row)) in terms.zip(rows).take(count) {
            *term = dot_of_vectors(simd, row, of_row);
            *from_before += *term;
        }
    }

    /// The rest of these, which are then whole; those by keys that were read; the gradient of the
    /// state that was read.
    #[inline(always)]
    fn spread<S: Simd>(
        &mut self,
        simd: S,
        count: usize,
        [features, values]: [usize; 2],
        keys: &[f32],
        reading: &Reading<'_>,
        of_state: &mut State,
    ) {
        let Self { decays, scaled, pairs, weights, exchanges, of_reads, of_keys, .. } = self;
        if decays.are_there() {
            // The pairs are decayed.
            pairs::add_products(&mut exchanges.within, pairs, weights, count);
        }
        pairs::decay(weights, &decays.between, reading.mask, count);
        let to = (&mut of_reads[..], features);
        on_strips(simd, features, AddEarlier { count, pairs: weights, rows: keys, to });
        let to = (&mut of_keys[..], features);
        on_strips(simd, features, AddLater { count, pairs: weights, rows: reading.rows, to });
        if !reading.updates {
            return;
        }
        scale_rows(reading.of_read, values, &decays.up_to, count, scaled);
        let (columns, rows) = ((reading.rows, features), (&scaled[..], values));
        let (decay, state) = (reading.decay, &mut of_state.mu[..]);
        on_strips(simd, values, Accumulate { count, decay, columns, rows, state });
    }
}
