//! Entries of many sequences that cannot be.

use libtest_mimic::Failed;
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::DeviceType;
use linear_attention::{Config, LinearAttention, Options, Shape};

use super::super::is;
use super::{By, D, Given, N, STATE, call, close, limits, numbers, run, slot_of, truth};
use crate::adapters::Gpu;

/// Entries that cannot be, far from one another: the same are ignored as by a host that goes
/// through them one by one, and the others are computed as if they were not there.
pub(in super::super) fn that_conflict(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(D as u32, D as u32);
    let given = Given::new(N);
    let mut lengths: Vec<u32> = (0..=N).collect();
    // Everything between 1000 and 50,000 begins before an earlier entry does.
    lengths[1000] = 50_000;
    lengths[60_000] = 0;
    let mut slots: Vec<u32> = (0..N).map(|n| slot_of(n, N)).collect();
    // Two of a slot, three of a slot, two neighbours; one that is unused, two that are no slot.
    slots[5] = slots[69_000];
    (slots[100], slots[55_000]) = (slots[69_999], slots[69_999]);
    slots[61_000] = slots[61_001];
    slots[62_000] = u32::MAX;
    (slots[300], slots[63_000]) = (N, 1 << 31);
    let slot_of_n = |n: usize| slot_of(n as u32, N) as usize;
    let mut users = vec![0; N as usize];
    slots.iter().filter(|slot| **slot < N).for_each(|slot| users[*slot as usize] += 1);
    let mut latest = 0;
    let is_valid: Vec<bool> = (0..N as usize)
        .map(|n| {
            let [begin, end, slot] = [lengths[n], lengths[n + 1], slots[n]];
            let is_in_order = latest <= begin && begin <= end && end <= N && end - begin <= 1;
            latest = latest.max(begin);
            is_in_order && slot < N && users[slot as usize] == 1
        })
        .collect();
    let ignored = (0..N as usize).filter(|n| !is_valid[*n] && slots[*n] != u32::MAX).count();
    let [all_o, all_states] = truth(&config, &given, slot_of_n);
    let mut o = vec![0.0; all_o.len()];
    let mut states = given.states.clone();
    for n in (0..N as usize).filter(|n| is_valid[*n] && lengths[*n] < lengths[*n + 1]) {
        let (row, state) = (n * D..(n + 1) * D, slots[n] as usize * STATE);
        o[row.clone()].copy_from_slice(&all_o[row]);
        states[state..state + STATE].copy_from_slice(&all_states[state..state + STATE]);
    }
    for device_type in [DeviceType::Cpu, DeviceType::Other] {
        let tuning = Tuning::new(&config, &gpu.device.limits(), device_type)?;
        let options = Options::default().with_tuning(tuning);
        let a = LinearAttention::with_options(&gpu.device, config.clone(), &options)?;
        for shape in [Shape::packed_up_to(limits(N, 1), 1), Shape::packed_up_to(limits(N, 17), 1)] {
            let name = format!("{device_type:?}, up to {} tokens", shape.max_len());
            let words = [&[0], &lengths[..], &slots].concat();
            let call = call(gpu, &a, &shape.with_slots(N), By::Device, &given, &words)?;
            let found = run(gpu, &a, &call)?;
            is(found.2 == ignored as u32, &format!("{name}: {} of {ignored} ignored", found.2))?;
            close(&format!("{name}: o"), &o, &found.0)?;
            close(&format!("{name}: states"), &states, &found.1)?;
        }
    }
    Ok(())
}

