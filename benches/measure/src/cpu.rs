//! The CPU engine, measured like an adapter.

use std::hint::black_box;
use std::time::Instant;

use linear_attention::cpu::{CpuAttention, CpuPlan, StatePool, Tensors, bf16, f16};
use linear_attention::error::{Error, PoolError};
use linear_attention::serve::Entry;
use linear_attention::{Config, Dtype, Inputs, Output, Shape, reference};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::random::Drawn;
use crate::report::{Measured, Work};
use crate::timer::median;
use crate::{Ceilings, Latency, MeasureError, Row, Sizes, TOLERANCE, relative_error};

/// Tokens and sequences of the result that is checked before a shape is timed.
const CHECKED_TOKENS: u32 = 512;
const CHECKED_BATCH: u32 = 8;

/// Bytes of q, k, v, o and states at most: more than that is memory that another program may need.
const MAX_BYTES: u64 = 8 << 30;

/// A shape on the CPU engine, planned.
#[derive(Debug)]
pub struct CpuJob {
    attention: CpuAttention,
    plan: CpuPlan,
    shape: Shape,
}

impl CpuJob {
    /// Plans a shape. Of `config` K and V are those of `sizes`.
    ///
    /// # Errors
    ///
    /// [`MeasureError::Config`] or [`MeasureError::Attention`].
    pub fn new(sizes: &Sizes, config: &Config) -> Result<Self, MeasureError> {
        let mut config = config.clone();
        (config.key_dim, config.value_dim) = (sizes.k, sizes.v);
        let attention = CpuAttention::new(config)?;
        let shape = sizes.shape();
        let lens = shape.lens(attention.config())?;
        let actual = 4 * (lens.q + lens.k + lens.v + lens.o + 2 * lens.state);
        if actual > MAX_BYTES {
            return Err(MeasureError::Memory { required: MAX_BYTES, actual });
        }
        let plan = attention.plan(&shape)?;
        Ok(Self { attention, plan, shape })
    }

    /// The sizes that it measures.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes::of(&self.shape, self.attention.config())
    }

    /// The config that it computes.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.attention.config()
    }

    /// Checks the first tokens, then times calls of the plan; by the median of `iterations`. A
    /// single token is a step of decoding, on states in a pool. Calls are made from a thread of the
    /// rayon pool, as a program that decodes should make them: one from outside waits for a thread
    /// to wake.
    ///
    /// # Errors
    ///
    /// The first tokens were wrong.
    pub fn measure(&mut self, ceilings: &Ceilings, iterations: usize) -> Result<Row, MeasureError> {
        self.check()?;
        let (config, sizes, lens) =
            (self.attention.config().clone(), self.sizes(), *self.plan.lens());
        let drawn = Drawn::new(&config, &lens, false)?;
        let mut output = Output::zeros(&lens);
        let mut stored = Stored::new(&config, drawn.inputs(), &output);
        let pool = if sizes.is_step() { Some(self.pool()?) } else { None };
        let mut call = || -> Result<f64, MeasureError> {
            let start = Instant::now();
            let mut tensors = Tensors::of(drawn.inputs(), &mut output);
            stored.replace(&mut tensors);
            match &pool {
                Some((pool, entries)) => {
                    self.plan.run_in_pool(pool, entries, tensors.without_states())?;
                }
                None => self.plan.run(tensors)?,
            }
            Ok(start.elapsed().as_secs_f64())
        };
        let mut calls = || -> Result<(f64, Vec<f64>), MeasureError> {
            let first = call()?;
            Ok((first, (0..iterations).map(|_| call()).collect::<Result<_, _>>()?))
        };
        let (first, times) = rayon::scope(|_| calls())?;
        let seconds = median(times);
        let state_bytes = if sizes.is_step() { 4 * lens.state } else { 0 };
        let size = config.dtype.size();
        let bytes = (lens.q + lens.k + lens.v + lens.o) * size + 4 * (lens.decay + lens.beta);
        let latency = Latency { first_dispatch_ms: 1e3 * first, ..Latency::default() };
        let work = Work {
            bytes,
            flops: flops(&config, &self.shape),
            segments: 1,
            scratch_bytes: 0,
            tuning: None,
        };
        let measured = Measured {
            seconds,
            stages: Vec::new(),
            total_bytes: bytes + state_bytes,
            state_bytes,
            latency,
        };
        Ok(Row::of_work(&config, &self.shape, ceilings, work, measured))
    }

    /// States in a pool, which some tokens have entered.
    fn pool(&self) -> Result<(StatePool, Vec<Entry>), MeasureError> {
        const TOKENS: u32 = 16;
        let Shape { batch, heads, key_heads, value_heads, .. } = self.shape;
        let shape = Shape::new(batch, TOKENS, heads)
            .with_key_heads(key_heads)
            .with_value_heads(value_heads);
        let config = self.attention.config();
        let pool = StatePool::new(config, value_heads, batch).map_err(Error::from)?;
        let entries = (0..batch).map(|_| Ok(Entry::new(pool.allocate()?, 1)));
        let entries = entries.collect::<Result<Vec<_>, PoolError>>().map_err(Error::from)?;
        let mut plan = self.attention.plan(&shape)?;
        let drawn = Drawn::new(config, plan.lens(), false)?;
        let mut output = Output::zeros(plan.lens());
        let first: Vec<Entry> =
            entries.iter().map(|entry| Entry::new(entry.slot, TOKENS)).collect();
        let tensors = Tensors::of(drawn.inputs(), &mut output).without_states();
        plan.run_in_pool(&pool, &first, tensors)?;
        Ok((pool, entries))
    }

    /// Refuses a shape whose first tokens come out wrong.
    fn check(&self) -> Result<(), MeasureError> {
        let (sizes, config) = (self.sizes(), self.attention.config());
        let (batch, tokens) = (sizes.b.min(CHECKED_BATCH), sizes.t.min(CHECKED_TOKENS));
        let shape = Shape::new(batch, tokens, sizes.h).with_kv_heads(sizes.g);
        let drawn = Drawn::new(config, &shape.lens(config)?, sizes.is_step())?;
        let found = self.attention.run(&shape, drawn.inputs())?;
        let expected = reference::recurrent(config, &shape, drawn.inputs())?;
        let actual = relative_error(&found.o, &expected.o, config.dtype);
        if actual <= TOLERANCE {
            return Ok(());
        }
        Err(MeasureError::Wrong { sizes, required: TOLERANCE, actual })
    }
}

