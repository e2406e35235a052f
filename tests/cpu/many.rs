//! Many sequences in one call.

use std::time::Instant;

use linear_attention::cpu::{StatePool, Tensors};
use linear_attention::serve::{Entry, Slot};
use linear_attention::shape::PackedLimits;
use linear_attention::{Config, Output, Shape, reference};

use crate::{Sample, assert_slices_near, plan};

const N: u32 = 70_000;
const D: u32 = 4;

fn f32s(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// Equal, packed, packed with one long one, and in a pool whose slots are in no order.
#[test]
fn many_sequences_of_one_token() {
    let config = Config::new(D, D);
    let mut mixed = vec![1; N as usize];
    mixed[30_000] = 5000;
    for shape in [
        Shape::new(N, 1, 1),
        Shape::packed(&vec![1; N as usize], 1),
        Shape::packed(&mixed, 1),
        Shape::packed(&vec![1; N as usize], 2).with_kv_heads(1),
    ] {
        let sample = Sample::new(&config, &shape, 0.3);
        let inputs = sample.inputs();
        let mut plan = plan(&config, &shape);
        let mut output = Output::zeros(plan.lens());
        plan.run(Tensors::of(inputs, &mut output)).unwrap();
        let truth = reference::recurrent(&config, &shape, inputs).unwrap();
        assert_slices_near(&output.o, &f32s(&truth.o));
        assert_slices_near(&output.mu, &f32s(&truth.mu));
    }
}

#[test]
fn many_sequences_of_a_pool() {
    let config = Config::new(D, D);
    for max_len in [1, 40] {
        let limits = PackedLimits { sequences: N, tokens: N, max_len };
        let shape = Shape::packed_up_to(limits, 1).with_slots(N);
        let mut sample = Sample::new(&config, &shape, 0.3);
        (sample.mu, sample.nu) = (Vec::new(), Vec::new());
        let mut plan = plan(&config, &shape);
        let mut output = Output::zeros(plan.lens());
        let pool = StatePool::new(&config, 1, N).unwrap();
        let slots: Vec<Slot> = (0..N).map(|_| pool.allocate().unwrap()).collect();
        let entries: Vec<Entry> =
            (0..N as usize).map(|n| Entry::new(slots[n * 7919 % N as usize], 1)).collect();
        let tensors = Tensors::of(sample.inputs(), &mut output).without_states();
        plan.run_in_pool(&pool, &entries, tensors).unwrap();
        // The average of one value.
        assert_slices_near(&output.o, &sample.v);
    }
}

/// Sixteen times as many leave caches and take up to some forty times as long: a loop over pairs
/// takes 256 times as long.
#[test]
fn many_sequences_take_a_time_that_grows_with_their_number() {
    let config = Config::new(D, D);
    let time = |n: u32| {
        let shape = Shape::packed(&vec![1; n as usize], 1);
        let sample = Sample::new(&config, &shape, 0.3);
        let mut best = f64::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            let mut plan = plan(&config, &shape);
            let mut output = Output::zeros(plan.lens());
            plan.run(Tensors::of(sample.inputs(), &mut output)).unwrap();
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    };
    let (few, many) = (time(4096), time(65_536));
    println!("4,096 sequences: {few:.6} s, 65,536: {many:.6} s");
    assert!(many < 100.0 * few, "{few} s and {many} s");
}