/// Any words, slots that are read and written apart: what a host would find that compares all
/// pairs.
pub(in super::super) fn any_entries(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    const FEW: u32 = 700;
    let a = LinearAttention::new(&gpu.device, Config::new(D as u32, D as u32))?;
    let given = Given::new(FEW);
    let shape = Shape::packed_up_to(limits(FEW, 1), 1).with_slots(FEW).with_sources();
    for seed in 0..20u32 {
        let mut random = numbers(3 * FEW as usize, 1000 + seed).into_iter();
        // One word in a hundred is another.
        let mut word = |usual: u32| match random.next() {
            Some(x) if x > 1.96 => (x.to_bits() >> 2) % (FEW + 10),
            _ => usual,
        };
        let lengths: Vec<u32> = (0..=FEW).map(|n| if n == 0 { 0 } else { word(n) }).collect();
        let slots: Vec<u32> = (0..FEW).map(|n| word(slot_of(n, FEW))).collect();
        let sources: Vec<u32> = (0..FEW as usize).map(|n| word(slots[n])).collect();
        let is_in_pool = |n: usize| slots[n] < FEW;
        let clash = |n: usize, m: usize| {
            let reads = |n: usize, m: usize| sources[n] == slots[m] && sources[n] < FEW;
            n != m && is_in_pool(m) && (slots[n] == slots[m] || reads(n, m) || reads(m, n))
        };
        let mut latest = 0;
        let mut is_valid = Vec::new();
        for n in 0..FEW as usize {
            let [begin, end] = [lengths[n], lengths[n + 1]];
            let is_in_order = latest <= begin && begin <= end && end <= FEW && end - begin <= 1;
            latest = latest.max(begin);
            let has_twin = is_in_pool(n) && (0..FEW as usize).any(|m| clash(n, m));
            is_valid.push(is_in_order && is_in_pool(n) && sources[n] < FEW && !has_twin);
        }
        let [all_o, _] = truth(a.config(), &given, |n| sources[n].min(FEW - 1) as usize);
        let ignored = is_valid.iter().filter(|is_valid| !**is_valid).count();
        let words = [&[0], &lengths[..], &slots, &sources].concat();
        let call = call(gpu, &a, &shape, By::Device, &given, &words)?;
        let (o, states, status) = run(gpu, &a, &call)?;
        is(status == ignored as u32, &format!("{seed}: {status} of {ignored} ignored"))?;
        let mut expected = vec![0.0; o.len()];
        let mut kept = vec![true; FEW as usize];
        for n in (0..FEW as usize).filter(|n| is_valid[*n] && lengths[*n] < lengths[*n + 1]) {
            // Token n is row lengths[n], which has its own inputs only where it is row n.
            let row = lengths[n] as usize;
            kept[slots[n] as usize] = false;
            let of_row = row * D..(row + 1) * D;
            let source = if row == n { &all_o } else { &o };
            expected[of_row.clone()].copy_from_slice(&source[of_row]);
        }
        close(&format!("{seed}: o"), &expected, &o)?;
        for slot in (0..FEW as usize).filter(|slot| kept[*slot]) {
            let of = slot * STATE..(slot + 1) * STATE;
            is(states[of.clone()] == given.states[of], &format!("{seed}: state {slot} changed"))?;
        }
    }
    Ok(())
}

/// A call on a pool in bounded submissions has the bits, and ignores the entries, of one
/// submission: a step and a prompt, whose entries the host or the device wrote.
pub(in super::super) fn in_bounded_submissions(
    gpu: &Gpu,
    _: &LinearAttention,
) -> Result<(), Failed> {
    const SOME: u32 = 20_000;
    let config = Config::new(D as u32, D as u32);
    let given = Given::new(SOME);
    let lengths: Vec<u32> = (0..=SOME).collect();
    let mut slots: Vec<u32> = (0..SOME).map(|n| slot_of(n, SOME)).collect();
    slots[5] = slots[19_000];
    let words = [&[0], &lengths[..], &slots].concat();
    let device_type = gpu.device.adapter_info().device_type;
    let tuning = Tuning::new(&config, &gpu.device.limits(), device_type)?;
    for (max_len, by) in [(1, By::Host), (1, By::Device), (17, By::Host), (17, By::Device)] {
        let shape = Shape::packed_up_to(limits(SOME, max_len), 1).with_slots(SOME);
        let mut found = Vec::new();
        for budget in [u64::MAX, 1 << 20] {
            let options = Options::default().with_tuning(tuning.with_max_operations(budget));
            let a = LinearAttention::with_options(&gpu.device, config.clone(), &options)?;
            let call = call(gpu, &a, &shape, by, &given, &words)?;
            let is_cut = call.bound.submissions() > 1;
            is(
                is_cut == (budget == 1 << 20),
                &format!("{} submissions", call.bound.submissions()),
            )?;
            found.push(run(gpu, &a, &call)?);
        }
        let ignored = if by == By::Device { 2 } else { 0 };
        is(found[0].2 == ignored, &format!("{by:?}: {} ignored", found[0].2))?;
        is(found[0] == found[1], &format!("{by:?}, up to {max_len} tokens: other bits"))?;
    }
    Ok(())
}
