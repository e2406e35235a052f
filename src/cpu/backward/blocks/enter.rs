//! A block of tokens enters the state of a value head.

use pulp::Simd;

use super::decays::Decays;
use super::memory::{Head, Memory, OfBlock};
use super::pairs::{self, BEFORE};
use super::solve::Write;
use super::{Blocks, scale_rows};
use crate::cpu::backward::products::{Accumulate, on_strips};
use crate::cpu::backward::vectors::DecayFactor;
use crate::cpu::mutation::Mutation;
use crate::cpu::pairs::products;
use crate::cpu::tiles::TOKENS;
use crate::cpu::transpose::transpose;

/// What a block of tokens does to a state.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The block of its segment as which the state before it, and what it writes, is kept.
    pub(super) kept: Option<usize>,
    /// False where nothing needs the state behind it.
    pub(super) updates: bool,
}

impl Blocks<'_, '_> {
    /// The tokens `first .. first + count` enter the state of head i of the task.
    #[inline(always)]
    pub(super) fn enter<S: Simd>(
        &self,
        simd: S,
        [first, count, i]: [usize; 3],
        Entry { kept: place, updates }: Entry,
        memory: &mut Memory,
    ) {
        let corrects = self.corrects();
        let [features, values] = memory.widths;
        let Memory { heads, of_block, .. } = memory;
        self.fill_gates([first, count, heads[i].of.value], of_block);
        let OfBlock { decays, betas, transposed, scaled, pairs, entered, .. } = of_block;
        let Head { keys, values: v, state, kept, .. } = &mut heads[i];
        let mut kept = place.map(|place| &mut kept[place]);
        if let Some(kept) = &mut kept {
            match corrects {
                true => transpose(simd, &state.mu, [features, values], (&mut kept.mu, features)),
                false => kept.mu.copy_from_slice(&state.mu),
            }
            kept.nu.copy_from_slice(state.nu.sum());
        }
        if corrects {
            let transposed = &mut transposed[..features * TOKENS];
            transpose(simd, keys, [count, features], (transposed, TOKENS));
            products(simd, (keys, features), transposed, count, pairs);
            pairs::decay(pairs, &decays.between, &BEFORE, count);
            let entered = match &mut kept {
                Some(kept) => &mut kept.entered,
                None => entered,
            };
            let write = Write {
                count,
                keys: (keys, features),
                decays: &decays.up_to,
                state: &state.mu,
                pairs,
                betas,
                values: (v, values),
                entered,
            };
            on_strips(simd, values, write);
            if let Some(kept) = &mut kept {
                kept.of_keys.fill(**pairs);
            }
        }
        if !updates || count < TOKENS && self.mistake.is(Mutation::RaggedBlockSkipped) {
            return;
        }
        scale_rows(keys, features, &decays.after, count, scaled);
        let decay = self.state_decay(decays);
        let (keys, v) = ((&scaled[..], features), (&v[..], values));
        let (columns, rows) = if corrects { (keys, v) } else { (v, keys) };
        let mu = &mut state.mu;
        on_strips(simd, rows.1, Accumulate { count, decay, columns, rows, state: mu });
        if !state.nu.sum().is_empty() && !self.mistake.is(Mutation::NuNotUpdated) {
            for key in scaled.chunks(features).take(count) {
                state.nu.add(1.0, key);
            }
            state.nu.end_block(decay.unwrap_or(DecayFactor::ONE));
        }
        if self.mistake.is(Mutation::StateNotCarried) {
            state.clear();
        }
    }

    /// The decays and betas of the tokens `first .. first + count` of value head e.
    #[inline(always)]
    pub(super) fn fill_gates(&self, [first, count, e]: [usize; 3], of_block: &mut OfBlock) {
        let OfBlock { decays, betas, .. } = of_block;
        decays.fill(&self.of.gates, [first, count, e]);
        if self.corrects() && !self.mistake.is(Mutation::BetaForgotten) {
            for (t, beta) in betas.iter_mut().enumerate().take(count) {
                *beta = self.of.gates.beta(first + t, e);
            }
        }
    }

    /// The decay of a state, in either direction.
    #[inline(always)]
    pub(super) fn state_decay(&self, decays: &Decays) -> Option<DecayFactor> {
        let is_there = decays.are_there() && !self.mistake.is(Mutation::DecayForgotten);
        is_there.then_some(decays.of_block)
    }
}
