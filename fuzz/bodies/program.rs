//! Any program of calls on a pool of states, beside a plain model of it: the model keeps all tokens
//! of every sequence and computes each output and state again from the first, in f64. It predicts
//! which calls are refused, too, and a call that is refused must change nothing.

use arbitrary::{Arbitrary, Unstructured};
use linear_attention::serve::{Entry, Slot};

use crate::setup::{Setup, Tokens};

/// A pool and the calls on it, on a CPU or on a device.
pub trait Engine {
    fn allocate(&mut self) -> Result<Slot, String>;
    fn free(&mut self, slot: Slot) -> Result<(), String>;
    fn zero(&mut self, slot: Slot) -> Result<(), String>;
    fn copy(&mut self, from: Slot, to: Slot) -> Result<(), String>;
    fn fork_many(&mut self, from: Slot, count: u32) -> Result<Vec<Slot>, String>;
    fn snapshot(&mut self, slot: Slot) -> Result<Vec<u8>, String>;
    fn restore(&mut self, bytes: &[u8]) -> Result<Slot, String>;
    fn available(&self) -> u32;
    /// o, of the tokens of all entries.
    fn call(&mut self, entries: &[Entry], tokens: &Tokens) -> Result<Vec<f32>, String>;
}

#[derive(Arbitrary, Debug)]
enum Step {
    Allocate,
    Free(u8),
    Zero(u8),
    Copy(u8, u8),
    Fork(u8, u8),
    Snapshot(u8),
    Restore(u8, Option<(u16, u8)>),
    Call { entries: Vec<(u8, u8, Option<u8>)>, seed: u16, nan: Option<u8> },
}

/// A sequence: its tokens, or `None` where a NaN has spoilt it.
type History = Option<Tokens>;

/// Most tokens of a sequence, since the model begins each time from the first.
const MOST: usize = 120;

/// The model: every handle that there ever was, with its sequence while it is allocated.
struct Model<'a> {
    setup: &'a Setup,
    handles: Vec<(Slot, Option<History>)>,
    snapshots: Vec<(Vec<u8>, History)>,
}

/// Runs the program that `u` holds; `stranger` is a slot of another pool.
pub fn run(setup: &Setup, engine: &mut impl Engine, stranger: Slot, u: &mut Unstructured<'_>) {
    let mut model = Model { setup, handles: vec![(stranger, None)], snapshots: Vec::new() };
    while let Ok(step) = Step::arbitrary(u) {
        model.step(engine, &step);
        let live = model.handles.iter().filter(|(_, history)| history.is_some()).count();
        assert_eq!(engine.available() as usize, setup.slots as usize - live, "{step:?}");
        if u.is_empty() {
            break;
        }
    }
    for i in 0..model.handles.len() {
        model.check_state(engine, i);
    }
}

