//! The memory that a call must leave behind: the reference, sequence by sequence.

use std::ops::Range;

use super::call::Prepared;
use super::entries::Sequence;
use super::run::Found;
use crate::problem::heads::{Heads, Rows};
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;
use crate::problem::state::{StateSlices, split};
use crate::reference;

impl Prepared<'_> {
    /// Compares rows of o, states and the count of ignored entries.
    pub(super) fn compare(&self, found: &Found) -> Result<(), String> {
        let shape = self.plan.shape();
        let heads = Heads::new(self.plan.config(), shape);
        let width = self.plan.config().value_dim as usize;
        let rows = |tokens: Range<usize>| {
            tokens.flat_map(move |t| (0..heads.output).map(move |h| heads.output(t, h)))
        };
        // Between rows nothing is touched; rows of no sequence are zero.
        let mut o = vec![f64::NAN; self.plan.lens().o as usize];
        for begin in rows(0..shape.batch as usize * shape.seq_len as usize) {
            o[begin..begin + width].fill(0.0);
        }
        // `None` for what a call must not touch.
        let mut states: Vec<Option<Vec<f64>>> = vec![None; self.before.len() / self.state_len()];
        for sequence in &self.sequences {
            let (of, after) = self.truth(sequence, sequence.end)?;
            for (begin, of) in rows(sequence.begin..sequence.end).zip(of.chunks(width)) {
                o[begin..begin + width].copy_from_slice(of);
            }
            for (tokens, slot) in &sequence.checkpoints {
                states[*slot] = Some(self.truth(sequence, sequence.begin + tokens)?.1);
            }
            if self.has_final() {
                states[sequence.target] = Some(after);
            }
        }
        let config = self.plan.config();
        let ulp = config.dtype.half_ulp(1.0);
        same("o", &o, &found.o, ulp)?;
        if self.has_final() {
            let is_in_place =
                shape.slots.is_some() || self.call.states == crate::plan::States::InPlace;
            for (n, expected) in states.iter().enumerate() {
                let actual = self.state(&found.states, n);
                let Some(expected) = expected else {
                    let is_kept = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                    let kept = self.state(&self.before, n).iter().zip(actual).all(is_kept);
                    let is_untouched = actual.iter().all(|x| x.to_bits() == u32::MAX);
                    if if is_in_place { kept } else { is_untouched } {
                        continue;
                    }
                    return Err(format!("state {n} was touched"));
                };
                same(&format!("state {n}"), expected, actual, 0.0)?;
            }
        }
        match self.plan.reads_sequences() && found.ignored != self.ignored {
            true => Err(format!("{} entries ignored, expected {}", found.ignored, self.ignored)),
            false => Ok(()),
        }
    }

    /// o and the state after the tokens of a sequence up to `end`.
    fn truth(&self, sequence: &Sequence, end: usize) -> Result<(Vec<f64>, Vec<f64>), String> {
        let (config, shape) = (self.plan.config(), self.plan.shape());
        let tokens = sequence.begin..end;
        let one = Shape::new(1, tokens.len() as u32, shape.heads)
            .with_key_heads(shape.key_heads)
            .with_value_heads(shape.value_heads);
        let all = self.sample.inputs();
        let lens = one.lens(config).map_err(|error| error.to_string())?;
        let cut = |x: &'_ [f32], len: u64| -> Vec<f32> {
            let row = len as usize / tokens.len().max(1);
            x[tokens.start * row..tokens.end * row].to_vec()
        };
        let heads = Heads::new(config, shape);
        let gathered = |of: Rows, heads: u32, width: u32, x: &[f32]| -> Vec<f32> {
            let begins = tokens.clone().flat_map(|t| (0..heads as usize).map(move |h| (t, h)));
            let begins = begins.map(|(t, h)| of.begin(t, h));
            begins.flat_map(|begin| &x[begin..][..width as usize]).copied().collect()
        };
        let q = gathered(heads.q, shape.heads, config.key_dim, all.q);
        let k = gathered(heads.k, shape.key_heads, config.key_dim, all.k);
        let v = gathered(heads.v, shape.value_heads, config.value_dim, all.v);
        let decay = all.decay.map(|x| match config.has_constant_decay() {
            true => x.to_vec(),
            false => cut(x, lens.decay),
        });
        let beta = all.beta.map(|x| cut(x, lens.beta));
        let before = self.has_initial().then(|| self.state(&self.before, sequence.source));
        let before = before.map(|state| split(1, lens.mu as usize, state));
        let initial_state = before.as_ref().map(|(mu, nu)| StateSlices { mu, nu });
        let inputs = Inputs {
            decay: decay.as_deref(),
            beta: beta.as_deref(),
            gate_weights: all.gate_weights,
            weights: all.weights,
            initial_state,
            ..Inputs::new(&q, &k, &v)
        };
        let truth =
            reference::recurrent(config, &one, inputs).map_err(|error| error.to_string())?;
        // A state is mu and then nu.
        Ok((truth.o, [truth.mu, truth.nu].concat()))
    }
}

/// True if values are equal but for rounding.
fn same(what: &str, expected: &[f64], actual: &[f32], ulp: f64) -> Result<(), String> {
    if expected.len() != actual.len() {
        return Err(format!("{what}: {} elements of {}", actual.len(), expected.len()));
    }
    let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    for (i, (expected, actual)) in expected.iter().zip(actual).enumerate() {
        if expected.is_nan() && actual.is_nan() {
            continue;
        }
        let error = (expected - f64::from(*actual)).abs();
        if error.is_nan() || error > 2e-4 * largest + 2.0 * ulp * expected.abs() + 1e-6 {
            return Err(format!("{what}[{i}]: {actual}, expected {expected}"));
        }
    }
    Ok(())
}
