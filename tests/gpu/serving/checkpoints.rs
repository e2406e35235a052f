//! States read from one slot and written to others: shared prefixes, checkpoints, rollbacks.

use libtest_mimic::Failed;
use linear_attention::serve::{Batch, Checkpoint, Entry, Sequences, Slot, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, Tuning};
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{
    Config, FeatureMap, Inputs, LinearAttention, Normalization, Options, Shape, Tensors, reference,
    state,
};

use super::{buffer, encoder, is};
use crate::adapters::Gpu;
use crate::properties::{close, numbers};

const K: usize = 16;
const SLOTS: u32 = 12;

/// Tokens of one head, as q, k, v, decay and beta.
#[derive(Clone, Default)]
struct Tokens([Vec<f32>; 5]);

impl Tokens {
    fn new(len: usize, salt: u32) -> Self {
        let unit = |salt| numbers(len, salt).into_iter().map(|x| 0.25 * x.abs());
        let mut k = numbers(len * K, salt + 1);
        for row in k.chunks_mut(K) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        Self([
            numbers(len * K, salt),
            k,
            numbers(len * K, salt + 2),
            unit(salt + 3).map(|x| -x).collect(),
            unit(salt + 4).collect(),
        ])
    }

    fn len(&self) -> usize {
        self.0[3].len()
    }

    fn first(&self, len: usize) -> Self {
        let widths = [K, K, K, 1, 1];
        let mut first = self.clone();
        for (x, width) in first.0.iter_mut().zip(widths) {
            x.truncate(len * width);
        }
        first
    }

    fn then(&self, next: &Self) -> Self {
        let mut all = self.clone();
        for (x, next) in all.0.iter_mut().zip(&next.0) {
            x.extend_from_slice(next);
        }
        all
    }

    /// o and the state after them, from zero.
    fn truth(&self, config: &Config) -> Result<[Vec<f32>; 2], Failed> {
        let [q, k, v, decay, beta] = &self.0;
        let mut inputs = Inputs::new(q, k, v);
        inputs.decay = config.update_rule.decay().map(|_| &decay[..]);
        inputs.beta = config.update_rule.beta().map(|_| &beta[..]);
        let out = reference::recurrent(config, &Shape::new(1, self.len() as u32, 1), inputs)?;
        let to_f32 = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        Ok([to_f32(&out.o), state::join(1, &to_f32(&out.mu), &to_f32(&out.nu))])
    }
}

struct Engine<'a> {
    gpu: &'a Gpu,
    attention: LinearAttention,
    pool: StatePool,
    slots: Vec<Slot>,
}

impl<'a> Engine<'a> {
    fn new(gpu: &'a Gpu, config: &Config, tuning: Option<Tuning>) -> Result<Self, Failed> {
        let options = Options::default().with_tuning(tuning);
        let attention = LinearAttention::with_options(&gpu.device, config.clone(), &options)?;
        let pool = StatePool::new(&gpu.device, config, 1, SLOTS)?;
        let mut encoder = encoder(gpu);
        let slots = (0..SLOTS).map(|_| pool.allocate(&mut encoder)).collect::<Result<_, _>>()?;
        gpu.queue.submit([encoder.finish()]);
        Ok(Self { gpu, attention, pool, slots })
    }

