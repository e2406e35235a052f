//! Work in bounded submissions. Drivers reset a device whose submission takes seconds, and nobody
//! can stop one. So dispatches are cut into ranges of workgroups: a work item needs no other of its
//! dispatch, so that every bit is the same, wherever the cuts are.

use std::ops::Range;

use crate::kernel::layout::{BLOCK_ENTRIES, SCAN_THREADS};
use crate::kernel::stage::Stage;
use crate::plan::{Dispatch, Plan};
use crate::problem::shape::Packing;

/// Workgroups of a dispatch that go into one submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The index of its dispatch among all of the call.
    pub(crate) dispatch: usize,
    /// The number of its first workgroup in the dispatch.
    pub(crate) first_workgroup: u32,
    pub(crate) workgroups: [u32; 3],
}

/// The pieces of one submission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Submission {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) operations: u64,
}

/// Operations that an element costs in stages that go element by element: an address, a load, a
/// store.
const ELEMENT_OPERATIONS: u64 = 8;

/// The operations of a dispatch over its work items.
enum Costs {
    /// Each costs as much.
    Even { per_item: u64 },
    /// Items go through the tokens of segments, of which they are so many.
    Segments {
        items_per_segment: u64,
        /// Operations of a token in all of them.
        per_token: u64,
        tokens: Tokens,
    },
}

/// The tokens of segments, one after the other.
enum Tokens {
    /// At most this many.
    Most(u64),
    /// The sums of those before each segment, and of all.
    Sums(Vec<u64>),
}

impl Tokens {
    fn before(&self, segment: u64) -> u64 {
        match self {
            Self::Most(tokens) => segment.saturating_mul(*tokens),
            Self::Sums(sums) => {
                let at = usize::try_from(segment).unwrap_or(usize::MAX);
                sums.get(at).or(sums.last()).copied().unwrap_or(0)
            }
        }
    }
}

impl Costs {
    /// Operations of the items before this one.
    fn before(&self, item: u64) -> u64 {
        match self {
            Self::Even { per_item } => item.saturating_mul(*per_item),
            Self::Segments { items_per_segment, per_token, tokens } => {
                let (segment, of_segment) = (item / items_per_segment, item % items_per_segment);
                let (before, next) = (tokens.before(segment), tokens.before(segment + 1));
                let of_next = u128::from(next - before) * u128::from(of_segment);
                let tokens = u128::from(before) + of_next / u128::from(*items_per_segment);
                u64::try_from(tokens * u128::from(*per_token)).unwrap_or(u64::MAX)
            }
        }
    }
}

impl Plan {
    /// The dispatches of a call, with the checks of entries that nobody has checked.
    pub(crate) fn all_dispatches(&self, is_untrusted: bool) -> impl Iterator<Item = &Dispatch> {
        self.checks.iter().filter(move |_| is_untrusted).chain(&self.dispatches)
    }

