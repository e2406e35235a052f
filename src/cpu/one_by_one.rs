//! Tokens that go through a state one by one, which takes the fewest operations: where rows of the
//! state decay and are added to, and one query reads them.

use pulp::Simd;

use crate::cpu::ahead::Ahead;
use crate::cpu::block::{Block, row_factor};
use crate::cpu::call::Call;
use crate::cpu::features::{Features, RowBuffer};
use crate::cpu::head::{Head, is_long};
use crate::cpu::mutation::Mutation;
use crate::cpu::nu;
use crate::cpu::passes::{OfSpan, OfTokens};
use crate::cpu::rows::{Queries, Rows, fill_values};
use crate::cpu::shares::{Share, State, part};
use crate::cpu::spans::{Span, Spans};
use crate::cpu::strips::Strip;
use crate::cpu::task::Task;
use crate::cpu::tiles::{TOKENS, width};
use crate::problem::config::Config;

/// Tokens whose sum is added to the state of a long sequence.
const TOGETHER: usize = 64;

/// What the tokens of a block of a value head do.
#[derive(Debug)]
pub(super) struct OneByOne {
    /// Elements from one row of features to the next.
    width: usize,
    spans: Spans,
    /// The factor of each row of o.
    factors: [f32; TOKENS],
    /// The sum of the keys of a span, each divided by P.
    added: Vec<f32>,
    /// What is kept of each row of a state; empty without decays.
    shares: Vec<Share>,
}

impl OneByOne {
    pub(super) fn new(config: &Config) -> Self {
        let features = config.features() as usize;
        let has_decays = config.decay_rows() > 0;
        Self {
            width: width(config),
            spans: Spans::new(config),
            factors: [0.0; TOKENS],
            added: vec![0.0; features],
            shares: vec![Share::ALL; if has_decays { features } else { 0 }],
        }
    }

    /// The factors of a span's rows of o; sums its keys, too. `row` has room for a row of q.
    #[inline(always)]
    fn fill_factors<S: Simd>(
        &mut self,
        simd: S,
        (call, [first, output_head]): (&Call<'_>, [usize; 2]),
        Span { tokens, .. }: &Span,
        (keys, queries): (&[f32], &mut Queries),
        (nu, row): (&[f32], &mut RowBuffer),
    ) {
        let config = call.config;
        let mut weights = [0.0; TOKENS];
        if config.is_normalized() {
            let of = (self.width, tokens.clone());
            let mut found = nu::read(simd, [keys, &queries.rows], of, (nu, &mut self.added));
            if call.of_queries.leaves_out_scales() {
                let mut is_changed = false;
                for t in tokens.clone() {
                    if Features::lacks_scale(found.largest[t]) {
                        queries.rescale(call, [first, t, output_head], row);
                        self.spans.decay_query(t, &mut queries.rows);
                        is_changed = true;
                    }
                }
                if is_changed {
                    let of = (self.width, tokens.clone());
                    found = nu::read(simd, [keys, &queries.rows], of, (nu, &mut self.added));
                }
            }
            weights = found.weights;
        }
        for t in tokens.clone() {
            self.factors[t] = row_factor(config, weights[t], queries.gains[t]);
        }
    }

    /// Multiplies a state, to which nothing has been added since, by the first decays of a span, if
    /// they are no part of P.
    #[inline(always)]
    fn decay_first<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        span: &Span,
        state: &mut State<'_>,
    ) {
        if span.decays_first {
            self.spans.shares_of_first(span, &mut self.shares);
            self.added.fill(0.0);
            state.settle_nu(&self.shares, &self.added);
            state.settle_mu(simd, call, &self.shares, self.width);
        }
    }

