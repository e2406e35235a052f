//! A call cut into tasks, of which every thread gets as much work.

use std::ops::Range;

use crate::cpu::task::{Segment, Task};
use crate::cpu::tiles::TOKENS;
use crate::problem::config::Config;

/// Tokens of a segment at least: each enters a state twice.
const SEGMENT_TOKENS: usize = 1024;

/// Nanoseconds of work that are worth another thread.
const WORTH_A_THREAD: u64 = 20_000;

/// The time that a group of heads costs beside its heads, in heads: the rows of more heads lie in
/// longer pieces.
const OF_A_GROUP: f64 = 0.2;

/// The extent of a call.
pub(super) struct Extent<'a> {
    pub(super) config: &'a Config,
    /// Tokens of each sequence.
    pub(super) sequences: &'a [Range<usize>],
    pub(super) value_heads: usize,
    /// The most value heads of a task.
    pub(super) most_heads: usize,
    /// Columns of a strip, and of a vector.
    pub(super) width: usize,
    pub(super) lanes: usize,
    pub(super) threads: usize,
    /// True where tokens of one sequence may be those of several tasks: the final state is stored
    /// elsewhere than the initial one, which all of them read.
    pub(super) shares_sequences: bool,
}

/// What two tasks of one chain share.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Half {
    /// The second goes through the tokens of the first as well, without outputs.
    Tokens,
    /// Both map all keys and queries.
    Columns,
}

/// A way to cut a call.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Way {
    /// Columns of a task.
    slice: usize,
    /// Segments of the longest sequence.
    segments: usize,
    /// Value heads of a task.
    heads: usize,
    /// Chains, the last ones, that are those of two tasks. A chain is all tokens of a slice of a
    /// value head.
    in_two: usize,
    half: Half,
}

