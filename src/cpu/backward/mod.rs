//! The backward pass: gradients of a loss by the inputs of a call.
//!
//! A task has some value heads of a sequence, with whole key and query heads. The rule `linear` is
//! [`sums`]: products of blocks of tokens, as in the forward pass, with the roles of the tensors
//! exchanged. Rules with betas, or with decays of heads, are products of [`blocks`] of tokens as
//! well, between states that are computed again. Those with decays of rows, and calls of a few tokens
//! a sequence, are a [`recurrence`], token by token.

mod blocks;
mod maps;
mod products;
mod recurrence;
mod running_sum;
mod sums;
mod targets;
mod vectors;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::cpu::ahead::fetch;
use crate::cpu::engine::CpuAttention;
use crate::cpu::gates::Gates;
use crate::cpu::slices::Slice;
use crate::cpu::threads;
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::WeightGradients;
use crate::problem::feature_map::projection::Projection;
use crate::problem::gradients::{Gradients, OutputGradients, activate};
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::{Lens, Shape};

use blocks::Blocks;
use maps::Map;
use recurrence::Recurrence;
use sums::Sums;
use targets::{Targets, scatter};

/// The most output heads of a task that goes by blocks of tokens, unless its key heads or query
/// heads are whole only with more. Neighbours lie side by side in memory.
const HEADS: usize = 4;

/// Tokens whose rows are on their way from memory.
const AHEAD: usize = 8;

/// How gradients are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Sums,
    Blocks,
    Recurrence,
}

/// Tokens of a sequence that are worth a block.
const FEW: usize = 4;

impl Form {
    /// For sequences of so many tokens at most.
    fn new(config: &Config, longest: usize) -> Self {
        match () {
            () if sums::suit(config) => Self::Sums,
            () if blocks::suit(config) && longest >= FEW => Self::Blocks,
            () => Self::Recurrence,
        }
    }
}

/// The inputs and sizes that the tasks of a call share.
struct Backward<'a> {
    config: &'a Config,
    heads: Heads,
    gates: Gates<'a>,
    of_keys: Map<'a>,
    of_queries: Map<'a>,
    inputs: Inputs<'a>,
    gradients: OutputGradients<'a>,
    /// Elements of the weights of keys and of queries.
    weights: [[usize; 2]; 2],
}

/// Value heads of a sequence. No other task has their key heads, nor their query heads.
struct Task {
    n: usize,
    values: Range<usize>,
    tokens: Range<usize>,
    found: Mutex<MapGradients>,
}

/// The heads of each tensor that a task has.
struct TaskHeads {
    query: Range<usize>,
    key: Range<usize>,
    value: Range<usize>,
}

/// Heads of q, of the queries' weights, of k, v and o.
#[derive(Clone, Copy)]
struct RowHeads {
    query: usize,
    weights: usize,
    key: usize,
    value: usize,
    output: usize,
}

/// The gradients by the weights of maps, of a task.
#[derive(Default)]
struct MapGradients {
    of_keys: WeightGradients,
    of_queries: WeightGradients,
}

