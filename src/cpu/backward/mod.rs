//! The backward pass: gradients of a loss by the inputs of a call.
//!
//! A task has a key head of a sequence, with the value heads that read it and the output heads that read
//! those. It goes through the tokens twice: forward, keeping the state before every block, and then
//! block by block from the last to the first, each of whose states are computed again.

mod head;
mod maps;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use pulp::{Simd, WithSimd};

use crate::cpu::engine::CpuAttention;
use crate::cpu::gates::Gates;
use crate::cpu::slices::Slice;
use crate::cpu::threads;
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::WeightGradients;
use crate::problem::feature_map::projection::Projection;
use crate::problem::gradients::{Gradients, OutputGradients, activate, zeros};
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;

use head::HeadMemory;
use maps::Map;

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

/// A key head of a sequence.
struct Task {
    n: usize,
    key_head: usize,
    tokens: Range<usize>,
    found: Mutex<TaskGradients>,
}

/// The gradients of a task.
#[derive(Default)]
struct TaskGradients {
    /// `[tokens, output heads, K]`.
    q: Vec<f32>,
    /// `[tokens, K]`.
    k: Vec<f32>,
    /// `[tokens, value heads, V]`.
    v: Vec<f32>,
    /// By the decays in log space, `[tokens, value heads, rows]`, and by the betas.
    decays: Vec<f32>,
    betas: Vec<f32>,
    /// `[value heads, F, V]` and `[value heads, F]`.
    mu: Vec<f32>,
    nu: Vec<f32>,
    of_keys: WeightGradients,
    of_queries: WeightGradients,
}

impl CpuAttention {
    /// The gradients of a loss by all inputs, from those by o and the final state: see
    /// [`reference::backward`](crate::reference::backward) for what is computed. The common maps are as
    /// fast as the rest; others go through their formulas once for each element of a row.
    ///
    /// States are computed again and not kept, but for one before each block of tokens: some
    /// `2 T^(1/2) F V` numbers for each thread.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::run`]; gradients of other lengths; [`Error::NoDerivative`] for a map of the
    /// caller's own.
    pub fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let config = self.config();
        inputs.check(config, shape)?;
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
        let heads = Heads::new(config, shape);
        let decay = (inputs.decay.map(Slice::F32), inputs.gate_weights);
        let beta = inputs.beta.map(Slice::F32);
        let lens_of = |projection: Option<&Projection>| projection.map_or([0, 0], Projection::lens);
        let weights = inputs.weights;
        let of = Backward {
            config,
            heads,
            gates: Gates::new(config, heads.value, decay, beta),
            of_keys: Map::of_keys(config, inputs.weights),
            of_queries: Map::of_queries(config, inputs.weights),
            inputs,
            gradients,
            weights: [
                lens_of(weights.and_then(|weights| weights.keys.as_ref())),
                lens_of(weights.and_then(|weights| weights.queries.as_ref())),
            ],
        };
        let task = |(n, tokens): (usize, &Range<usize>), key_head| {
            let (tokens, found) = (tokens.clone(), Mutex::default());
            Task { n, key_head, tokens, found }
        };
        let of_sequence = |sequence| (0..of.heads.key).map(move |head| task(sequence, head));
        let tasks: Vec<Task> = ranges.iter().enumerate().flat_map(of_sequence).collect();
        threads::for_each(&tasks, 1, |task| self.dispatch(Run { of: &of, task }));
        let mut found = zeros(&lens);
        let all = shape.batch as usize * shape.seq_len as usize * of.heads.value;
        let has_beta = config.update_rule.beta().is_some();
        let mut decays = vec![0.0; all * config.decay_rows() as usize];
        let mut betas = vec![0.0; if has_beta { all } else { 0 }];
        let [of_keys, of_queries] = of.weights.map(|[w, b]| (vec![0.0; w], vec![0.0; b]));
        let mut of_weights = [of_keys, of_queries];
        for task in &tasks {
            let mut of_task = task.found.lock().unwrap_or_else(PoisonError::into_inner);
            let of_task = std::mem::take(&mut *of_task);
            of.collect(task, &of_task, &mut found, (&mut decays, &mut betas));
            for ((w, b), of_task) in
                of_weights.iter_mut().zip([of_task.of_keys, of_task.of_queries])
            {
                w.iter_mut().zip(of_task.weight).for_each(|(w, x)| *w += x);
                b.iter_mut().zip(of_task.bias).for_each(|(b, x)| *b += x);
            }
        }
        activate(&mut found, config, shape, inputs, (&decays, &betas));
        let to_f32s = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let [(kw, kb), (qw, qb)] = of_weights;
        found.key_weights = [to_f32s(kw), to_f32s(kb)];
        found.query_weights = [to_f32s(qw), to_f32s(qb)];
        Ok(found)
    }
}

