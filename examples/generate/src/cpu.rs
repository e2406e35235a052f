//! The model on the CPU engine.

use linear_attention::cpu::{CpuAttention, CpuPlan, StatePool, Tensors};
use linear_attention::serve::Slot;

use crate::engine::{Call, MAX_CONVERSATIONS, MAX_STEP_TOKENS, Piece, Pools, States};
use crate::engine::{entries, tokens};
use crate::error::Error;
use crate::model::{Activation, Linear, Model, Operation, Rows};

/// The model on the CPU engine.
#[derive(Debug)]
pub struct CpuEngine {
    pub(crate) model: Model,
    layers: Vec<Layer>,
    /// The rows of each [`Rows`].
    rows: Vec<Vec<f32>>,
}

#[derive(Debug)]
struct Layer {
    pool: StatePool,
    /// Of each [`Call`].
    plans: Vec<CpuPlan>,
    has_gates: bool,
}

impl CpuEngine {
    pub(crate) fn new(model: Model) -> Result<Self, Error> {
        let heads = model.sizes.heads as u32;
        let layer = |config: &linear_attention::Config| {
            let attention = CpuAttention::new(config.clone())?;
            let plan = |call: Call| attention.plan(&call.shape(&model.sizes));
            Ok(Layer {
                pool: StatePool::new(config, heads, MAX_CONVERSATIONS as u32)?,
                plans: Call::ALL.into_iter().map(plan).collect::<Result<_, _>>()?,
                has_gates: config.update_rule.decay().is_some(),
            })
        };
        let layers = model.attentions.iter().map(layer).collect::<Result<_, Error>>()?;
        let rows = Rows::ALL.map(|rows| {
            let most = if rows.is_of_sequences() { MAX_CONVERSATIONS } else { MAX_STEP_TOKENS };
            vec![0.0; most * model.width(rows)]
        });
        Ok(Self { layers, rows: rows.into(), model })
    }

    pub(crate) fn snapshots(&self, states: &States) -> Result<Vec<Vec<u8>>, Error> {
        let each = self.layers.iter().zip(&states.0);
        each.map(|(layer, slot)| Ok(layer.pool.snapshot(*slot)?)).collect()
    }

    pub(crate) fn step(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, Error> {
        let (tokens, last) = tokens(pieces);
        let call = Call::of(pieces) as usize;
        let Self { model, layers, rows, .. } = self;
        for operation in &model.operations {
            match operation {
                Operation::Embed { to } => {
                    gather(&model.embedding, &tokens, model.width(*to), &mut rows[*to as usize]);
                }
                Operation::TakeLast { from, to } => {
                    let [x, y] = both(rows, *from, *to);
                    gather(x, &last, model.width(*to), y);
                }
                Operation::Norm { from, gamma, to } => {
                    let count = if to.is_of_sequences() { last.len() } else { tokens.len() };
                    let len = count * model.width(*from);
                    let [x, y] = both(rows, *from, *to);
                    norm(&x[..len], gamma, &mut y[..len]);
                }
                Operation::Linear { from, linear, to, adds } => {
                    let count = if to.is_of_sequences() { last.len() } else { tokens.len() };
                    let [x, y] = both(rows, *from, *to);
                    linear.apply(&x[..count * linear.inputs], *adds, y);
                }
                Operation::Attend { layer: number } => {
                    let Layer { pool, plans, has_gates } = &mut layers[*number];
                    let plan = &mut plans[call];
                    let lens = plan.lens();
                    let [q, k, v, o, gates] =
                        [lens.q, lens.k, lens.v, lens.o, lens.beta].map(|len| len as usize);
                    let mut attended = std::mem::take(&mut rows[Rows::Attended as usize]);
                    let part = |of: Rows, len: usize| &rows[of as usize][..len];
                    let [q, k, v] =
                        [part(Rows::Query, q), part(Rows::Key, k), part(Rows::Value, v)];
                    let mut tensors = Tensors::new(q, k, v, &mut attended[..o]);
                    if *has_gates {
                        let [decay, beta] = [Rows::Decay, Rows::Beta].map(|of| part(of, gates));
                        tensors = tensors.with_decay(decay).with_beta(beta);
                    }
                    let done = plan.run_in_pool(pool, &entries(*number, pieces), tensors);
                    rows[Rows::Attended as usize] = attended;
                    done?;
                }
            }
        }
        Ok(rows[Rows::Logits as usize][..last.len() * model.width(Rows::Logits)].to_vec())
    }
}

impl Pools for CpuEngine {
    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn allocate(&self, layer: usize) -> Result<Slot, Error> {
        Ok(self.layers[layer].pool.allocate()?)
    }

    fn fork(&self, layer: usize, slot: Slot) -> Result<Slot, Error> {
        Ok(self.layers[layer].pool.fork(slot)?)
    }

    fn free(&self, layer: usize, slot: Slot) -> Result<(), Error> {
        Ok(self.layers[layer].pool.free(slot)?)
    }

    fn restore(&self, layer: usize, bytes: &[u8]) -> Result<Slot, Error> {
        Ok(self.layers[layer].pool.restore(bytes)?)
    }
}

/// Rows to read and other rows to write.
fn both(rows: &mut [Vec<f32>], from: Rows, to: Rows) -> [&mut Vec<f32>; 2] {
    let (from, to) = (from as usize, to as usize);
    let (low, high) = rows.split_at_mut(from.max(to));
    match from < to {
        true => [&mut low[from], &mut high[0]],
        false => [&mut high[0], &mut low[to]],
    }
}

fn gather(x: &[f32], index: &[u32], width: usize, y: &mut [f32]) {
    for (row, at) in y.chunks_mut(width).zip(index) {
        row.copy_from_slice(&x[*at as usize * width..][..width]);
    }
}

fn norm(x: &[f32], gamma: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks(gamma.len()).zip(y.chunks_mut(gamma.len())) {
        let squares: f32 = x.iter().map(|x| x * x).sum();
        let factor = (squares / gamma.len() as f32 + 1e-5).sqrt().recip();
        for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = x * factor * gamma;
        }
    }
}

impl Linear {
    fn apply(&self, x: &[f32], adds: bool, y: &mut [f32]) {
        let mut sums = vec![0.0; self.outputs];
        for (x, y) in x.chunks(self.inputs).zip(y.chunks_mut(self.outputs)) {
            sums.copy_from_slice(&self.bias);
            for (x, weights) in x.iter().zip(self.weights.chunks(self.outputs)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += x * weight;
                }
            }
            self.activation.apply(&mut sums);
            for (y, sum) in y.iter_mut().zip(&sums) {
                *y = if adds { *y + sum } else { *sum };
            }
        }
    }
}

impl Activation {
    fn apply(&self, row: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Silu => row.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp()),
            Self::Sigmoid => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Self::Decay { rates } => {
                for (x, rate) in row.iter_mut().zip(rates) {
                    *x = -rate * (x.max(0.0) + (-x.abs()).exp().ln_1p());
                }
            }
        }
    }
}