impl CpuAttention {
    /// The gradients of a loss by all inputs, from those by o and the final state: see
    /// [`reference::backward`](crate::reference::backward) for what is computed. The common maps are
    /// as fast as the rest; others go through their formulas once for each element of a row.
    ///
    /// States are computed again and not kept. The rule `linear` takes about three times as long as
    /// [`CpuAttention::run`], and memory for two states of each head. Rules with decays of heads
    /// take about three times as long, with betas four, and a thread some `2 (T / 32)^(1/2)`
    /// states, `F V` numbers each, of each of the heads that it goes through together: up to four
    /// output heads, or as many as share a key or query head. Those with decays of rows, and calls
    /// of three tokens a sequence or fewer, go through the tokens one by one, and take some
    /// `2 T^(1/2) F V` numbers for each thread. Threads share the heads and sequences of a call:
    /// more of them than there are of both find nothing to do.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::run`]; gradients of other lengths; [`Error::NoDerivative`] for a map of
    /// the caller's own.
    pub fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let mut found = Gradients::default();
        self.backward_into(shape, inputs, gradients, &mut found)?;
        Ok(found)
    }

    /// The same in memory that there is: the gradients of an earlier call, which are replaced.
    /// Those of the same shape save the allocation of as much memory as the inputs have.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::backward`]; `found` is then as it was.
    pub fn backward_into(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
        found: &mut Gradients<f32>,
    ) -> Result<(), Error> {
        let config = self.config();
        inputs.check_by(config, shape, threads::largest_bits)?;
        let lens = shape.lens(config)?;
        gradients.check(config, &lens)?;
        if let Some(map) = config.custom_maps().next() {
            return Err(Error::NoDerivative { feature_map: map.name().to_owned() });
        }
        let what = if shape.slots.is_some() { "slots" } else { "packed_up_to" };
        let ranges = shape.token_ranges().filter(|_| shape.slots.is_none());
        let ranges = ranges.ok_or(Error::HostShape { what })?;
        let [q, k, v] = inputs.rounded(config.dtype);
        let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
        let of = Backward::new(config, shape, inputs, gradients);
        let form = Form::new(config, ranges.iter().map(Range::len).max().unwrap_or(0));
        let most = if form == Form::Recurrence { 1 } else { HEADS };
        let tasks = of.tasks(&ranges, threads::count().max(1), most);
        // The recurrence adds to rows that the others write.
        let is_kept = form != Form::Recurrence && shape.strides.is_none();
        prepare(found, &lens, is_kept);
        if is_kept {
            of.clear_padding(&ranges, found);
        }
        let tokens = shape.batch as usize * shape.seq_len as usize;
        let has_beta = config.update_rule.beta().is_some();
        let rows = of.heads.value * config.decay_rows() as usize;
        let mut decays = vec![0.0; tokens * rows];
        let mut betas = vec![0.0; if has_beta { tokens * of.heads.value } else { 0 }];
        // Rows with strides may overlap: theirs are added up afterwards.
        let mut contiguous = shape.strides.is_some().then(|| {
            let of_heads = [
                of.heads.query_heads() * config.key_dim as usize,
                of.heads.key * config.key_dim as usize,
                of.heads.value * config.value_dim as usize,
            ];
            of_heads.map(|row| vec![0.0; tokens * row])
        });
        let [q, k, v] = match &mut contiguous {
            Some([q, k, v]) => [q, k, v],
            None => [&mut found.q, &mut found.k, &mut found.v],
        };
        let targets =
            Targets::new(&of, [q, k, v, &mut decays, &mut betas], [&mut found.mu, &mut found.nu]);
        self.run_tasks(form, &of, &tasks, &targets);
        drop(targets);
        if let Some(contiguous) = &contiguous {
            scatter(&of, tokens, contiguous, found);
        }
        let [of_keys, of_queries] = of.weights.map(|[w, b]| (vec![0.0; w], vec![0.0; b]));
        let mut of_weights = [of_keys, of_queries];
        for task in tasks {
            let of_task = task.found.into_inner().unwrap_or_else(PoisonError::into_inner);
            let of_task = [of_task.of_keys, of_task.of_queries];
            for ((w, b), of_task) in of_weights.iter_mut().zip(of_task) {
                w.iter_mut().zip(of_task.weight).for_each(|(w, x)| *w += x);
                b.iter_mut().zip(of_task.bias).for_each(|(b, x)| *b += x);
            }
        }
        activate::<f32, f64>(found, config, shape, inputs, (&decays, &betas));
        let to_f32s = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let [(kw, kb), (qw, qb)] = of_weights;
        found.key_weights = [to_f32s(kw), to_f32s(kb)];
        found.query_weights = [to_f32s(qw), to_f32s(qb)];
        Ok(())
    }

    fn run_tasks<'b>(&self, form: Form, of: &Backward<'b>, tasks: &[Task], targets: &Targets<'b>) {
        let mistake = self.mistake();
        threads::for_each(tasks, 1, |task| match form {
            Form::Sums => self.dispatch(Sums { of, task, targets, mistake }),
            Form::Blocks => self.dispatch(Blocks { of, task, targets, mistake }),
            Form::Recurrence => self.dispatch(Recurrence { of, task, targets }),
        });
    }
}

impl<'a> Backward<'a> {
    fn new(
        config: &'a Config,
        shape: &Shape,
        inputs: Inputs<'a>,
        gradients: OutputGradients<'a>,
    ) -> Self {
        let heads = Heads::new(config, shape);
        let decay = (inputs.decay.map(Slice::F32), inputs.gate_weights);
        let beta = inputs.beta.map(Slice::F32);
        let lens_of = |projection: Option<&Projection>| projection.map_or([0, 0], Projection::lens);
        let weights = inputs.weights;
        Self {
            config,
            heads,
            gates: Gates::new(config, heads.value, decay, beta),
            of_keys: Map::of_keys(config, weights),
            of_queries: Map::of_queries(config, weights),
            inputs,
            gradients,
            weights: [
                lens_of(weights.and_then(|weights| weights.keys.as_ref())),
                lens_of(weights.and_then(|weights| weights.queries.as_ref())),
            ],
        }
    }

    /// The fewest value heads of each sequence with whole key and query heads, or where there are
    /// enough for so many threads and `most` output heads are more, several times as many.
    fn tasks(&self, ranges: &[Range<usize>], threads: usize, most: usize) -> Vec<Task> {
        let Heads { key, value, value_group, .. } = self.heads;
        let (of_key, of_query) = (value / key, (value / self.heads.query_heads()).max(1));
        // Both divide E, and a multiple is one of E's divisors, too.
        let divisors = || (1..=value).filter(|n| value.is_multiple_of(*n));
        let is_whole = |n: &usize| n.is_multiple_of(of_key) && n.is_multiple_of(of_query);
        let fits = |n: &usize| n * value_group <= most && ranges.len() * (value / n) >= threads;
        let fewest = divisors().find(is_whole).unwrap_or(value);
        let count = divisors().filter(is_whole).rfind(fits).unwrap_or(fewest);
        let tasks = ranges.iter().enumerate().flat_map(|(n, tokens)| {
            (0..value).step_by(count).map(move |e| Task {
                n,
                values: e..e + count,
                tokens: tokens.clone(),
                found: Mutex::default(),
            })
        });
        tasks.collect()
    }