/// Floating-point operations of the rule, token by token; a multiply-add counts as two.
fn flops(config: &Config, shape: &Shape) -> u64 {
    let (f, v) = (u64::from(config.features()), u64::from(config.value_dim));
    let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
    let rule = config.update_rule;
    let decays = if rule.decay().is_some() { f * v } else { 0 };
    let recalls = if rule.beta().is_some() { 2 * f * v + 2 * v } else { 0 };
    let weights = if config.is_normalized() { 2 * f } else { 0 };
    let of_values = tokens * u64::from(shape.value_heads) * (2 * f * v + f + decays + recalls);
    of_values + tokens * u64::from(shape.output_heads()) * (2 * f * v + weights + v)
}

impl Ceilings {
    /// The rates at which all cores copy and multiply, by the median of `iterations`.
    #[must_use]
    pub fn of_cpu(iterations: usize) -> Self {
        // Larger than caches.
        const LEN: usize = 64 << 20;
        let source = vec![1.0f32; LEN];
        let mut target = vec![0.0f32; LEN];
        let chunk = LEN / (4 * rayon::current_num_threads()).max(1);
        let mut copy = || {
            let start = Instant::now();
            target.par_chunks_mut(chunk).zip(source.par_chunks(chunk)).for_each(|(to, from)| {
                to.copy_from_slice(from);
            });
            black_box(&target);
            start.elapsed().as_secs_f64()
        };
        let copy = median((0..iterations).map(|_| copy()).collect());
        let arch = Arch::new();
        let multiply = || {
            let start = Instant::now();
            let done: usize = rayon::broadcast(|_| arch.dispatch(MultiplyAdd)).into_iter().sum();
            2.0 * done as f64 / start.elapsed().as_secs_f64()
        };
        let flops = (0..iterations).map(|_| multiply()).fold(0.0, f64::max);
        Self { bytes: 8.0 * LEN as f64 / copy, flops }
    }
}

/// Multiply-adds of one thread in sums that do not depend on one another; returns their number.
struct MultiplyAdd;

impl WithSimd for MultiplyAdd {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        const SUMS: usize = 12;
        const ROUNDS: usize = 2_000_000;
        let (a, b) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(1e-3)));
        let mut sums = [simd.splat_f32s(black_box(0.5)); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, a, b);
            }
        }
        black_box(sums);
        SUMS * ROUNDS * S::F32_LANES
    }
}

/// q, k, v and o as the config's type stores them; nothing where that is f32.
enum Stored {
    F32,
    F16([Vec<f16>; 3], Vec<f16>),
    Bf16([Vec<bf16>; 3], Vec<bf16>),
}

impl Stored {
    fn new(config: &Config, inputs: Inputs<'_>, output: &Output) -> Self {
        let all = [inputs.q, inputs.k, inputs.v];
        let len = output.o.len();
        match config.dtype {
            Dtype::F16 => Self::F16(
                all.map(|x| x.iter().map(|x| f16::from_f32(*x)).collect()),
                vec![f16::ZERO; len],
            ),
            Dtype::Bf16 => Self::Bf16(
                all.map(|x| x.iter().map(|x| bf16::from_f32(*x)).collect()),
                vec![bf16::ZERO; len],
            ),
            _ => Self::F32,
        }
    }

    /// Puts them in the place of those in f32.
    fn replace<'a>(&'a mut self, tensors: &mut Tensors<'a>) {
        match self {
            Self::F32 => {}
            Self::F16([q, k, v], o) => {
                (tensors.q, tensors.k, tensors.v) = ((&*q).into(), (&*k).into(), (&*v).into());
                tensors.o = o.into();
            }
            Self::Bf16([q, k, v], o) => {
                (tensors.q, tensors.k, tensors.v) = ((&*q).into(), (&*k).into(), (&*v).into());
                tensors.o = o.into();
            }
        }
    }
}
