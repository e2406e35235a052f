//! States in a pool.

use linear_attention::cpu::{CpuPlan, StatePool, Tensors};
use linear_attention::serve::{Entry, Slot};
use linear_attention::shape::PackedLimits;
use linear_attention::{Config, Output, Shape};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::{Sample, assert_slices_near, configs, plan, with_threads};

/// A plan for up to four sequences of up to 40 tokens, and what its calls take.
struct Engine {
    config: Config,
    plan: CpuPlan,
    pool: StatePool,
    sample: Sample,
    output: Output,
}

/// Tokens of a call.
const TOKENS: u32 = 64;
const HEADS: u32 = 2;

impl Engine {
    fn new(config: &Config) -> Self {
        let limits = PackedLimits { sequences: 4, tokens: TOKENS, max_len: 40 };
        let shape = Shape::packed_up_to(limits, HEADS);
        let plan = plan(config, &shape);
        Self {
            config: config.clone(),
            sample: Sample::new(config, &shape, 0.7),
            output: Output::zeros(plan.lens()),
            pool: StatePool::new(config, HEADS, 8).unwrap(),
            plan,
        }
    }

    /// The tokens of a call go to these slots.
    fn run(&mut self, entries: &[Entry]) -> Result<(), linear_attention::Error> {
        self.output.o.fill(f32::NAN);
        let tensors = Tensors::of(self.sample.inputs(), &mut self.output).without_states();
        self.plan.run_in_pool(&self.pool, entries, tensors)
    }

    /// Rows of o of some tokens of the call.
    fn rows(&self, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let row = (HEADS * self.config.value_dim) as usize;
        self.output.o[tokens.start * row..tokens.end * row].to_vec()
    }

    /// The same of one sequence run alone, of which each piece is a range of a call's tokens.
    fn alone(&self, pieces: &[std::ops::Range<usize>]) -> Vec<f32> {
        let count: usize = pieces.iter().map(|piece| piece.len()).sum();
        let shape = Shape::new(1, count as u32, HEADS);
        let mut plan = plan(&self.config, &shape);
        let lens = *plan.lens();
        let joined = |x: &[f32], row: u64| -> Vec<f32> {
            let row = row as usize;
            let rows = |piece: &std::ops::Range<usize>| &x[piece.start * row..piece.end * row];
            pieces.iter().flat_map(rows).copied().collect()
        };
        let per_token = |len: u64| len / count as u64;
        let sample = Sample {
            q: joined(&self.sample.q, per_token(lens.q)),
            k: joined(&self.sample.k, per_token(lens.k)),
            v: joined(&self.sample.v, per_token(lens.v)),
            decay: joined(&self.sample.decay, per_token(lens.decay)),
            beta: joined(&self.sample.beta, per_token(lens.beta)),
            mu: Vec::new(),
            nu: Vec::new(),
        };
        let mut output = Output::zeros(&lens);
        plan.run(Tensors::of(sample.inputs(), &mut output)).unwrap();
        let last = pieces.last().map_or(0, ExactSizeIterator::len);
        output.o.split_off(output.o.len() - last * (HEADS * self.config.value_dim) as usize)
    }
}

/// The tokens that a slot's sequence has seen.
type Seen = Vec<std::ops::Range<usize>>;

/// Any schedule of prefill, decode, forks, snapshots, rollbacks and leaving: each sequence gets
/// what it gets alone, and rows of no sequence are zero.
#[test]
fn any_schedule() {
    let mut runner = TestRunner::deterministic();
    let step = (0u32..5, 0usize..8, 0usize..8, 1u32..30);
    for config in configs(12, 20) {
        let steps = prop::collection::vec(step.clone(), 24);
        let mut engine = Engine::new(&config);
        let mut sequences: Vec<(Slot, Seen)> = Vec::new();
        for (action, i, j, tokens) in steps.new_tree(&mut runner).unwrap().current() {
            let pick = |i: usize, len: usize| if len == 0 { 0 } else { i % len };
            let (i, j) = (pick(i, sequences.len()), pick(j, sequences.len()));
            match action {
                0 if sequences.len() < 7 => {
                    sequences.push((engine.pool.allocate().unwrap(), Seen::new()));
                }
                1 if !sequences.is_empty() && sequences.len() < 7 => {
                    let fork = engine.pool.fork(sequences[i].0).unwrap();
                    sequences.push((fork, sequences[i].1.clone()));
                }
                2 if !sequences.is_empty() => {
                    let (slot, seen) = sequences.swap_remove(i);
                    let bytes = engine.pool.snapshot(slot).unwrap();
                    engine.pool.free(slot).unwrap();
                    sequences.push((engine.pool.restore(&bytes).unwrap(), seen));
                }
                3 if sequences.len() > 1 && i != j => {
                    // Continues what another has seen, in its own slot.
                    let entry = Entry::new(sequences[i].0, 1).with_source(sequences[j].0);
                    engine.run(&[entry]).unwrap();
                    sequences[i].1 = sequences[j].1.clone();
                    sequences[i].1.push(0..1);
                    let expected = engine.alone(&sequences[i].1);
                    assert_slices_near(&engine.rows(0..1), &expected);
                }
                _ if !sequences.is_empty() => {
                    // Two sequences decode or are given more of their prompts.
                    let tokens = [tokens, 1, 0][..sequences.len().min(3)].to_vec();
                    let entries: Vec<Entry> = sequences
                        .iter()
                        .zip(&tokens)
                        .map(|((slot, _), tokens)| Entry::new(*slot, *tokens))
                        .collect();
                    engine.run(&entries).unwrap();
                    let mut end = 0;
                    for ((_, seen), tokens) in sequences.iter_mut().zip(&tokens) {
                        let piece = end..end + *tokens as usize;
                        end = piece.end;
                        if piece.is_empty() {
                            continue;
                        }
                        seen.push(piece.clone());
                        assert_slices_near(&engine.rows(piece), &engine.alone(seen));
                    }
                    assert!(engine.rows(end..TOKENS as usize).iter().all(|x| *x == 0.0));
                }
                _ => {}
            }
        }
        assert!(sequences.iter().any(|(_, seen)| seen.len() > 2), "nothing happened");
    }
}