    /// Brings a state behind a span. `is_end` where what has entered long sequences is added.
    #[inline(always)]
    fn settle<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        (span, is_end): (&Span, bool),
        state: &mut State<'_>,
    ) {
        self.spans.shares(span, &mut self.shares);
        if call.mistake.is(Mutation::DecayForgotten) {
            self.shares.fill(Share::ALL);
        }
        if !call.mistake.is(Mutation::NuNotUpdated) {
            state.settle_nu(&self.shares, &self.added);
        }
        if is_end || !self.shares.is_empty() {
            state.settle_mu(simd, call, &self.shares, self.width);
        }
    }
}

/// The memory of a value head through which a block goes.
pub(super) struct OfHead<'a> {
    pub(super) one_by_one: &'a mut OneByOne,
    pub(super) head: &'a mut Head,
    /// Has room for a row of q.
    pub(super) row: &'a mut RowBuffer,
}

impl OfHead<'_> {
    /// o of the tokens `first .. first + count` of value head e, in rows that are `stride` apart, and
    /// its state behind them.
    #[inline(always)]
    pub(super) fn block<S: Simd>(
        &mut self,
        simd: S,
        (call, task): (&Call<'_>, &Task),
        [first, count, e]: [usize; 3],
        (o, stride): (&mut [f32], usize),
        ahead: &mut Ahead<'_>,
    ) {
        let compensates = is_long(call.config, task.entering());
        let Self { one_by_one, head, row } = self;
        let Head { rows: Rows { keys, queries }, mu, lost, entered, nu, lost_nu, values, .. } =
            &mut **head;
        let Some(queries) = queries.first_mut() else { return };
        if count < Block::tokens(call.config) && call.mistake.is(Mutation::RaggedBlockSkipped) {
            keys.fill(0.0);
        }
        let [entered, lost] =
            [entered, lost].map(|all| if compensates { &mut all[..] } else { &mut [] });
        // Rows of whole strips are read where they are.
        let in_place = call.v.f32s(call.config.dtype);
        let is_whole = |strip: &Strip| in_place.is_some() && strip.width == strip.columns.len();
        for strip in call.strips.of(task.columns.len()).filter(|strip| !is_whole(strip)) {
            fill_values((call, task), [first, count, e], &strip, values);
        }
        one_by_one.spans.fill(call, [first, count, e]);
        let mut begin = 0;
        while begin < count {
            let span = one_by_one.spans.next(begin, count);
            begin = span.tokens.end;
            let mut state = State { mu, entered, lost, nu, lost_nu, columns: task.columns.len() };
            one_by_one.decay_first(simd, call, &span, &mut state);
            one_by_one.spans.decay_rows(&span, keys, &mut queries.rows);
            let of_rows = (&keys[..], &mut *queries);
            one_by_one.fill_factors(simd, (call, [first, e]), &span, of_rows, (state.nu, row));
            let OneByOne { width, factors, .. } = &**one_by_one;
            let tokens = [span.tokens.start, span.tokens.end];
            let of_span = OfSpan { simd, tokens, width: *width, factors, mistake: call.mistake };
            for strip in call.strips.of(task.columns.len()) {
                let (values, of_token) = match in_place {
                    Some(v) if is_whole(&strip) => {
                        let at = call.heads.value(first, e) + task.columns.start;
                        (&v[at + strip.columns.start..], call.heads.v.token)
                    }
                    _ => (&values[strip.rows(TOKENS)], strip.width),
                };
                let of = OfTokens { keys, queries: &queries.rows, values, of_token };
                let of_strip = strip.rows(*width);
                let of_state = (&mut state.mu[of_strip.clone()], part(state.entered, &of_strip));
                let o = (&mut o[strip.columns.start..], stride);
                if strip.is_wide::<S>() {
                    of_span.strip::<2>(of, of_state, o, ahead);
                } else {
                    of_span.strip::<1>(of, of_state, o, ahead);
                }
            }
            let end = first + span.tokens.end;
            let is_end =
                end == task.tokens.end || (end - task.tokens.start).is_multiple_of(TOGETHER);
            one_by_one.settle(simd, call, (&span, compensates && is_end), &mut state);
        }
    }
}
