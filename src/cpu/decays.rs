//! The decays of a block of tokens of a value head.

use crate::cpu::aligned::Aligned;
use crate::cpu::call::Call;
use crate::cpu::fused::mul_add;
use crate::cpu::gates::next_kept;
use crate::cpu::pairs::Pairs;
use crate::cpu::tiles::{TOKENS, width};
use crate::problem::config::{Config, Gating};

/// Tokens of a block where each row of a state has decays of its own: each pair of tokens is then
/// gone through row by row.
pub(super) const TOKENS_OF_ROW_DECAYS: usize = 16;

/// The decays of a block.
#[derive(Debug)]
pub(super) struct Decays {
    /// `A_tj`, of the tokens after j up to t, where all rows have the same.
    pub(super) between: Box<Pairs>,
    /// `P_t - 1`, of the tokens up to t, where all rows have the same.
    pub(super) kept: [f32; TOKENS],
    /// exp(decay) - 1 of each token and row, `[tokens][F]`; and their products less 1 up to each
    /// token.
    pub(super) of_rows: Vec<f32>,
    pub(super) kept_rows: Vec<f32>,
    /// A row of features, decayed from token to token.
    pub(super) row: Vec<f32>,
    /// Decayed rows of features, `[TOKENS][width]`.
    pub(super) rows: Aligned,
}

impl Decays {
    pub(super) fn new(config: &Config) -> Self {
        let features = config.features() as usize;
        let has_rows = has_row_decays(config);
        let of_rows = if has_rows { TOKENS_OF_ROW_DECAYS * features } else { 0 };
        Self {
            between: Box::new([[0.0; TOKENS]; TOKENS]),
            kept: [0.0; TOKENS],
            of_rows: vec![0.0; of_rows],
            kept_rows: vec![0.0; of_rows],
            row: vec![0.0; features],
            rows: Aligned::zeros(if has_rows { TOKENS * width(config) } else { 0 }),
        }
    }

    /// Fills the decays of tokens that decay all rows alike.
    #[inline(always)]
    pub(super) fn fill(&mut self, call: &Call<'_>, [first, count, e]: [usize; 3]) {
        let mut of_tokens = [0.0f32; TOKENS];
        for (t, kept) in of_tokens.iter_mut().enumerate().take(count) {
            call.gates.kept(first + t, e, std::slice::from_mut(kept));
        }
        let mut kept = 0.0;
        for (of_token, to) in of_tokens.iter().zip(&mut self.kept).take(count) {
            kept = next_kept(kept, *of_token);
            *to = kept;
        }
        let mut row = [0.0f32; TOKENS];
        for j in (0..count).rev() {
            let m = of_tokens.get(j + 1).copied().unwrap_or(0.0);
            for decay in &mut row {
                *decay = mul_add(m, *decay, *decay);
            }
            row[j] = 1.0;
            self.between[j] = row;
        }
    }

    /// exp(decay) - 1 of each token and row, and their products less 1 up to each token.
    #[inline(always)]
    pub(super) fn fill_rows(&mut self, call: &Call<'_>, [first, count, e]: [usize; 3]) {
        let features = self.row.len();
        let Self { kept_rows, of_rows, .. } = self;
        for (t, of_rows) in of_rows.chunks_mut(features).enumerate().take(count) {
            call.gates.kept(first + t, e, of_rows);
            let (before, rest) = kept_rows.split_at_mut(t * features);
            let kept = &mut rest[..features];
            if t == 0 {
                kept.copy_from_slice(of_rows);
                continue;
            }
            let before = &before[(t - 1) * features..];
            for ((kept, before), m) in kept.iter_mut().zip(before).zip(of_rows.iter()) {
                *kept = next_kept(*before, *m);
            }
        }
    }
}

/// True where each row of a state has decays of its own.
pub(super) fn has_row_decays(config: &Config) -> bool {
    config.gates() == Some(Gating::PerRow)
}

/// Multiplies each element by its decay, which is less 1.
#[inline(always)]
pub(super) fn decay(x: &mut [f32], kept: &[f32]) {
    for (x, kept) in x.iter_mut().zip(kept) {
        *x = mul_add(*kept, *x, *x);
    }
}

/// Rows of features by the decays of their tokens, `[tokens][F]`.
#[inline(always)]
pub(super) fn decay_rows(
    from: &[f32],
    [features, width, count]: [usize; 3],
    kept: &[f32],
    to: &mut [f32],
) {
    for t in 0..count {
        let row = &mut to[t * width..][..features];
        row.copy_from_slice(&from[t * width..][..features]);
        decay(row, &kept[t * features..]);
    }
}
