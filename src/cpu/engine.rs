//! Attention on slices, computed by the CPU.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::block::Call;
use super::features::Features;
use super::passes;
use super::task::{PANEL, Task};
use crate::error::{ConfigError, Error};
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::phi::Phi;
use crate::problem::gates::Gates;
use crate::problem::heads::Heads;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::{Lens, Shape};

/// Tokens whose outputs a thread copies at a time.
const STORED: usize = 64;
/// Attention of one [`Config`] on the CPU.
///
/// ```
/// use linear_attention::cpu::CpuAttention;
/// use linear_attention::{Config, Inputs, Shape};
///
/// let attention = CpuAttention::new(Config::new(64, 64))?;
/// let [q, k, v] = [0.1, 0.2, 0.3].map(|x| vec![x; 100 * 8 * 64]);
/// let output = attention.run(&Shape::new(1, 100, 8), Inputs::new(&q, &k, &v))?;
/// assert!((output.o[0] - 0.3).abs() < 1e-6);
/// # Ok::<(), linear_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CpuAttention {
    config: Config,
    arch: Arch,
}

impl CpuAttention {
    /// For `config`, with the widest vectors that this CPU has.
    ///
    /// # Errors
    ///
    /// A config out of range.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, arch: Arch::new() })
    }

    /// The config it was made for.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vectors that it uses: `scalar`, or the name of the instruction set.
    #[must_use]
    pub fn instruction_set(&self) -> &'static str {
        match self.arch.dispatch(Lanes) {
            16.. => "AVX-512",
            8..=15 => "AVX2",
            2..=7 => "128 bits",
            _ => "scalar",
        }
    }

    /// The output and the final state. q, k and v are rounded to the config's dtype first, and o as
    /// it is stored; all else is f32.
    ///
    /// # Errors
    ///
    /// A config, shape or inputs that no call would accept, or lengths that only a buffer knows.
    pub fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
        inputs.check(&self.config, shape)?;
        let mut plan = self.plan(shape)?;
        let mut output = Output::zeros(&plan.lens);
        plan.run(inputs, &mut output)?;
        Ok(output)
    }

    /// A plan for calls of one shape, which has all the memory that they need.
    ///
    /// # Errors
    ///
    /// A shape that no call would accept, or one whose lengths only a buffer knows.
    pub fn plan(&self, shape: &Shape) -> Result<CpuPlan, Error> {
        let ranges = shape.token_ranges().ok_or(Error::HostShape { what: "packed_up_to" })?;
        let lens = shape.lens(&self.config)?;
        let tasks = self.tasks(&Heads::new(shape), &ranges);
        Ok(CpuPlan { attention: self.clone(), shape: shape.clone(), lens, tasks })
    }
    /// A task for each value head of each sequence or, where these are few, for each slice of one.
    fn tasks(&self, heads: &Heads, ranges: &[Range<usize>]) -> Vec<Task> {
        let width = self.arch.dispatch(StripWidth);
        let value_dim = self.config.value_dim as usize;
        let strips = value_dim.div_ceil(width);
        let states = ranges.len() * heads.value;
        // Twice as many tasks as threads even out.
        let slices = (2 * threads()).div_ceil(states.max(1)).clamp(1, strips);
        let slice = strips.div_ceil(slices) * width;
        let mut tasks = Vec::with_capacity(states * slices);
        for (n, tokens) in ranges.iter().enumerate() {
            for e in 0..heads.value {
                for begin in (0..value_dim).step_by(slice) {
                    let columns = begin..value_dim.min(begin + slice);
                    let group = heads.value_group;
                    tasks.push(Task::new(
                        &self.config,
                        group,
                        width,
                        [n, e],
                        tokens.clone(),
                        columns,
                    ));
                }
            }
        }
        tasks
    }
}

/// Calls of one shape on the CPU, with all the memory that they need.
#[derive(Debug)]
pub struct CpuPlan {
    attention: CpuAttention,
    shape: Shape,
    lens: Lens,
    tasks: Vec<Task>,
}

impl CpuPlan {
    /// Elements of each tensor.
    #[must_use]
    pub fn lens(&self) -> &Lens {
        &self.lens
    }

