//! Features of a block of tokens of a value head.

use crate::cpu::aligned::Aligned;
use crate::cpu::call::Call;
use crate::cpu::features::{RowBuffer, Source};
use crate::cpu::mutation::Mutation;
use crate::cpu::strips::Strip;
use crate::cpu::task::Task;
use crate::cpu::tiles::{TOKENS, width};
use crate::problem::config::Config;

/// Features of up to [`TOKENS`] tokens of a value head, in rows `width` apart.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) keys: Aligned,
    /// Of each output head.
    pub(super) queries: Vec<Queries>,
}

/// The queries of an output head.
#[derive(Debug)]
pub(super) struct Queries {
    pub(super) rows: Aligned,
    /// The factor that a row's scale puts on its features.
    pub(super) gains: [f32; TOKENS],
}

impl Rows {
    pub(super) fn new(config: &Config, group: usize) -> Self {
        let rows = || Aligned::zeros(TOKENS * width(config));
        let queries = || Queries { rows: rows(), gains: [1.0; TOKENS] };
        Self { keys: rows(), queries: (0..group).map(|_| queries()).collect() }
    }

    /// The features of the keys of the tokens `first .. first + count` of value head e. `row` has
    /// room for a row of q or k.
    #[inline(always)]
    pub(super) fn fill_keys(
        &mut self,
        call: &Call<'_>,
        [first, count, e]: [usize; 3],
        row: &mut RowBuffer,
    ) {
        let (heads, width) = (&call.heads, width(call.config));
        let mut key_head = heads.key_head(e);
        if call.mistake.is(Mutation::HeadsTiled) {
            key_head = e % heads.key;
        }
        let keys = (&mut self.keys[..], width);
        let source = Source {
            slice: call.k,
            dtype: call.config.dtype,
            first: heads.k.begin(first, key_head),
            stride: heads.k.token,
        };
        call.of_keys.rows(source, key_head, row, keys, &mut [1.0; TOKENS][..count]);
    }

    /// The same of the queries that read it.
    #[inline(always)]
    pub(super) fn fill_queries(
        &mut self,
        call: &Call<'_>,
        [first, count, e]: [usize; 3],
        row: &mut RowBuffer,
    ) {
        let (heads, width) = (&call.heads, width(call.config));
        for (h, queries) in self.queries.iter_mut().enumerate() {
            let output_head = e * heads.value_group + h;
            let (source, head) = queries_of(call, first, output_head);
            let rows = (&mut queries.rows[..], width);
            call.of_queries.rows(source, head, row, rows, &mut queries.gains[..count]);
        }
    }
}

impl Queries {
    /// The features of row t again, with their scale; `first + t` is its token.
    pub(super) fn rescale(
        &mut self,
        call: &Call<'_>,
        [first, t, output_head]: [usize; 3],
        row: &mut RowBuffer,
    ) {
        let (source, head) = queries_of(call, first + t, output_head);
        let to = &mut self.rows[t * width(call.config)..][..call.config.features() as usize];
        self.gains[t] = call.of_queries.row(source, head, row, to);
    }
}

/// The values of a block of tokens of a value head, in a strip.
#[inline(always)]
pub(super) fn fill_values(
    (call, task): (&Call<'_>, &Task),
    [first, count, e]: [usize; 3],
    strip: &Strip,
    values: &mut [f32],
) {
    let rows = values[strip.rows(TOKENS)].chunks_mut(strip.width);
    for (t, to) in rows.enumerate().take(count) {
        let at = call.heads.value(first + t, e) + task.columns.start;
        let (to, rest) = to.split_at_mut(strip.columns.len());
        call.v.copy(at + strip.columns.start, call.config.dtype, to);
        rest.fill(0.0);
    }
}

/// The queries of an output head from token `first` on, and the head whose weights they have.
pub(super) fn queries_of<'a>(
    call: &Call<'a>,
    first: usize,
    output_head: usize,
) -> (Source<'a>, usize) {
    let heads = &call.heads;
    let key_head = heads.key_head(heads.value_head(output_head));
    let head = call.of_queries.weights_head(heads.query_head(output_head), key_head);
    let (first, stride) = (heads.query(first, output_head), heads.q.token);
    (Source { slice: call.q, dtype: call.config.dtype, first, stride }, head)
}
