//! Any schedule of prefill, decode, fork, snapshot and leaving.

use libtest_mimic::Failed;
use linear_attention::serve::{Entry, Slot, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, Inputs, LinearAttention, Shape, reference};
use proptest::prelude::*;
use proptest::test_runner::{Config as Proptest, TestCaseError, TestRunner};

use super::super::properties::{close, numbers};
use super::{Caller, D, encoder};
use crate::adapters::Gpu;

/// A step of a schedule; users are counted modulo those there are.
#[derive(Clone, Debug)]
enum Act {
    /// Tokens for some users in one call: a piece of a prompt, or a few to decode.
    Feed(Vec<(usize, u32)>),
    /// A new user with another's tokens so far.
    Fork(usize),
    /// A user leaves the device and comes back to another slot.
    Away(usize),
    /// A user is gone.
    Leave(usize),
    /// A new user.
    Arrive,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let piece = prop::collection::vec((0usize..8, 0u32..30), 1..5).prop_map(Act::Feed);
    let few = prop::collection::vec((0usize..8, 0u32..4), 1..6).prop_map(Act::Feed);
    let act = prop_oneof![
        3 => piece,
        4 => few,
        1 => (0usize..8).prop_map(Act::Fork),
        1 => (0usize..8).prop_map(Act::Away),
        1 => (0usize..8).prop_map(Act::Leave),
        2 => Just(Act::Arrive),
    ];
    prop::collection::vec(act, 1..14)
}

/// A user, all tokens so far, and the outputs as they came.
#[derive(Clone)]
struct User {
    slot: Slot,
    /// q, k, v, decay and beta.
    tensors: [Vec<f32>; 5],
    o: Vec<f32>,
}

/// Whatever is called in which order, every user's outputs are those of the whole sequence.
pub(super) fn any_schedule(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    any(gpu, a, 12)
}

/// The same with states that decay and are corrected.
pub(super) fn any_schedule_of_rules(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (k, v) = (a.config().key_dim, a.config().value_dim);
    let gated = a.config().clone().with_update_rule(UpdateRule::Gated(Decay::per_head()));
    let delta = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    for config in [gated, Config::of_rule(k, v, delta)] {
        any(gpu, &LinearAttention::new(&gpu.device, config)?, 6)?;
    }
    Ok(())
}

fn any(gpu: &Gpu, a: &LinearAttention, cases: u32) -> Result<(), Failed> {
    let mut runner =
        TestRunner::new(Proptest { cases, failure_persistence: None, ..Proptest::default() });
    let held = runner.run(&acts(), |acts| {
        follow(gpu, a, &acts).map_err(|error| TestCaseError::fail(format!("{error:?}")))
    });
    held.map_err(|error| Failed::from(error.to_string()))
}

