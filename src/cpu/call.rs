//! The data that the threads of a call share.

use std::ops::Range;

use crate::cpu::features::Features;
use crate::cpu::gates::Gates;
use crate::cpu::mutation::Mistake;
use crate::cpu::outputs::{Outputs, Pieces};
use crate::cpu::slices::Slice;
use crate::cpu::states::States;
use crate::cpu::strips::Strips;
use crate::cpu::task::Task;
use crate::problem::config::Config;
use crate::problem::heads::Heads;

/// The inputs, maps and targets of a call.
pub(super) struct Call<'a> {
    pub(super) config: &'a Config,
    pub(super) mistake: Mistake,
    pub(super) heads: Heads,
    pub(super) strips: Strips,
    pub(super) gates: Gates<'a>,
    pub(super) of_keys: Features<'a>,
    pub(super) of_queries: Features<'a>,
    pub(super) q: Slice<'a>,
    pub(super) k: Slice<'a>,
    pub(super) v: Slice<'a>,
    pub(super) o: Outputs<'a>,
    pub(super) states: States<'a>,
}

impl Call<'_> {
    /// Writes the columns of a task to rows of o: those of its output heads lie `stride` apart in
    /// `row(token)`.
    #[inline(always)]
    pub(super) fn write_rows<'b>(
        &self,
        task: &Task,
        tokens: Range<usize>,
        stride: usize,
        row: impl Fn(usize) -> &'b [f32],
    ) {
        let (group, value_dim) = (self.heads.value_group, self.config.value_dim as usize);
        let heads = task.heads.start * group..task.heads.end * group;
        let (in_row, len) = (self.o.rows.in_row, task.columns.len());
        if in_row == 0 {
            // Each head has rows of its own.
            for (i, head) in heads.enumerate() {
                let pieces =
                    Pieces { begins: std::iter::once(task.columns.start), len, stride: len };
                let of_head = |t: usize| &row(t)[i * stride..][..len];
                self.o.write(tokens.clone(), (head, head), pieces, of_head);
            }
            return;
        }
        let head = (0, task.heads.start);
        if len == stride && stride == value_dim && in_row == value_dim {
            // One contiguous piece.
            let (begin, len) = (heads.start * value_dim, heads.len() * value_dim);
            let pieces = Pieces { begins: std::iter::once(begin), len, stride: len };
            return self.o.write(tokens, head, pieces, row);
        }
        let begins = heads.map(|head| head * in_row + task.columns.start);
        self.o.write(tokens, head, Pieces { begins, len, stride }, row);
    }
}
