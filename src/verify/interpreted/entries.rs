//! The sequences of a call, from the words of its buffer: written from the documentation of
//! `Sequences::Device`, apart from the shaders.

use super::call::Call;
use crate::plan::Plan;
use crate::problem::shape::Packing;

/// A sequence that takes part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sequence {
    pub(super) begin: usize,
    pub(super) end: usize,
    /// Index of its state before the call.
    pub(super) source: usize,
    /// Index of its state after the call.
    pub(super) target: usize,
    /// Tokens, and the slot of the state after them.
    pub(super) checkpoints: Vec<(usize, usize)>,
}

const NO_SLOT: u32 = u32::MAX;

impl Call {
    /// The sequences that take part, and how many entries are ignored.
    pub(super) fn sequences(&self, plan: &Plan) -> (Vec<Sequence>, u32) {
        let shape = plan.shape();
        let n = shape.entries() as usize;
        if !plan.reads_sequences() {
            let ranges = shape.token_ranges().unwrap_or_default();
            let sequence = |(i, range): (usize, std::ops::Range<usize>)| Sequence {
                begin: range.start,
                end: range.end,
                source: i,
                target: i,
                checkpoints: Vec::new(),
            };
            return (ranges.into_iter().enumerate().map(sequence).collect(), 0);
        }
        let mut rest = &self.words[..];
        let mut take = |len: usize| {
            let (taken, after) = rest.split_at(len);
            rest = after;
            taken
        };
        let is_packed = shape.packing != Packing::Equal;
        let ends = take(if is_packed { n + 1 } else { 0 });
        let slots = take(if shape.slots.is_some() { n } else { 0 });
        let sources = if shape.has_sources { take(n) } else { slots };
        let stored = take(2 * n * shape.checkpoints as usize);
        let (mut all, mut ignored) = (Vec::new(), 0);
        for i in 0..n {
            let len = shape.seq_len as usize;
            let (mut begin, mut end, mut is_valid) = (i * len, (i + 1) * len, true);
            let mut states = (i, i);
            if let (Some(slot), Some(source)) = (slots.get(i), sources.get(i)) {
                if *slot == NO_SLOT {
                    continue;
                }
                let in_pool = |slot: u32| shape.slots.is_some_and(|slots| slot < slots);
                is_valid &= in_pool(*slot) && in_pool(*source);
                states = (*source as usize, *slot as usize);
                let is_twin =
                    |j: usize| slots[j] == *slot || slots[j] == *source || sources[j] == *slot;
                // An entry without a slot takes no part, and reads none.
                let is_twin = |j: usize| j != i && in_pool(slots[j]) && is_twin(j);
                is_valid &= !self.is_untrusted || !(0..n).any(is_twin);
            }
            if let [from, to] = ends.get(i..i + 2).unwrap_or_default() {
                let before = ends[..i].iter().max().copied().unwrap_or(0);
                is_valid &= before <= *from && from <= to && *to <= shape.batch * shape.seq_len;
                is_valid &= to.wrapping_sub(*from) <= shape.max_len() && (i > 0 || *from == 0);
                (begin, end) = (*from as usize, *to as usize);
            }
            if !is_valid {
                ignored += 1;
                continue;
            }
            let of = shape.checkpoints as usize;
            let checkpoints = stored.chunks(2).skip(i * of).take(of);
            let checkpoints = checkpoints.map(|pair| (pair[0] as usize, pair[1] as usize));
            let checkpoints = checkpoints.filter(|(tokens, _)| (1..=end - begin).contains(tokens));
            let checkpoints = checkpoints.collect();
            let (source, target) = states;
            all.push(Sequence { begin, end, source, target, checkpoints });
        }
        (all, ignored)
    }
}