impl Extent<'_> {
    /// Tasks of whole value heads of sequences or, where these are few, of slices of their columns
    /// and of segments of their tokens. Heads that would keep a few threads busy after all others
    /// are cut in two.
    pub(super) fn cut(&self, tasks: &mut Vec<Task>) {
        tasks.clear();
        let (value_heads, value_dim) = (self.value_heads, self.config.value_dim as usize);
        let way = self.way();
        let whole = self.chains(way.slice) - way.in_two;
        let (mut chain, mut start) = (0, 0);
        for (n, tokens) in self.sequences.iter().enumerate() {
            for e in (0..value_heads).step_by(way.heads) {
                for begin in (0..value_dim).step_by(way.slice) {
                    let task = Task {
                        n,
                        heads: e..value_heads.min(e + way.heads),
                        columns: begin..value_dim.min(begin + way.slice),
                        tokens: tokens.clone(),
                        before: tokens.start..tokens.start,
                        segment: None,
                        is_last: true,
                    };
                    chain += task.heads.len();
                    if chain > whole {
                        let one = |e| Task { heads: e..e + 1, ..task.clone() };
                        tasks
                            .extend(task.heads.clone().flat_map(|e| self.in_two(one(e), way.half)));
                        continue;
                    }
                    let segments = way.segments.min(tokens.len() / SEGMENT_TOKENS).max(1);
                    tasks.extend(in_segments(task, segments, &mut start));
                }
            }
        }
        interleave(tasks, 2 * way.in_two, self.threads);
    }

    /// Tasks that one thread takes at least, for their work to be worth it.
    pub(super) fn least_tasks(&self, tasks: usize) -> usize {
        let tokens: usize = self.sequences.iter().map(Range::len).sum();
        let of_task = self.nanoseconds(tokens, self.sequences.len()) * self.value_heads as u64;
        WORTH_A_THREAD.div_ceil((of_task / tasks.max(1) as u64).max(1)) as usize
    }

    /// The time that so many tokens and states of a value head take.
    fn nanoseconds(&self, tokens: usize, states: usize) -> u64 {
        let state = u64::from(self.config.features()) * u64::from(self.config.value_dim);
        // Two multiply-adds for an element and token at some 30 a nanosecond, and eight bytes for
        // an element at some 16.
        state.saturating_mul(2 * tokens as u64 + 15 * states as u64) / 30
    }

    fn corrects(&self) -> bool {
        self.config.update_rule.beta().is_some()
    }

    /// Tokens of the longest sequence.
    fn longest(&self) -> usize {
        self.sequences.iter().map(Range::len).max().unwrap_or(0)
    }

    fn chains(&self, slice: usize) -> usize {
        let slices = (self.config.value_dim as usize).div_ceil(slice);
        self.sequences.len() * self.value_heads * slices
    }

    /// The way after which the last thread is done first.
    fn way(&self) -> Way {
        let value_dim = self.config.value_dim as usize;
        let strips = value_dim.div_ceil(self.width);
        let states = self.sequences.len() * self.value_heads;
        // One token is worth no more than one thread, with a state in place.
        let is_step = self.longest() <= 1;
        let slices = if is_step { 1 } else { self.threads.div_ceil(states.max(1)).min(strips) };
        let whole = Way { slice: value_dim, segments: 1, heads: 1, in_two: 0, half: Half::Columns };
        let mut best = (whole, f64::INFINITY);
        for slices in 1..=slices {
            let slice = strips.div_ceil(slices) * self.width;
            let in_two = self.chains(slice) % self.threads;
            let halves = [(0, Half::Columns), (in_two, Half::Columns), (in_two, Half::Tokens)];
            let halves = halves.into_iter().filter(|(in_two, half)| {
                *in_two == 0 || self.may_cut_in_two(*in_two, slice, *half)
            });
            let heads = if slices == 1 { self.most_heads.clamp(1, self.value_heads) } else { 1 };
            let whole = Way { slice, ..whole };
            let ways = halves.flat_map(|(in_two, half)| {
                (1..=heads).map(move |heads| Way { heads, in_two, half, ..whole })
            });
            for way in ways.chain([Way { segments: self.segments(slice), ..whole }]) {
                let time = self.time(way);
                if time < best.1 {
                    best = (way, time);
                }
            }
        }
        best.0
    }

    /// Segments of the longest sequence for all threads to have one.
    fn segments(&self, slice: usize) -> usize {
        // A delta rule's segments would have matrices between them.
        if !self.shares_sequences || self.corrects() {
            return 1;
        }
        let segments = self.threads / self.chains(slice).max(1);
        segments.min(self.longest() / SEGMENT_TOKENS).max(1)
    }

    /// True if so many chains in two keep all other threads waiting for less than they would whole.
    fn may_cut_in_two(&self, chains: usize, slice: usize, half: Half) -> bool {
        let (tokens, value_dim) = (self.longest(), self.config.value_dim as usize);
        let has_two = match half {
            Half::Tokens => self.shares_sequences && tokens >= 4 * TOKENS,
            Half::Columns => slice >= value_dim && value_dim > self.lanes,
        };
        let are_alike = self.sequences.iter().all(|other| other.len() == tokens);
        let is_worth_it = self.nanoseconds(tokens, 1) > 4 * WORTH_A_THREAD;
        let has_threads = 2 * chains <= self.threads;
        has_two && are_alike && is_worth_it && has_threads
    }

    /// The time until the last thread is done, in whole heads of a sequence; infinite for a way
    /// that does not work out.
    fn time(&self, Way { slice, segments, heads, in_two, half }: Way) -> f64 {
        let (threads, chains) = (self.threads, self.chains(slice));
        let of_chain = self.of_columns(slice);
        let of_group = heads as f64 * of_chain + OF_A_GROUP;
        if segments > 1 {
            let rounds = (chains * segments).div_ceil(threads) as f64;
            return rounds * (1.0 + self.without_outputs()) / segments as f64 * of_group;
        }
        let sequences = self.sequences.len().max(1);
        if in_two == 0 {
            let tasks = sequences * (chains / sequences).div_ceil(heads);
            return tasks.div_ceil(threads) as f64 * of_group;
        }
        // Each thread has as many whole heads, in whole groups.
        let whole = (chains - in_two) / threads;
        let last = self.value_heads.saturating_sub(in_two);
        let fits = |of: usize| of.is_multiple_of(heads);
        let fit = fits(whole) && (sequences == 1 || fits(self.value_heads) && fits(last));
        if heads > 1 && !fit {
            return f64::INFINITY;
        }
        let of_half = match half {
            Half::Tokens => self.first_part() * of_chain,
            Half::Columns => self.of_columns(self.first_columns(slice)),
        };
        (whole / heads) as f64 * of_group + of_half + OF_A_GROUP
    }

    /// The time of so many columns, in whole heads.
    fn of_columns(&self, columns: usize) -> f64 {
        let of_all = self.of_all_slices();
        let share = columns as f64 / f64::from(self.config.value_dim);
        of_all + (1.0 - of_all) * share.min(1.0)
    }

    /// Columns of the first half of a slice, in whole vectors.
    fn first_columns(&self, slice: usize) -> usize {
        let vectors = slice.min(self.config.value_dim as usize).div_ceil(self.lanes);
        vectors.div_ceil(2) * self.lanes
    }

    /// The share of a head's time that each slice of its columns takes: maps, and products of
    /// queries and keys.
    fn of_all_slices(&self) -> f64 {
        let columns = if self.corrects() { 30.0 } else { 18.0 };
        (columns / f64::from(self.config.value_dim)).min(1.0)
    }

    /// The share of its time without outputs.
    fn without_outputs(&self) -> f64 {
        if self.corrects() { 0.65 } else { 0.55 }
    }

    /// The share of its tokens that the first of two tasks has: the second goes through them as
    /// well, without outputs, and is done as soon.
    fn first_part(&self) -> f64 {
        1.0 / (2.0 - self.without_outputs())
    }

    /// The halves of a task.
    fn in_two(&self, task: Task, half: Half) -> [Task; 2] {
        let Range { start, end } = task.tokens;
        if half == Half::Columns {
            let Range { start, end } = task.columns;
            let middle = start + self.first_columns(end - start);
            return [start..middle, middle..end].map(|columns| Task { columns, ..task.clone() });
        }
        let first = (self.first_part() * task.tokens.len() as f64) as usize;
        let middle = start + first.next_multiple_of(TOKENS).min(task.tokens.len());
        let second = Task { tokens: middle..end, before: start..middle, ..task.clone() };
        [Task { tokens: start..middle, is_last: false, ..task }, second]
    }
}