    /// One call: the tokens of each sequence, from one slot to another, with checkpoints.
    fn call(
        &self,
        sequences: &[(&Tokens, usize, usize)],
        checkpoints: &[(u32, u32, usize)],
    ) -> Result<Vec<f32>, Failed> {
        // A few tokens without checkpoints are a step of decoding.
        let is_short = checkpoints.is_empty() && sequences.iter().all(|(t, ..)| t.len() <= 4);
        let (max_len, count) = if is_short { (4, 0) } else { (40, 4) };
        let limits = PackedLimits { sequences: 3, tokens: 80, max_len };
        let shape = Shape::packed_up_to(limits, 1).with_slots(SLOTS).with_sources();
        let shape = shape.with_checkpoints(count);
        let plan = self.attention.plan(&shape)?;
        let rule = plan.config().update_rule;
        let mut all = Tokens::default();
        for (tokens, ..) in sequences {
            all = all.then(tokens);
        }
        let lens = plan.lens();
        let sizes = [lens.q, lens.k, lens.v, lens.decay, lens.beta];
        let buffers: Vec<_> = all
            .0
            .iter()
            .zip(sizes)
            .map(|(x, len)| {
                let mut x = x.clone();
                x.resize((len as usize).max(1), f32::NAN);
                buffer(self.gpu, bytemuck::cast_slice(&x))
            })
            .collect();
        let [q, k, v, decay, beta] = &buffers[..] else { return Err("five tensors".into()) };
        let o = buffer(self.gpu, &vec![0xFF; 4 * lens.o as usize]);
        let scratch = buffer(self.gpu, &vec![0xFF; plan.scratch_size() as usize]);
        let batch = Batch::new(&plan, &self.pool)?;
        let entries: Vec<_> = sequences
            .iter()
            .map(|(tokens, from, to)| {
                Entry::new(self.slots[*to], tokens.len() as u32).with_source(self.slots[*from])
            })
            .collect();
        let checkpoints: Vec<_> = checkpoints
            .iter()
            .map(|(sequence, tokens, slot)| Checkpoint {
                sequence: *sequence,
                tokens: *tokens,
                slot: self.slots[*slot],
            })
            .collect();
        batch.write_with_checkpoints(&self.gpu.queue, &self.pool, &entries, &checkpoints)?;
        let mut tensors = Tensors::new(q, k, v, &o)
            .with_pool(self.pool.binding())
            .with_sequences(Sequences::Host(&batch));
        tensors.decay = rule.decay().map(|_| decay.as_entire_buffer_binding());
        tensors.beta = rule.beta().map(|_| beta.as_entire_buffer_binding());
        let bound =
            self.attention.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
        let mut encoder = encoder(self.gpu);
        self.attention.record(&mut encoder, &bound);
        let readback = linear_attention::Readback::record(&self.gpu.device, &mut encoder, &[&o])?;
        self.gpu.queue.submit([encoder.finish()]);
        let mut o: Vec<f32> = readback.wait()?.concat();
        o.truncate(all.len() * K);
        Ok(o)
    }

    fn state(&self, slot: usize) -> Result<Vec<f32>, Failed> {
        let found = super::states(self.gpu, &self.pool)?;
        let len = found.len() / SLOTS as usize;
        Ok(found[self.slots[slot].index() as usize * len..][..len].to_vec())
    }

    /// Fails unless a slot has the state after these tokens.
    fn holds(&self, slot: usize, tokens: &Tokens) -> Result<(), Failed> {
        let [_, truth] = tokens.truth(self.attention.config())?;
        close(&format!("slot {slot}"), &truth, &self.state(slot)?)
    }
}

/// Two users continue one prefix, which stays as it was; their states are stored on the way.
pub(super) fn states_on_the_way(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let device_type = gpu.device.adapter_info().device_type;
    for config in configs() {
        let usual = Tuning::new(&config, &gpu.device.limits(), device_type)?;
        let mut segments = usual;
        (segments.min_segment_len, segments.max_segment_len) = (u32::MAX, 10);
        let workgroup = segments.with_layout(Layout::workgroup(4, 4, 4, 8));
        for tuning in [usual, segments, workgroup] {
            let engine = Engine::new(gpu, &config, Some(tuning))?;
            let (prefix, a, b) = (Tokens::new(9, 1), Tokens::new(27, 20), Tokens::new(8, 40));
            engine.call(&[(&prefix, 0, 0)], &[])?;
            let checkpoints = [(0, 27, 3), (0, 1, 4), (1, 5, 6), (0, 13, 5), (1, 5, 7), (1, 8, 8)];
            let o = engine.call(&[(&a, 0, 1), (&b, 0, 2)], &checkpoints)?;
            let of = |tokens: &Tokens| -> Result<Vec<f32>, Failed> {
                let [o, _] = prefix.then(tokens).truth(&config)?;
                Ok(o[prefix.len() * K..].to_vec())
            };
            close("o", &[of(&a)?, of(&b)?].concat(), &o)?;
            engine.holds(0, &prefix)?;
            let all = [(1, &a, 27), (2, &b, 8), (3, &a, 27), (4, &a, 1), (5, &a, 13)];
            for (slot, tokens, len) in all.into_iter().chain([(6, &b, 5), (7, &b, 5), (8, &b, 8)]) {
                engine.holds(slot, &prefix.then(&tokens.first(len)))?;
            }
            is(engine.state(9)?.iter().all(|x| *x == 0.0), "no other slot is written")?;
        }
    }
    Ok(())
}