impl Model<'_> {
    fn pick(&self, i: u8) -> usize {
        usize::from(i) % self.handles.len()
    }

    fn has_room(&self, count: usize) -> bool {
        let live = self.handles.iter().filter(|(_, history)| history.is_some()).count();
        live + count <= self.setup.slots as usize
    }

    fn add(&mut self, found: Result<Slot, String>, expected: Option<History>) {
        assert_eq!(found.is_ok(), expected.is_some(), "{found:?}");
        if let (Ok(slot), Some(history)) = (found, expected) {
            self.handles.push((slot, Some(history)));
        }
    }

    fn step(&mut self, engine: &mut impl Engine, step: &Step) {
        match step {
            Step::Allocate => {
                let expected = self.has_room(1).then(|| Some(Tokens::default()));
                self.add(engine.allocate(), expected);
            }
            Step::Free(i) => {
                let i = self.pick(*i);
                let (slot, history) = &mut self.handles[i];
                assert_eq!(engine.free(*slot).is_ok(), history.take().is_some());
            }
            Step::Zero(i) => {
                let i = self.pick(*i);
                let (slot, history) = &mut self.handles[i];
                assert_eq!(engine.zero(*slot).is_ok(), history.is_some());
                *history = history.take().map(|_| Some(Tokens::default()));
            }
            Step::Copy(i, j) => {
                let (i, j) = (self.pick(*i), self.pick(*j));
                let [from, to] = [i, j].map(|i| self.handles[i].clone());
                let is_right = from.1.is_some() && to.1.is_some();
                assert_eq!(engine.copy(from.0, to.0).is_ok(), is_right);
                if is_right {
                    self.handles[j].1 = from.1;
                }
                self.check_state(engine, j);
            }
            Step::Fork(i, count) => {
                let (slot, history) = self.handles[self.pick(*i)].clone();
                let count = usize::from(*count % 4);
                let is_right = history.is_some() && self.has_room(count);
                let forks = engine.fork_many(slot, count as u32);
                assert_eq!(forks.is_ok(), is_right, "{forks:?}");
                for fork in forks.into_iter().flatten() {
                    self.handles.push((fork, history.clone()));
                }
            }
            Step::Snapshot(i) => {
                let (slot, history) = self.handles[self.pick(*i)].clone();
                let bytes = engine.snapshot(slot);
                assert_eq!(bytes.is_ok(), history.is_some());
                if let (Ok(bytes), Some(history)) = (bytes, history) {
                    self.snapshots.push((bytes, history));
                }
            }
            Step::Restore(i, damage) => {
                let count = self.snapshots.len().max(1);
                let snapshot = self.snapshots.get(usize::from(*i) % count).cloned();
                let Some((mut bytes, history)) = snapshot else { return };
                let mut is_damaged = false;
                if let Some((at, flip)) = damage {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= flip;
                    is_damaged = *flip != 0;
                }
                let expected = (!is_damaged && self.has_room(1)).then_some(history);
                self.add(engine.restore(&bytes), expected);
                self.check_state(engine, self.handles.len() - 1);
            }
            Step::Call { entries, seed, nan } => self.call(engine, entries, *seed, *nan),
        }
    }

    fn call(
        &mut self,
        engine: &mut impl Engine,
        entries: &[(u8, u8, Option<u8>)],
        seed: u16,
        nan: Option<u8>,
    ) {
        let shape = &self.setup.shape;
        let is_packed = shape.packing != linear_attention::Packing::Equal;
        let entries: Vec<_> = entries
            .iter()
            .take(5)
            .map(|(slot, tokens, source)| {
                let tokens = u32::from(*tokens);
                // Mostly what the shape has room for.
                let tokens = match tokens {
                    250.. => tokens,
                    _ if is_packed => tokens % (shape.max_len() + 1),
                    _ => shape.seq_len,
                };
                (self.pick(*slot), tokens as usize, source.map(|source| self.pick(source)))
            })
            .collect();
        let count: usize = entries.iter().map(|(_, tokens, _)| tokens).sum();
        let of = |i: usize| self.handles[i].1.as_ref();
        let is_long = |(slot, tokens, source): &(usize, usize, Option<usize>)| {
            let before = of(source.unwrap_or(*slot)).and_then(|history| history.as_ref());
            before.is_some_and(|before| before.len + tokens > MOST)
        };
        if entries.iter().any(is_long) {
            return;
        }
        let is_live = |i: usize| of(i).is_some();
        let same = |i: usize, j: usize| self.handles[i].0 == self.handles[j].0;
        let is_right = entries.len() <= shape.sequences() as usize
            && (!is_packed || count <= shape.seq_len as usize)
            && entries.iter().enumerate().all(|(n, (slot, tokens, source))| {
                let reads = source.unwrap_or(*slot);
                let is_whole = if is_packed {
                    *tokens <= shape.max_len() as usize
                } else {
                    *tokens == shape.seq_len as usize
                };
                let is_alone = entries.iter().enumerate().all(|(m, (other, ..))| {
                    m == n || (!same(*other, *slot) && !same(*other, reads))
                });
                is_whole && is_alone && is_live(*slot) && is_live(reads)
            });
        let mut tokens = self.setup.tokens(count, seed.into());
        let spoilt = nan.map(|nan| usize::from(nan) % count.max(1)).filter(|_| count > 0);
        let widths = self.setup.widths();
        if let Some(t) = spoilt {
            tokens.k[t * widths[1]] = f32::NAN;
        }
        let given: Vec<_> = entries
            .iter()
            .map(|(slot, tokens, source)| {
                let entry = Entry::new(self.handles[*slot].0, *tokens as u32);
                match source {
                    Some(source) => entry.with_source(self.handles[*source].0),
                    None => entry,
                }
            })
            .collect();
        let found = engine.call(&given, &tokens);
        assert_eq!(found.is_ok(), is_right, "{entries:?}: {:?}", found.as_ref().err());
        let Ok(o) = found else {
            (0..self.handles.len()).for_each(|i| self.check_state(engine, i));
            return;
        };
        let row = shape.output_heads() as usize * self.setup.config.value_dim as usize;
        let mut begin = 0;
        for (slot, len, source) in &entries {
            let range = begin..begin + len;
            begin += len;
            let before = self.handles[source.unwrap_or(*slot)].1.clone().flatten();
            let is_spoilt = spoilt.is_some_and(|t| range.contains(&t));
            let after = before.filter(|_| !is_spoilt).map(|mut history| {
                history.extend(&tokens, range.clone(), widths);
                history
            });
            if let Some(history) = &after {
                let truth = self.setup.truth(history).0;
                let last = truth.len() - len * row;
                near(&truth[last..], &o[range.start * row..range.end * row]);
            }
            self.handles[*slot].1 = Some(after);
        }
        assert!(o[begin * row..].iter().all(|x| *x == 0.0), "rows of no sequence");
        (0..self.handles.len()).for_each(|i| self.check_state(engine, i));
    }

    /// The state of a slot is that of its sequence.
    fn check_state(&self, engine: &mut impl Engine, i: usize) {
        let (slot, history) = &self.handles[i];
        let found = engine.snapshot(*slot);
        assert_eq!(found.is_ok(), history.is_some());
        if let (Ok(bytes), Some(Some(history))) = (found, history) {
            let state = bytes[48..].chunks_exact(4);
            let state: Vec<f32> =
                state.map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect();
            near(&self.setup.truth(history).1, &state);
        }
    }
}

/// Equal but for the rounding of f32.
fn near(expected: &[f64], found: &[f32]) {
    assert_eq!(expected.len(), found.len());
    let largest = expected.iter().fold(1e-3, |largest: f64, x| largest.max(x.abs()));
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        let error = (expected - f64::from(*found)).abs();
        assert!(error <= 2e-4 * largest, "element {i}: {found}, expected {expected}");
    }
}