/// So many segments of a task's tokens; `start` counts those of all tasks that are cut.
fn in_segments(task: Task, segments: usize, start: &mut usize) -> impl Iterator<Item = Task> {
    let first = *start;
    *start += if segments > 1 { segments } else { 0 };
    let Range { start: begin, end } = task.tokens;
    let len = task.tokens.len().div_ceil(segments);
    let ends = (0..segments).map(move |i| (i, end.min(begin + (i + 1) * len)));
    ends.map(move |(i, end)| Task {
        tokens: begin + i * len..end,
        before: begin + i * len..begin + i * len,
        segment: (segments > 1).then_some(Segment { start: first + i, is_first: i == 0 }),
        is_last: i + 1 == segments,
        ..task.clone()
    })
}

/// Deals the last tasks out to the threads, behind an equal share of the others to each.
fn interleave(tasks: &mut [Task], dealt: usize, threads: usize) {
    let whole = tasks.len() - dealt;
    let each = whole / threads;
    for i in 0..dealt.min(threads) {
        // All before it have been dealt.
        let to = (i + 1) * each + i;
        tasks[to..=whole + i].rotate_right(1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;
    use crate::problem::update_rule::{Beta, Decay, UpdateRule};

    /// The tasks of sequences of these lengths, and the time of the busiest thread, in tokens of a
    /// whole head, where each has a share of the list, and then takes from others.
    fn cut(config: &Config, lens: &[usize], [heads, threads]: [usize; 2]) -> (Vec<Task>, f64) {
        let end = |end: &mut usize, len: &usize| {
            *end += len;
            Some(*end - len..*end)
        };
        let sequences: Vec<_> = lens.iter().scan(0, end).collect();
        let extent = Extent {
            config,
            sequences: &sequences,
            value_heads: heads,
            most_heads: 8,
            width: 32,
            lanes: 16,
            threads,
            shares_sequences: true,
        };
        let mut tasks = Vec::new();
        extent.cut(&mut tasks);
        let all = extent.of_all_slices();
        let of_task = |task: &Task| {
            let columns = task.columns.len() as f64 / f64::from(config.value_dim);
            let before = extent.without_outputs() * task.before.len() as f64;
            (before + task.tokens.len() as f64)
                * task.heads.len() as f64
                * (all + (1.0 - all) * columns)
        };
        let share = |thread| thread * tasks.len() / threads;
        let mut queues: Vec<VecDeque<f64>> = (0..threads)
            .map(|thread| tasks[share(thread)..share(thread + 1)].iter().map(of_task).collect())
            .collect();
        let mut busy = vec![0.0f64; threads];
        for _ in &tasks {
            // The thread that is done first; it takes from the longest queue where its own is empty.
            let next = (0..threads).min_by(|a, b| busy[*a].total_cmp(&busy[*b])).unwrap();
            busy[next] += queues[next].pop_front().unwrap_or_else(|| {
                let longest = queues.iter_mut().max_by_key(|queue| queue.len()).unwrap();
                longest.pop_back().unwrap()
            });
        }
        let most = busy.into_iter().fold(0.0, f64::max);
        (tasks, most)
    }

    fn configs() -> [Config; 3] {
        [
            Config::new(64, 64),
            Config::of_rule(48, 200, UpdateRule::Gated(Decay::per_row())),
            Config::of_rule(64, 64, UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head())),
        ]
    }

    /// Each token of each column is in one task, with all tokens before it in the same task or in
    /// those of the segments before.
    #[test]
    fn every_token_has_one_task() {
        let lens: [&[usize]; 7] =
            [&[], &[1], &[1, 1, 1], &[1000], &[9000], &[700, 700, 700], &[5000, 0, 1, 40]];
        for (config, lens) in configs().iter().flat_map(|config| lens.map(|lens| (config, lens))) {
            for [heads, threads] in [[1, 1], [3, 2], [1, 2], [12, 8], [5, 7], [2, 16], [8, 3]] {
                let (tasks, _) = cut(config, lens, [heads, threads]);
                let value_dim = config.value_dim as usize;
                let count = lens.iter().sum::<usize>() * heads * value_dim;
                let of = |task: &Task| task.tokens.len() * task.heads.len() * task.columns.len();
                assert_eq!(tasks.iter().map(of).sum::<usize>(), count);
                let mut seen = HashSet::new();
                for task in &tasks {
                    assert_eq!(task.before.end, task.tokens.start);
                    for (e, t) in
                        task.heads.clone().flat_map(|e| task.tokens.clone().map(move |t| (e, t)))
                    {
                        assert!(seen.insert((e, t, task.columns.start)));
                    }
                    let begin: usize = lens[..task.n].iter().sum();
                    let is_first = task.segment.is_none_or(|segment| segment.is_first);
                    assert_eq!(is_first, task.before.start == begin, "{task:?}");
                    assert_eq!(task.is_last, task.tokens.end == begin + lens[task.n]);
                }
                // Each slice of a head has one final state.
                let last = tasks.iter().filter(|task| task.is_last);
                let columns: usize = last.map(|t| t.heads.len() * t.columns.len()).sum();
                assert_eq!(columns, lens.len() * heads * value_dim);
            }
        }
    }

    #[test]
    fn threads_have_equal_shares() {
        let [linear, _, delta] = &configs();
        for (config, lens, of, most) in [
            // Of heads that threads divide; else a head in two; more heads that are left over.
            (linear, &[1024][..], [8, 2], 4.0),
            (linear, &[1024], [3, 2], 1.65),
            (delta, &[1024], [3, 2], 1.8),
            (linear, &[1024], [12, 8], 1.65),
            (linear, &[1024], [1, 2], 0.65),
            (linear, &[512; 3], [8, 2], 12.0),
            (linear, &[512; 3], [12, 8], 4.65),
            (linear, &[512; 3], [3, 2], 4.65),
            // Segments; slices, since a delta rule has none.
            (linear, &[16_384], [1, 8], 0.13),
            (delta, &[16_384], [1, 8], 0.75),
        ] {
            let (tasks, time) = cut(config, lens, of);
            let time = time / lens[0] as f64;
            assert!(time <= most, "{lens:?} {of:?}: {time} of {} tasks", tasks.len());
        }
    }
}
