//! Spans of tokens that only add to a state.
//!
//! Of a row of S a token makes `decay S + k v`. With `P_t`, the product of the decays since some
//! token, `S_t / P_t` is only added to: `S_t / P_t = S_{t-1} / P_{t-1} + (k_t / P_t) v_t`, and a
//! query reads `q S_t = (q P_t) (S_t / P_t)`. So the tokens of a span, in which P is far from
//! 0 and from infinity, are those of a rule without decays. Behind it the state is multiplied by P.

use std::ops::{Range, RangeInclusive};

use crate::cpu::call::Call;
use crate::cpu::fused::mul_add;
use crate::cpu::gates::next_kept;
use crate::cpu::shares::Share;
use crate::cpu::tiles::{TOKENS, width};
use crate::problem::config::Config;

/// P in a span, 2^-40 to 2^40: keys are divided by it, and a decay may be positive.
const OF_SPAN: RangeInclusive<f32> = 9.094_947e-13..=1.099_511_6e12;

/// The decays of a block of tokens of a value head, and their products in spans.
#[derive(Debug)]
pub(super) struct Spans {
    features: usize,
    /// Elements from one row of features to the next.
    width: usize,
    /// Decays of a token: 0, 1 or F.
    decays: usize,
    /// exp(decay) - 1 of each token: `[TOKENS][decays]`.
    of_tokens: Vec<f32>,
    /// `P_t`, and the same less 1, which has more digits near 1.
    p: Vec<f32>,
    kept: Vec<f32>,
}

/// Tokens of a block that only add to the state.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) tokens: Range<usize>,
    /// True where the decays of the first are no part of P: the state is multiplied by them before.
    pub(super) decays_first: bool,
}

impl Spans {
    pub(super) fn new(config: &Config) -> Self {
        let decays = config.decay_rows() as usize;
        Self {
            features: config.features() as usize,
            width: width(config),
            decays,
            of_tokens: vec![0.0; TOKENS * decays],
            p: vec![1.0; TOKENS * decays],
            kept: vec![0.0; TOKENS * decays],
        }
    }

    /// Fills the decays of the tokens `first .. first + count` of head e.
    #[inline(always)]
    pub(super) fn fill(&mut self, call: &Call<'_>, [first, count, e]: [usize; 3]) {
        if self.decays > 0 {
            for (t, kept) in self.of_tokens.chunks_mut(self.decays).enumerate().take(count) {
                call.gates.kept(first + t, e, kept);
            }
        }
    }

    /// The tokens from `begin` on, up to `count`, with P as [`OF_SPAN`] has it.
    #[inline(always)]
    pub(super) fn next(&mut self, begin: usize, count: usize) -> Span {
        let mut span = Span { tokens: begin..count, decays_first: false };
        if self.decays == 0 {
            return span;
        }
        for t in begin..count {
            let of_token = &self.of_tokens[t * self.decays..][..self.decays];
            let [(p_before, p), (kept_before, kept)] = [&mut self.p, &mut self.kept].map(|all| {
                let (before, rest) = all[..(t + 1) * self.decays].split_at_mut(t * self.decays);
                (&before[before.len().saturating_sub(self.decays)..], rest)
            });
            let mut is_outside = false;
            if t == begin {
                for ((p, kept), m) in p.iter_mut().zip(kept.iter_mut()).zip(of_token) {
                    (*p, *kept) = (1.0 + m, *m);
                    is_outside |= !OF_SPAN.contains(p);
                }
            } else {
                let before = p_before.iter().zip(kept_before);
                let all = p.iter_mut().zip(kept.iter_mut()).zip(before).zip(of_token);
                for (((p, kept), (p_before, kept_before)), m) in all {
                    *kept = next_kept(*kept_before, *m);
                    let product = mul_add(*m, *p_before, *p_before);
                    *p = if *kept > -0.5 { 1.0 + *kept } else { product };
                    is_outside |= !OF_SPAN.contains(p);
                }
            }
            if is_outside {
                if t > begin {
                    span.tokens.end = t;
                    break;
                }
                span.decays_first = true;
                p.fill(1.0);
                kept.fill(0.0);
            }
        }
        span
    }

    /// `P_t`.
    fn p(&self, t: usize) -> &[f32] {
        &self.p[t * self.decays..][..self.decays]
    }

    /// Divides the keys of a span by P, and multiplies its queries by it.
    #[inline(always)]
    pub(super) fn decay_rows(&self, span: &Span, keys: &mut [f32], queries: &mut [f32]) {
        if self.decays == 0 {
            return;
        }
        for t in span.tokens.clone() {
            let keys = &mut keys[t * self.width..][..self.features];
            match self.p(t) {
                [p] => {
                    let by = 1.0 / p;
                    for k in keys {
                        *k *= by;
                    }
                }
                p => {
                    for (k, p) in keys.iter_mut().zip(p) {
                        *k /= p;
                    }
                }
            }
            self.decay_query(t, queries);
        }
    }

    /// Multiplies the query of a token by P.
    #[inline(always)]
    pub(super) fn decay_query(&self, t: usize, queries: &mut [f32]) {
        let queries = &mut queries[t * self.width..][..self.features];
        match self.p(t) {
            [] => {}
            [p] => {
                for q in queries {
                    *q *= p;
                }
            }
            p => {
                for (q, p) in queries.iter_mut().zip(p) {
                    *q *= p;
                }
            }
        }
    }

    /// What is kept of each row by the decays of a span's first token.
    #[inline(always)]
    pub(super) fn shares_of_first(&self, span: &Span, shares: &mut [Share]) {
        let begin = span.tokens.start * self.decays;
        let of_token = &self.of_tokens[begin..begin + self.decays];
        spread(of_token.iter().map(|m| Share::new(1.0 + m, *m)), shares);
    }

    /// What is kept of each row behind a span, of what P leaves: P.
    #[inline(always)]
    pub(super) fn shares(&self, span: &Span, shares: &mut [Share]) {
        let begin = (span.tokens.end - 1) * self.decays;
        let of_all = self.p[begin..].iter().zip(&self.kept[begin..]).take(self.decays);
        spread(of_all.map(|(p, kept)| Share::new(*p, *kept)), shares);
    }
}

/// One for all, or one for each.
fn spread(mut from: impl ExactSizeIterator<Item = Share>, to: &mut [Share]) {
    if from.len() == 1 {
        to.fill(from.next().unwrap_or(Share::ALL));
        return;
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = from;
    }
}