fn follow(gpu: &Gpu, a: &LinearAttention, acts: &[Act]) -> Result<(), Failed> {
    const SLOTS: u32 = 9;
    let pool = StatePool::new(&gpu.device, a.config(), 1, SLOTS)?;
    // Both are bound once, whoever comes and goes.
    let of = |shape: Shape| Caller::new(gpu, a, &pool, &shape.with_slots(SLOTS), true);
    let prefill =
        of(Shape::packed_up_to(PackedLimits { sequences: 4, tokens: 70, max_len: 29 }, 1))?;
    let decode = of(Shape::packed_up_to(PackedLimits { sequences: 6, tokens: 14, max_len: 3 }, 1))?;
    let mut users: Vec<User> = Vec::new();
    let mut salt = 0;
    for act in acts {
        let mut encoder = encoder(gpu);
        match act {
            Act::Arrive => {
                if let Ok(slot) = pool.allocate(&mut encoder) {
                    users.push(User { slot, tensors: Default::default(), o: Vec::new() });
                }
            }
            _ if users.is_empty() => {}
            Act::Fork(user) => {
                let user = users[user % users.len()].clone();
                if let Ok(slot) = pool.fork(&mut encoder, user.slot) {
                    users.push(User { slot, ..user });
                }
            }
            Act::Leave(user) => {
                let user = users.remove(user % users.len());
                pool.free(user.slot)?;
            }
            Act::Away(user) => {
                let index = user % users.len();
                let snapshot = pool.snapshot(&mut encoder, users[index].slot)?;
                gpu.queue.submit([encoder.finish()]);
                let bytes = snapshot.wait()?;
                pool.free(users[index].slot)?;
                // Someone takes the slot meanwhile, if there is another for the one who returns.
                encoder = super::encoder(gpu);
                let other = pool.allocate(&mut encoder)?;
                if pool.available() == 0 {
                    pool.free(other)?;
                }
                users[index].slot = pool.restore(&mut encoder, &bytes)?;
                if pool.index(other).is_ok() {
                    pool.free(other)?;
                }
            }
            Act::Feed(wanted) => {
                let mut entries: Vec<(usize, u32)> = Vec::new();
                for (user, tokens) in wanted {
                    let user = user % users.len();
                    if entries.iter().all(|(other, _)| *other != user) {
                        entries.push((user, *tokens));
                    }
                }
                let is_few = entries.iter().all(|(_, tokens)| *tokens <= 3);
                let caller = if is_few { &decode } else { &prefill };
                let shape = caller.plan.shape();
                entries.truncate(shape.sequences() as usize);
                while entries.iter().map(|(_, tokens)| tokens).sum::<u32>() > shape.seq_len {
                    entries.pop();
                }
                feed(gpu, a, &pool, caller, &mut users, &entries, &mut salt)?;
            }
        }
        gpu.queue.submit([encoder.finish()]);
    }
    for user in &users {
        let tokens = user.o.len() / D;
        if tokens == 0 {
            continue;
        }
        let [q, k, v, decay, beta] = &user.tensors;
        let shape = Shape::new(1, tokens as u32, 1);
        let mut inputs = Inputs::new(q, k, v);
        inputs.decay = a.config().update_rule.decay().map(|_| &decay[..]);
        inputs.beta = a.config().update_rule.beta().map(|_| &beta[..]);
        let truth = reference::recurrent(a.config(), &shape, inputs)?;
        let truth: Vec<f32> = truth.o.iter().map(|x| *x as f32).collect();
        close("o", &truth, &user.o)?;
    }
    Ok(())
}

fn normalise(rows: &mut [f32]) {
    for row in rows.chunks_mut(D) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

fn feed(
    gpu: &Gpu,
    a: &LinearAttention,
    pool: &StatePool,
    caller: &Caller,
    users: &mut [User],
    entries: &[(usize, u32)],
    salt: &mut u32,
) -> Result<(), Failed> {
    let mut tensors: [Vec<f32>; 5] = Default::default();
    for (user, tokens) in entries {
        let own = &mut users[*user].tensors;
        for (i, (all, own)) in tensors.iter_mut().zip(own).enumerate() {
            *salt += 1;
            let width = if i < 3 { D } else { 1 };
            let mut new = numbers(*tokens as usize * width, *salt);
            match i {
                // Keys of any norm make a delta rule diverge.
                1 if a.config().update_rule.beta().is_some() => normalise(&mut new),
                3 => new.iter_mut().for_each(|x| *x = -0.2 * x.abs()),
                4 => new.iter_mut().for_each(|x| *x = 0.5 * x.abs()),
                _ => {}
            }
            own.extend_from_slice(&new);
            all.extend_from_slice(&new);
        }
    }
    let told: Vec<Entry> =
        entries.iter().map(|(user, tokens)| Entry::new(users[*user].slot, *tokens)).collect();
    let batch = caller.batch.as_ref().ok_or("told by the host")?;
    batch.write(&gpu.queue, pool, &told)?;
    let [q, k, v, decay, beta] = &tensors;
    let rule = a.config().update_rule;
    let gates = [
        if rule.decay().is_some() { &decay[..] } else { &[] },
        if rule.beta().is_some() { &beta[..] } else { &[] },
    ];
    let (o, _) = caller.run_with_gates(gpu, a, [q, k, v], gates)?;
    let mut begin = 0;
    for (user, tokens) in entries {
        let end = begin + *tokens as usize * D;
        users[*user].o.extend_from_slice(&o[begin..end]);
        begin = end;
    }
    Ok(())
}