/// Columns of a state that several threads share are read and written as one: slices of one head,
/// and halves of the head that two threads have left.
#[test]
fn threads_share_a_state() {
    for ([tokens, heads], threads, [key_dim, value_dim]) in
        [([40, 1], 6, [12, 100]), ([700, 3], 2, [64, 72])]
    {
        for config in configs(key_dim, value_dim) {
            let shape = Shape::new(1, tokens, heads);
            let sample = Sample::new(&config, &shape, 0.9);
            let run = || {
                let mut plan = plan(&config, &shape);
                let pool = StatePool::new(&config, heads, 1).unwrap();
                let entries = [Entry::new(pool.allocate().unwrap(), tokens)];
                let mut output = Output::zeros(plan.lens());
                for _ in 0..3 {
                    let tensors = Tensors::of(sample.inputs(), &mut output).without_states();
                    plan.run_in_pool(&pool, &entries, tensors).unwrap();
                }
                (output.o, pool.snapshot(entries[0].slot).unwrap())
            };
            let (expected, found) = (with_threads(1, run), with_threads(threads, run));
            assert_slices_near(&found.0, &expected.0);
            let floats = |bytes: &[u8]| -> Vec<f32> { bytemuck::pod_collect_to_vec(&bytes[48..]) };
            assert_slices_near(&floats(&found.1), &floats(&expected.1));
        }
    }
}

#[test]
fn wrong_entries_are_refused() {
    let mut engine = Engine::new(&Config::new(4, 4));
    let [a, b] = [(); 2].map(|()| engine.pool.allocate().unwrap());
    engine.run(&[Entry::new(a, 3)]).unwrap();
    let before = engine.pool.snapshot(a).unwrap();
    let freed = engine.pool.allocate().unwrap();
    engine.pool.free(freed).unwrap();
    for (entries, message) in [
        (vec![Entry::new(a, 41)], "tokens of a sequence must be 40 as in the plan, found 41"),
        (vec![Entry::new(a, 40), Entry::new(b, 30)], "tokens must be 64 as in the plan, found 70"),
        (vec![Entry::new(a, 0); 5], "sequences must be 4 as in the plan, found 5"),
        (vec![Entry::new(a, 1); 2], "slot 0 must be used once in a call, found again"),
        (vec![Entry::new(freed, 1)], "slot 2 must be allocated and not freed since"),
        (
            vec![Entry::new(a, 1), Entry::new(b, 1).with_source(a)],
            "slot 0 must not be read where another sequence of the call writes it",
        ),
    ] {
        assert_eq!(engine.run(&entries).unwrap_err().to_string(), message);
        assert!(engine.output.o.iter().all(|x| x.is_nan()));
    }
    let tensors = Tensors::of(engine.sample.inputs(), &mut engine.output);
    let message = engine.plan.run_in_pool(&engine.pool, &[], tensors).unwrap_err().to_string();
    assert_eq!(message, "update rule linear: final_mu must be absent beside a pool, found some");
    let other = StatePool::new(&Config::new(4, 5), HEADS, 8).unwrap();
    let tensors = Tensors::of(engine.sample.inputs(), &mut engine.output).without_states();
    let message = engine.plan.run_in_pool(&other, &[], tensors).unwrap_err().to_string();
    assert!(message.starts_with("pool: config must be K = 4, V = 4"), "{message}");
    assert_eq!(engine.pool.snapshot(a).unwrap(), before);
    assert!(engine.pool.restore(&before[1..]).is_err());
    assert_eq!([engine.pool.capacity(), engine.pool.available()], [8, 6]);
}

/// Steps of decoding allocate nothing either.
#[test]
fn steps_allocate_nothing() {
    for config in configs(12, 20) {
        let mut engine = Engine::new(&config);
        let slots = engine.pool.fork_many(engine.pool.allocate().unwrap(), 4).unwrap();
        let allocations = with_threads(1, || {
            let entries: Vec<Entry> =
                slots.iter().zip([1, 30, 0, 2]).map(|(slot, n)| Entry::new(*slot, n)).collect();
            allocation_counter::measure(|| engine.run(&entries).unwrap())
        });
        assert_eq!(allocations.count_total, 0, "{config:?}");
    }
}
