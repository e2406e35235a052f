//! Fetching the rows of the next block while this one is computed.
//!
//! Rows of a head lie far apart, which a CPU does not foresee by itself.

use std::ops::Range;

use prefetch_index::prefetch_index;

use crate::cpu::call::Call;
use crate::cpu::slices::Slice;
use crate::cpu::task::Task;
use crate::problem::heads::Rows;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Rows that are still to be fetched, some lines at a time.
pub(super) struct Ahead<'a> {
    pieces: [Piece<'a>; 3],
    piece: usize,
    token: usize,
    offset: usize,
    tokens: Range<usize>,
    /// Calls in which a row is fetched.
    calls: usize,
}

/// The part of a token's row of a tensor that a task reads.
#[derive(Clone, Copy)]
struct Piece<'a> {
    slice: Slice<'a>,
    /// Elements of a line.
    of_line: usize,
    rows: Rows,
    /// The first head, and elements before and in the piece.
    head: usize,
    begin: usize,
    len: usize,
}

impl<'a> Ahead<'a> {
    /// Nothing yet; the rows of a block are fetched in so many calls.
    pub(super) fn new(call: &Call<'a>, task: &Task, calls: usize, tokens: usize) -> Self {
        let heads = &call.heads;
        let (k, v) = (call.config.key_dim as usize, call.config.value_dim as usize);
        let of_values = &task.heads;
        let outputs = of_values.start * heads.value_group..of_values.end * heads.value_group;
        let [of_queries, of_keys] = [
            heads.query_head(outputs.start)..heads.query_head(outputs.end - 1) + 1,
            heads.key_head(of_values.start)..heads.key_head(of_values.end - 1) + 1,
        ];
        let piece = |slice: Slice<'a>, of_heads: Range<usize>, rows: Rows, width: usize| Piece {
            slice,
            of_line: LINE / slice.dtype().size() as usize,
            rows,
            head: of_heads.start,
            begin: 0,
            // Of heads that are not contiguous only the first is fetched.
            len: if rows.head == width { of_heads.len() * width } else { width },
        };
        let mut values = piece(call.v, of_values.clone(), heads.v, v);
        if of_values.len() == 1 {
            (values.begin, values.len) = (task.columns.start, task.columns.len());
        }
        let pieces =
            [piece(call.q, of_queries, heads.q, k), piece(call.k, of_keys, heads.k, k), values];
        // So many calls fetch a row.
        let calls = (calls / (pieces.len() * tokens)).max(1);
        Self { pieces, piece: 3, token: 0, offset: 0, tokens: 0..0, calls }
    }

    /// Begins with the rows of these tokens.
    pub(super) fn begin(&mut self, tokens: Range<usize>) {
        (self.piece, self.token, self.offset) = (0, tokens.start, 0);
        if tokens.is_empty() {
            self.piece = 3;
        }
        self.tokens = tokens;
    }

    /// Fetches some lines of a row.
    #[inline(always)]
    pub(super) fn fetch(&mut self) {
        let Some(piece) = self.pieces.get(self.piece) else { return };
        let begin = piece.rows.begin(self.token, piece.head) + piece.begin;
        let end = piece.len.min(self.offset + piece.len.div_ceil(self.calls));
        let lines = (begin + self.offset..begin + end).step_by(piece.of_line);
        match piece.slice {
            Slice::F32(x) => lines.for_each(|at| prefetch_index(x, at)),
            Slice::F16(x) => lines.for_each(|at| prefetch_index(x, at)),
            Slice::Bf16(x) => lines.for_each(|at| prefetch_index(x, at)),
        }
        self.offset = end;
        if end == piece.len {
            (self.offset, self.token) = (0, self.token + 1);
            if self.token == self.tokens.end {
                (self.token, self.piece) = (self.tokens.start, self.piece + 1);
            }
        }
    }
}

/// Fetches so many elements of a slice.
#[inline(always)]
pub(super) fn fetch(slice: &[f32], begin: usize, len: usize) {
    for at in (begin..begin + len).step_by(LINE / size_of::<f32>()) {
        prefetch_index(slice, at);
    }
}