    /// Operations of a call: the larger of the floating-point operations and of a few for each
    /// element. Of lengths that only the call knows it counts the most there may be.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.submissions(false).iter().map(|part| part.operations).fold(0, u64::saturating_add)
    }

    /// Submissions of a call, each within [`Tuning::max_operations`](crate::tuning::Tuning).
    #[must_use]
    pub fn submission_count(&self) -> usize {
        self.submissions(false).len()
    }

    /// The work of a call in submissions within the budget. A workgroup is never cut.
    pub(crate) fn submissions(&self, is_untrusted: bool) -> Vec<Submission> {
        let budget = self.tuning.max_operations;
        let mut done = Vec::new();
        let mut current = Submission::default();
        for (index, dispatch) in self.all_dispatches(is_untrusted).enumerate() {
            let (costs, items) = self.costs(dispatch);
            let [x, y, _] = dispatch.workgroups;
            let count = x * y;
            let cost = |range: Range<u32>| {
                let [begin, end] =
                    [range.start, range.end].map(|at| costs.before(u64::from(at) * items));
                end.saturating_sub(begin)
            };
            let mut first = 0;
            while first < count {
                let left = budget.saturating_sub(current.operations);
                let fits = most(count - first, &|n| cost(first..first + n) <= left);
                if fits == 0 && !current.pieces.is_empty() {
                    done.push(std::mem::take(&mut current));
                    continue;
                }
                let fits = fits.max(1);
                // Whole rows of a folded grid, or a part of one: no workgroup beyond its end runs.
                let is_whole = first == 0 && fits == count;
                let rows = if is_whole { y } else { fits / x };
                let workgroups = if rows > 0 { [x, rows, 1] } else { [fits, 1, 1] };
                let n = workgroups[0] * workgroups[1];
                current.operations = current.operations.saturating_add(cost(first..first + n));
                current.pieces.push(Piece { dispatch: index, first_workgroup: first, workgroups });
                first += n;
            }
        }
        done.push(current);
        done
    }

    /// The costs of a dispatch, and the work items of a workgroup.
    fn costs(&self, dispatch: &Dispatch) -> (Costs, u64) {
        let stage = dispatch.stage;
        let per_workgroup = match stage {
            Stage::SequenceClaims | Stage::SequenceConflicts => BLOCK_ENTRIES,
            Stage::SegmentState | Stage::SegmentTransition | Stage::SegmentOutput => {
                self.layout().items()
            }
            Stage::DecodeStep => self.decode.map_or(1, |decode| decode.items),
            Stage::TransitionScan => 1,
            _ => SCAN_THREADS,
        };
        let per_workgroup = u64::from(per_workgroup);
        let costs = match self.items_per_segment(stage) {
            Some(items_per_segment) => {
                let per_token = self.token_operations(stage);
                Costs::Segments { items_per_segment, per_token, tokens: self.tokens(stage) }
            }
            None => {
                let [x, y, _] = dispatch.workgroups;
                let items = u64::from(x) * u64::from(y) * per_workgroup;
                let per_item = self.stage_flops(stage).div_ceil(items).max(ELEMENT_OPERATIONS);
                Costs::Even { per_item }
            }
        };
        (costs, per_workgroup)
    }

    /// Work items of a segment, or in `decode_step` of a sequence; `None` for other stages.
    fn items_per_segment(&self, stage: Stage) -> Option<u64> {
        let heads = u64::from(self.shape.value_heads);
        let blocks = u64::from(self.value_blocks()) * u64::from(self.feature_blocks());
        match stage {
            Stage::SegmentState => Some(heads * blocks),
            Stage::SegmentTransition => Some(heads * u64::from(self.transition_blocks())),
            Stage::SegmentOutput => Some(heads * blocks * u64::from(self.head_blocks())),
            Stage::DecodeStep => Some(heads),
            _ => None,
        }
    }

    /// The tokens of segments, or in `decode_step` of sequences.
    fn tokens(&self, stage: Stage) -> Tokens {
        let sums = |lens: &mut dyn Iterator<Item = u64>| {
            let mut sums = vec![0];
            let next = |sum: &mut u64, len: u64| {
                *sum = sum.saturating_add(len);
                Some(*sum)
            };
            sums.extend(lens.scan(0, next));
            Tokens::Sums(sums)
        };
        match (stage, &self.shape.packing) {
            // A state is loaded and stored, whether a token enters it or not.
            (Stage::DecodeStep, Packing::Lengths(lens)) => {
                sums(&mut lens.iter().map(|len| u64::from(*len).max(1)))
            }
            (Stage::DecodeStep, _) => Tokens::Most(self.shape.max_len().max(1).into()),
            (_, Packing::Lengths(_) | Packing::Padded(_)) => {
                let capacity = usize::try_from(self.segment_capacity()).unwrap_or(0);
                let mut lens = vec![0; capacity];
                for segment in self.segment_list().unwrap_or_default() {
                    if let Some(len) = lens.get_mut(segment.number) {
                        *len = segment.tokens.len() as u64;
                    }
                }
                sums(&mut lens.into_iter())
            }
            _ => Tokens::Most(self.segment_len().min(self.shape.max_len()).max(1).into()),
        }
    }

    /// True if no workgroup alone goes through more tokens than a device is given at a time. The
    /// workgroups in flight share its speed, four of them on each of its cores.
    pub(crate) fn has_short_chains(&self) -> bool {
        let budget = self.tuning.max_operations;
        let most = (budget.saturating_mul(4) / u64::from(self.tuning.workgroups)).clamp(1, budget);
        let stages = [Stage::SegmentState, Stage::SegmentTransition, Stage::SegmentOutput];
        let len = u64::from(self.segment_len().min(self.shape.max_len()));
        let chains = self.dispatches.iter().filter(|dispatch| stages.contains(&dispatch.stage));
        chains.map(|dispatch| dispatch.stage).all(|stage| {
            let items = self.items_per_segment(stage).unwrap_or(1).max(1);
            let of_item = len.saturating_mul(self.token_operations(stage) / items);
            of_item <= most && of_item.saturating_mul(self.layout().items().into()) <= budget
        })
    }
}