/// A draft of four tokens is stored after each; two are kept, and the sequence goes on from there.
pub(super) fn rollback(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for config in configs() {
        let engine = Engine::new(gpu, &config, None)?;
        let (prompt, draft, next) = (Tokens::new(6, 1), Tokens::new(4, 20), Tokens::new(3, 40));
        engine.call(&[(&prompt, 0, 0)], &[])?;
        let after_each = [(0, 1, 1), (0, 2, 2), (0, 3, 3)];
        engine.call(&[(&draft, 0, 4)], &after_each)?;
        let kept = prompt.then(&draft.first(2));
        let o = engine.call(&[(&next, 2, 0)], &[])?;
        let [truth, _] = kept.then(&next).truth(&config)?;
        close("o", &truth[kept.len() * K..], &o)?;
        engine.holds(0, &kept.then(&next))?;
        engine.holds(4, &prompt.then(&draft))?;
    }
    Ok(())
}

/// No call may have a slot written twice, one that a sequence reads and another writes, a
/// checkpoint of no token, more of them than the shape has.
pub(super) fn refusals(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let engine = Engine::new(gpu, &configs()[0], None)?;
    let tokens = Tokens::new(4, 1);
    let refused =
        |sequences: &[(&Tokens, usize, usize)], checkpoints: &[(u32, u32, usize)], said| {
            match engine.call(sequences, checkpoints) {
                Ok(_) => Err(Failed::from(format!("accepted: {said}"))),
                Err(error) => {
                    let message = error.message().unwrap_or_default().to_owned();
                    is(message.contains(said), &format!("{said} in {message}"))
                }
            }
        };
    let (one, two) = (&[(&tokens, 0, 1)], &[(&tokens, 0, 1), (&tokens, 1, 2)]);
    refused(two, &[], "slot 1 must not be read where another sequence of the call writes it")?;
    refused(one, &[(0, 1, 1)], "slot 1 must be used once in a call")?;
    refused(one, &[(0, 0, 3)], "tokens of a checkpoint must be 4")?;
    refused(one, &[(0, 5, 3)], "tokens of a checkpoint must be 4")?;
    refused(one, &[(1, 1, 3)], "sequence of a checkpoint")?;
    let many: Vec<_> = (0..5).map(|i| (0, 1, 3 + i)).collect();
    refused(one, &many, "checkpoints of a sequence must be 4")?;
    let no_slots = engine.attention.plan(&Shape::new(1, 4, 1).with_checkpoints(1));
    is(
        no_slots.is_err_and(|error| error.to_string().contains("slots must be given")),
        "checkpoints without a pool",
    )
}

fn configs() -> Vec<Config> {
    let k = K as u32;
    let (decay, beta) = (Decay::per_head(), Beta::per_head());
    let gated = Config::new(k, k)
        .with_update_rule(UpdateRule::Gated(decay))
        .with_feature_map(FeatureMap::Elu)
        .with_normalization(Normalization::default());
    vec![Config::new(k, k), gated, Config::of_rule(k, k, UpdateRule::GatedDelta(decay, beta))]
}