    /// Sets the rows of tokens that are in no sequence to zero.
    fn clear_padding(&self, ranges: &[Range<usize>], found: &mut Gradients<f32>) {
        let config = self.config;
        let of_q = self.heads.query_heads() * config.key_dim as usize;
        let of_k = self.heads.key * config.key_dim as usize;
        let of_v = self.heads.value * config.value_dim as usize;
        for (rows, width) in [(&mut found.q, of_q), (&mut found.k, of_k), (&mut found.v, of_v)] {
            let all = rows.len();
            let ends = std::iter::once(0).chain(ranges.iter().map(|range| range.end * width));
            let begins = ranges.iter().map(|range| range.start * width).chain([all]);
            for (end, begin) in ends.zip(begins).filter(|(end, begin)| end < begin) {
                rows[end..begin].fill(0.0);
            }
        }
    }

    fn map_gradients(&self) -> MapGradients {
        let of_weights = |[weight, bias]: [usize; 2]| WeightGradients {
            weight: vec![0.0; weight],
            bias: vec![0.0; bias],
        };
        let [of_keys, of_queries] = self.weights.map(of_weights);
        MapGradients { of_keys, of_queries }
    }

    /// The heads of the rows that go into those of output head h. They take divisions, so that they
    /// are not found anew for every token.
    fn row_heads(&self, h: usize) -> RowHeads {
        let heads = &self.heads;
        let value = heads.value_head(h);
        let (key, query) = (heads.key_head(value), heads.query_head(h));
        let weights = self.of_queries.phi().weights_head(query, key);
        RowHeads { query, weights, key, value, output: h }
    }

    #[inline(always)]
    fn task_heads(&self, task: &Task) -> TaskHeads {
        let (heads, value) = (&self.heads, task.values.clone());
        let outputs = value.start * heads.value_group..value.end * heads.value_group;
        TaskHeads {
            query: heads.query_head(outputs.start)..heads.query_head(outputs.end - 1) + 1,
            key: heads.key_head(value.start)..heads.key_head(value.end - 1) + 1,
            value,
        }
    }

    #[inline(always)]
    fn key(&self, t: usize, of: &RowHeads) -> &[f32] {
        &self.inputs.k[self.heads.k.begin(t, of.key)..][..self.config.key_dim as usize]
    }

    #[inline(always)]
    fn query(&self, t: usize, of: &RowHeads) -> &[f32] {
        &self.inputs.q[self.heads.q.begin(t, of.query)..][..self.config.key_dim as usize]
    }

    #[inline(always)]
    fn value(&self, t: usize, of: &RowHeads) -> &[f32] {
        &self.inputs.v[self.heads.v.begin(t, of.value)..][..self.config.value_dim as usize]
    }

    /// The gradient by a row of o.
    #[inline(always)]
    fn of_output(&self, t: usize, of: &RowHeads) -> &[f32] {
        &self.gradients.o[self.heads.o.begin(t, of.output)..][..self.config.value_dim as usize]
    }

    /// Fetches the rows of a token.
    #[inline(always)]
    fn fetch(&self, t: usize, of: &RowHeads) {
        let (key_dim, value_dim) = (self.config.key_dim as usize, self.config.value_dim as usize);
        let heads = &self.heads;
        fetch(self.inputs.q, heads.q.begin(t, of.query), key_dim);
        fetch(self.inputs.k, heads.k.begin(t, of.key), key_dim);
        fetch(self.inputs.v, heads.v.begin(t, of.value), value_dim);
        fetch(self.gradients.o, heads.o.begin(t, of.output), value_dim);
    }

    /// Adds what a query's features pass on to its row of q.
    #[inline(always)]
    fn pull_back_query(
        &self,
        (x, head): (&[f32], usize),
        (features, gain): (&[f32], f32),
        memory: &mut maps::MapMemory,
        of_features: &[f32],
        (of_row, found): (&mut [f32], &mut MapGradients),
    ) {
        let of_weights = match self.of_queries.phi().shares_key_weights() {
            true => &mut found.of_keys,
            false => &mut found.of_queries,
        };
        let to = (of_row, of_weights);
        self.of_queries.pull_back((x, features, gain), head, memory, of_features, to);
    }
}

/// Makes all gradients zero, but where each of q's, k's and v's is kept, if it has the length.
fn prepare(found: &mut Gradients<f32>, lens: &Lens, is_kept: bool) {
    for (rows, len, is_kept) in [
        (&mut found.q, lens.q, is_kept),
        (&mut found.k, lens.k, is_kept),
        (&mut found.v, lens.v, is_kept),
        (&mut found.decay, lens.decay, false),
        (&mut found.beta, lens.beta, false),
        (&mut found.mu, lens.mu, false),
        (&mut found.nu, lens.nu, false),
    ] {
        if rows.len() as u64 != len {
            // Pages of zeros, which the threads that write to them touch first.
            *rows = vec![0.0; len as usize];
        } else if !is_kept {
            rows.fill(0.0);
        }
    }
}