    /// Computes o and the final state into slices of the caller's. The contents of the inputs are not
    /// inspected, as those of buffers are not: a NaN spoils its own sequence and value head.
    /// Allocates where a type is to be widened or the rule has decays or betas.
    ///
    /// # Errors
    ///
    /// Slices of other lengths; weights or gates that are missing or not wanted.
    pub fn run(&mut self, inputs: Inputs<'_>, output: &mut Output) -> Result<(), Error> {
        let Self { attention, shape, lens, tasks } = self;
        let config = &attention.config;
        inputs.check_lens(config, shape)?;
        for (tensor, slice, required) in
            [("o", &output.o, lens.o), ("mu", &output.mu, lens.mu), ("nu", &output.nu, lens.nu)]
        {
            if slice.len() as u64 != required {
                return Err(Error::Len { tensor, required, actual: slice.len() as u64 });
            }
        }
        let [q, k, v] = inputs.rounded(config.dtype);
        let of_keys = Phi::of_keys(config, inputs.weights);
        let of_queries = Phi::of_queries(config, inputs.weights);
        let scales = config.scales_queries();
        let call = Call {
            config,
            heads: Heads::new(shape),
            gates: Gates::new(config, shape, inputs),
            of_keys: Features::new(config, config.key_map(), of_keys, false),
            of_queries: Features::new(config, config.query_map(), of_queries, scales),
            q: &q,
            k: &k,
            v: &v,
        };
        output.o.fill(0.0);
        for_each(tasks, |task| task.load(&call, inputs.initial_state));
        let longest = shape.max_len() as usize;
        for begin in (0..longest).step_by(PANEL) {
            for_each(tasks, |task| {
                attention.arch.dispatch(Panel { call: &call, task, begin });
            });
            store_outputs(tasks, &call, begin, &mut output.o);
        }
        store_states(tasks, &call, output);
        if config.dtype != Dtype::F32 {
            output.o.iter_mut().for_each(|x| *x = config.dtype.round(*x));
        }
        Ok(())
    }
}

/// Copies the states of all tasks to the output.
fn store_states(tasks: &[Task], call: &Call<'_>, output: &mut Output) {
    let features = call.config.features() as usize;
    let mu = output.mu.chunks_mut(features * call.config.value_dim as usize);
    // There is no nu where o is not normalised.
    let mut nu = output.nu.chunks_mut(features);
    // Slices of a value head lie one after the other.
    let heads = tasks.chunk_by(|a, b| (a.n, a.e) == (b.n, b.e)).zip(mu);
    let mut jobs: Vec<_> = heads.map(|(t, mu)| (t, mu, nu.next().unwrap_or_default())).collect();
    for_each(&mut jobs, |(tasks, mu, nu)| {
        tasks.iter().for_each(|task| task.store_state(call, mu, nu));
    });
}

/// Copies the panels of all tasks to o, some tokens at a time.
fn store_outputs(tasks: &[Task], call: &Call<'_>, begin: usize, o: &mut [f32]) {
    let row = call.heads.output * call.config.value_dim as usize;
    let mut jobs = Vec::new();
    let (mut rest, mut next) = (o, 0);
    // Tasks of a sequence lie one after the other, and so do its tokens.
    for tasks in tasks.chunk_by(|a, b| a.n == b.n) {
        let tokens = tasks[0].panel_tokens(begin);
        if tokens.is_empty() {
            continue;
        }
        let (_, from) = rest.split_at_mut((tokens.start - next) * row);
        let (of_panel, after) = from.split_at_mut(tokens.len() * row);
        (rest, next) = (after, tokens.end);
        for (i, o) in of_panel.chunks_mut(STORED * row).enumerate() {
            jobs.push((tasks, tokens.start + i * STORED, o));
        }
    }
    for_each(&mut jobs, |(tasks, first, o)| {
        tasks.iter().for_each(|task| task.store_outputs(call, begin, *first, o));
    });
}

/// The tokens of a panel, in the vectors of a CPU.
struct Panel<'a, 'b> {
    call: &'a Call<'b>,
    task: &'a mut Task,
    begin: usize,
}

impl WithSimd for Panel<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.task.run(simd, self.call, self.begin);
    }
}

struct StripWidth;

impl WithSimd for StripWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        passes::strip_width::<S>()
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

#[cfg(feature = "rayon")]
fn for_each<T: Send>(all: &mut [T], run: impl Fn(&mut T) + Send + Sync) {
    use rayon::prelude::*;
    all.par_iter_mut().for_each(run);
}

#[cfg(not(feature = "rayon"))]
fn for_each<T>(all: &mut [T], run: impl Fn(&mut T)) {
    all.iter_mut().for_each(run);
}

/// Threads that share a call.
fn threads() -> usize {
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    return 1;
}