impl Backward<'_> {
    /// Puts the gradients of a task where their tensors have them.
    fn collect(
        &self,
        task: &Task,
        of_task: &TaskGradients,
        found: &mut Gradients<f32>,
        (decays, betas): (&mut [f32], &mut [f32]),
    ) {
        let (key_dim, value_dim) = (self.config.key_dim as usize, self.config.value_dim as usize);
        let values = self.value_heads(task.key_head);
        let outputs = self.output_heads(&values);
        let rows = self.config.decay_rows() as usize;
        let mut of_queries = of_task.q.chunks(key_dim);
        let mut of_values = of_task.v.chunks(value_dim);
        let mut of_decays = of_task.decays.chunks(rows.max(1));
        let mut of_betas = of_task.betas.iter();
        for (t, of_key) in task.tokens.clone().zip(of_task.k.chunks(key_dim)) {
            add(&mut found.k[self.heads.k.begin(t, task.key_head)..], of_key);
            for (h, of_query) in outputs.clone().zip(&mut of_queries) {
                add(&mut found.q[self.heads.query(t, h)..], of_query);
            }
            for (e, of_value) in values.clone().zip(&mut of_values) {
                add(&mut found.v[self.heads.value(t, e)..], of_value);
                let row = t * self.heads.value + e;
                if rows > 0
                    && let Some(of_decay) = of_decays.next()
                {
                    decays[row * rows..][..rows].copy_from_slice(of_decay);
                }
                if let (Some(to), Some(of_beta)) = (betas.get_mut(row), of_betas.next()) {
                    *to = *of_beta;
                }
            }
        }
        let first = task.n * self.heads.value + values.start;
        for (to, from) in [(&mut found.mu, &of_task.mu), (&mut found.nu, &of_task.nu)] {
            let of_head = from.len() / values.len();
            to[first * of_head..][..from.len()].copy_from_slice(from);
        }
    }

    fn value_heads(&self, key_head: usize) -> Range<usize> {
        let group = self.heads.value / self.heads.key;
        key_head * group..(key_head + 1) * group
    }

    fn output_heads(&self, values: &Range<usize>) -> Range<usize> {
        values.start * self.heads.value_group..values.end * self.heads.value_group
    }
}

/// A task in the vectors of a CPU.
struct Run<'a, 'b> {
    of: &'a Backward<'b>,
    task: &'a Task,
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { of, task } = self;
        let mut found = TaskGradients::new(of, task);
        let mut memory = HeadMemory::new(of, task.tokens.len());
        for e in of.value_heads(task.key_head) {
            of.run_head(task, e, &mut memory, &mut found);
        }
        *task.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl TaskGradients {
    fn new(of: &Backward<'_>, task: &Task) -> Self {
        let config = of.config;
        let values = of.value_heads(task.key_head);
        let (tokens, outputs) = (task.tokens.len(), of.output_heads(&values).len());
        let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
        let features = config.features() as usize;
        let zeros = |len: usize| vec![0.0; len];
        let has = |is_there: bool| if is_there { values.len() } else { 0 };
        let of_weights = |[weight, bias]: [usize; 2]| WeightGradients {
            weight: vec![0.0; weight],
            bias: vec![0.0; bias],
        };
        Self {
            q: zeros(tokens * outputs * key_dim),
            k: zeros(tokens * key_dim),
            v: zeros(tokens * values.len() * value_dim),
            decays: zeros(tokens * values.len() * config.decay_rows() as usize),
            betas: zeros(tokens * has(config.update_rule.beta().is_some())),
            mu: zeros(values.len() * features * value_dim),
            nu: zeros(has(config.is_normalized()) * features),
            of_keys: of_weights(of.weights[0]),
            of_queries: of_weights(of.weights[1]),
        }
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
