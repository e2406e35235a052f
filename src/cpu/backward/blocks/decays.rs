//! The decays of a block of tokens that decay all rows alike.

use crate::cpu::backward::vectors::DecayFactor;
use crate::cpu::gates::Gates;
use crate::cpu::pairs::{Pairs, UP_TO};
use crate::cpu::tiles::TOKENS;

/// Products of decays, multiplied one by one: what -inf forgets is 0, and a product near 0 keeps
/// its digits.
pub(super) struct Decays {
    /// `[j][t]`: of the tokens after j up to t; 0 for t before j.
    pub(super) between: Box<Pairs>,
    /// Of the tokens up to t.
    pub(super) up_to: [f32; TOKENS],
    /// Of the tokens after j.
    pub(super) after: [f32; TOKENS],
    /// Of all tokens.
    pub(super) of_block: DecayFactor,
    are_there: bool,
}

impl Decays {
    /// Of a rule that has decays, or of one that has none.
    pub(super) fn new(are_there: bool) -> Self {
        let mut between = Box::new([[0.0; TOKENS]; TOKENS]);
        for (row, mask) in between.iter_mut().zip(&UP_TO) {
            for (x, mask) in row.iter_mut().zip(mask) {
                *x = if *mask == 0 { 0.0 } else { 1.0 };
            }
        }
        let ones = [1.0; TOKENS];
        Self { between, up_to: ones, after: ones, of_block: DecayFactor::ONE, are_there }
    }

    pub(super) fn are_there(&self) -> bool {
        self.are_there
    }

    /// Those of the tokens `first .. first + count` of value head e.
    #[inline(always)]
    pub(super) fn fill(&mut self, gates: &Gates<'_>, [first, count, e]: [usize; 3]) {
        if !self.are_there {
            return;
        }
        let mut of_tokens = [DecayFactor::ONE; TOKENS];
        self.of_block = DecayFactor::ONE;
        for (t, of_token) in of_tokens.iter_mut().enumerate().take(count) {
            let mut decay = [0.0];
            gates.decays(first + t, e, &mut decay);
            *of_token = DecayFactor::new(decay[0]);
            self.of_block = self.of_block.and(*of_token);
            self.up_to[t] = self.of_block.value();
        }
        // Tokens behind the last one do not decay.
        let mut row = [0.0f32; TOKENS];
        let mut next = DecayFactor::ONE;
        for j in (0..count).rev() {
            for x in &mut row {
                *x = next.times(*x);
            }
            row[j] = 1.0;
            next = of_tokens[j];
            self.between[j] = row;
            self.after[j] = row[count - 1];
        }
    }
}
