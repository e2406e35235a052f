//! Any program on a pool of the CPU engine.

use arbitrary::Unstructured;
use linear_attention::cpu::{CpuAttention, CpuPlan, StatePool, Tensors};
use linear_attention::serve::{Entry, Slot};
use linear_attention::{Inputs, Output};

use crate::program::{self, Engine};
use crate::setup::{Setup, Tokens};

struct Cpu<'a> {
    setup: &'a Setup,
    plan: CpuPlan,
    pool: StatePool,
}

type Done<T> = Result<T, String>;

fn told<T, E: ToString>(result: Result<T, E>) -> Done<T> {
    result.map_err(|error| error.to_string())
}

impl Engine for Cpu<'_> {
    fn allocate(&mut self) -> Done<Slot> {
        told(self.pool.allocate())
    }

    fn free(&mut self, slot: Slot) -> Done<()> {
        told(self.pool.free(slot))
    }

    fn zero(&mut self, slot: Slot) -> Done<()> {
        told(self.pool.zero(slot))
    }

    fn copy(&mut self, from: Slot, to: Slot) -> Done<()> {
        told(self.pool.copy(from, to))
    }

    fn fork_many(&mut self, from: Slot, count: u32) -> Done<Vec<Slot>> {
        told(self.pool.fork_many(from, count))
    }

    fn snapshot(&mut self, slot: Slot) -> Done<Vec<u8>> {
        told(self.pool.snapshot(slot))
    }

    fn restore(&mut self, bytes: &[u8]) -> Done<Slot> {
        told(self.pool.restore(bytes))
    }

    fn available(&self) -> u32 {
        self.pool.available()
    }

    fn call(&mut self, entries: &[Entry], tokens: &Tokens) -> Done<Vec<f32>> {
        let lens = *self.plan.lens();
        // Rows of no sequence are NaN: nobody reads them.
        let filled = |x: &[f32], len: u64| {
            let mut x = x.to_vec();
            x.resize(len as usize, f32::NAN);
            x
        };
        let [q, k, v] = [(&tokens.q, lens.q), (&tokens.k, lens.k), (&tokens.v, lens.v)]
            .map(|(x, len)| filled(x, len));
        let (decay, beta) = (filled(&tokens.decay, lens.decay), filled(&tokens.beta, lens.beta));
        let rule = self.setup.config.update_rule;
        let mut inputs = Inputs::new(&q, &k, &v);
        inputs.decay = rule.decay().map(|_| &decay[..]);
        inputs.beta = rule.beta().map(|_| &beta[..]);
        let mut output = Output::zeros(&lens);
        output.o.fill(f32::NAN);
        let tensors = Tensors::of(inputs, &mut output).without_states();
        told(self.plan.run_in_pool(&self.pool, entries, tensors))?;
        Ok(output.o)
    }
}

/// Runs the program that the bytes are.
pub fn run(bytes: &[u8]) {
    let mut u = Unstructured::new(bytes);
    let Ok(setup) = Setup::new(&mut u) else { return };
    let attention = CpuAttention::new(setup.config.clone()).expect("a config in range");
    let plan = attention.plan(&setup.shape).expect("a shape in range");
    let e = setup.shape.value_heads;
    let pool = StatePool::new(&setup.config, e, setup.slots).expect("a small pool");
    let other = StatePool::new(&setup.config, e, 1).expect("a small pool");
    let stranger = other.allocate().expect("a slot");
    program::run(&setup, &mut Cpu { setup: &setup, plan, pool }, stranger, &mut u);
}