/// The most of `max` that fit, by bisection: with more, no fewer do not.
fn most(max: u32, fits: &dyn Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, u64::from(max) + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle as u32) { low = middle } else { high = middle }
    }
    low as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::plan::tuning::Tuning;
    use crate::problem::config::Config;
    use crate::problem::shape::{PackedLimits, Shape};
    use crate::problem::update_rule::{Beta, UpdateRule};

    /// Every workgroup is in one piece, in order, and a submission of several workgroups is within
    /// the budget.
    #[test]
    fn pieces_are_the_whole() {
        let linear = Config::new(64, 64);
        let delta = Config::of_rule(64, 64, UpdateRule::Delta(Beta::per_head()));
        let limits = wgpu::Limits {
            max_compute_workgroups_per_dimension: 200,
            max_storage_buffer_binding_size: 1 << 30,
            ..wgpu::Limits::default()
        };
        let few = PackedLimits { sequences: 500, tokens: 3000, max_len: 900 };
        let mut uneven = vec![1; 300];
        uneven[77] = 5000;
        for config in [linear, delta] {
            for device_type in [wgpu::DeviceType::Cpu, wgpu::DeviceType::Other] {
                for shape in [
                    Shape::new(3, 4096, 8),
                    Shape::new(700, 2, 4).with_slots(1000),
                    Shape::packed(&uneven, 4),
                    Shape::packed_up_to(few, 4).with_slots(600),
                ] {
                    let tuning = Tuning::new(&config, &limits, device_type).unwrap();
                    let tuning = tuning.with_max_operations(1 << 20);
                    let plan = Plan::new(&config, &shape, &limits, &tuning).unwrap();
                    for is_untrusted in [false, plan.reads_sequences()] {
                        check(&plan, is_untrusted);
                    }
                    assert!(plan.submission_count() > 1, "{shape:?}");
                    let whole = tuning.with_max_operations(u64::MAX);
                    let whole = Plan::new(&config, &shape, &limits, &whole).unwrap();
                    assert_eq!(whole.submission_count(), 1);
                    assert!(whole.operations() >= whole.flops());
                }
            }
        }
    }

    fn check(plan: &Plan, is_untrusted: bool) {
        let budget = plan.tuning().max_operations;
        let mut seen = vec![0; plan.all_dispatches(is_untrusted).count()];
        for submission in plan.submissions(is_untrusted) {
            let pieces = &submission.pieces;
            for piece in pieces {
                let [x, y, _] = piece.workgroups;
                assert!((1..=200).contains(&x) && (1..=200).contains(&y));
                assert_eq!(piece.first_workgroup, seen[piece.dispatch]);
                seen[piece.dispatch] += x * y;
            }
            // A workgroup of a long sequence may be more, and others beside it nothing.
            let is_alone = pieces[0].workgroups == [1, 1, 1];
            assert!(is_alone || submission.operations <= budget, "{submission:?}");
        }
        for (dispatch, seen) in plan.all_dispatches(is_untrusted).zip(seen) {
            assert_eq!(seen, dispatch.workgroups[0] * dispatch.workgroups[1]);
        }
    }
}
