//! The memory of a task: rows of a block of tokens of all heads, and states.

use pulp::Simd;

use super::Blocks;
use super::decays::Decays;
use super::pairs::Exchanges;
use crate::cpu::aligned::Aligned;
use crate::cpu::backward::RowHeads;
use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::products::width;
use crate::cpu::backward::running_sum::RunningSum;
use crate::cpu::pairs::Pairs;
use crate::cpu::tiles::TOKENS;

/// The fewest blocks of a segment, unless there are fewer.
const SEGMENT: usize = 4;

/// Rows are `[TOKENS][width]`; behind F or V elements they are 0.
pub(super) struct Memory {
    /// Of rows of features and of values.
    pub(super) widths: [usize; 2],
    /// Blocks of a segment.
    pub(super) segment: usize,
    /// Of each value head.
    pub(super) heads: Vec<Head>,
    pub(super) of_block: OfBlock,
    /// Results of a block: by the rows of q, k and v of the query, key and value heads of the task,
    /// by their decays and betas.
    pub(super) results: Results,
    pub(super) maps: MapMemory,
}

/// A value head.
pub(super) struct Head {
    pub(super) of: RowHeads,
    pub(super) keys: Aligned,
    /// v, or what is written.
    pub(super) values: Aligned,
    /// Of each output head.
    pub(super) reads: Vec<Read>,
    pub(super) state: State,
    pub(super) of_state: State,
    /// The states before segments.
    pub(super) starts: Vec<State>,
    /// What is kept of the blocks of a segment.
    pub(super) kept: Vec<Kept>,
}

/// An output head.
pub(super) struct Read {
    pub(super) of: RowHeads,
    pub(super) queries: Aligned,
    pub(super) gains: [f32; TOKENS],
    /// The gradients by rows of o, and by what they are before they are divided.
    pub(super) of_rows: Aligned,
}

/// mu and nu, or gradients by them. mu is `[V,F]` for rules that only write, else `[F,V]`; its
/// gradient is `[F,V]`.
pub(super) struct State {
    pub(super) mu: Aligned,
    pub(super) nu: RunningSum,
}

/// The state before a block, and what its tokens wrote.
pub(super) struct Kept {
    /// `[V,F]`.
    pub(super) mu: Aligned,
    pub(super) nu: Vec<f32>,
    /// What tokens wrote, before beta, and the decayed products of keys; empty but for delta rules.
    pub(super) entered: Aligned,
    pub(super) of_keys: Vec<Pairs>,
}

/// What is computed of a block of a value head.
pub(super) struct OfBlock {
    pub(super) decays: Decays,
    pub(super) betas: [f32; TOKENS],
    /// `[width][TOKENS]`.
    pub(super) transposed: Aligned,
    /// Rows times a number each.
    pub(super) scaled: Aligned,
    /// Products of keys with keys, or with queries; and of what is written with the gradients by
    /// what reads it.
    pub(super) pairs: Box<Pairs>,
    pub(super) weights: Box<Pairs>,
    pub(super) exchanges: Exchanges,
    /// The products of rows that read the state with what is found for them by it.
    pub(super) terms: [f32; TOKENS],
    /// Gradients: by features that read, by keys, by what is written, and by what is recalled.
    pub(super) of_reads: Aligned,
    pub(super) of_keys: Aligned,
    pub(super) of_values: Aligned,
    pub(super) of_recalled: Aligned,
    /// Where what is written before beta is not kept.
    pub(super) entered: Aligned,
    /// The gradient by the state behind the block, `[V,F]`.
    pub(super) of_mu: Aligned,
}

pub(super) struct Results {
    pub(super) queries: Vec<f32>,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
    pub(super) decays: Vec<f32>,
    pub(super) betas: Vec<f32>,
}

impl Memory {
    #[inline(always)]
    pub(super) fn new<S: Simd>(of: &Blocks<'_, '_>) -> Self {
        let config = of.of.config;
        let widths = of.sizes().map(width::<S>);
        let [features, values] = widths;
        let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
        let heads = of.task_heads();
        let blocks = of.task.tokens.len().div_ceil(TOKENS);
        let segment = blocks.isqrt().max(SEGMENT).min(blocks.max(1));
        let corrects = config.update_rule.beta().is_some();
        let nu = || RunningSum::new(if config.is_normalized() { features } else { 0 });
        let rows = |width: usize| Aligned::zeros(TOKENS * width);
        let if_corrects = |len: usize| Aligned::zeros(if corrects { len } else { 0 });
        let mu = || Aligned::zeros(features * values);
        let state = || State { mu: mu(), nu: nu() };
        let read = |h: usize| Read {
            of: of.of.row_heads(h),
            queries: rows(features),
            gains: [1.0; TOKENS],
            of_rows: rows(values),
        };
        let kept = || Kept {
            mu: mu(),
            nu: vec![0.0; nu().sum().len()],
            entered: if_corrects(TOKENS * values),
            of_keys: vec![[[0.0; TOKENS]; TOKENS]; usize::from(corrects)],
        };
        let group = of.of.heads.value_group;
        let head = |e: usize| Head {
            of: of.of.row_heads(e * group),
            keys: rows(features),
            values: rows(values),
            reads: (e * group..(e + 1) * group).map(read).collect(),
            state: state(),
            of_state: state(),
            starts: (0..blocks.div_ceil(segment)).map(|_| state()).collect(),
            kept: (0..segment).map(|_| kept()).collect(),
        };
        let pairs = || Box::new([[0.0; TOKENS]; TOKENS]);
        let count = heads.value.len();
        Self {
            widths,
            segment,
            heads: heads.value.clone().map(head).collect(),
            of_block: OfBlock {
                decays: Decays::new(config.update_rule.decay().is_some()),
                betas: [1.0; TOKENS],
                transposed: rows(features.max(values)),
                scaled: rows(features.max(values)),
                pairs: pairs(),
                weights: pairs(),
                exchanges: Exchanges::new(),
                terms: [0.0; TOKENS],
                of_reads: rows(features),
                of_keys: rows(features),
                of_values: rows(values),
                of_recalled: if_corrects(TOKENS * values),
                entered: if_corrects(TOKENS * values),
                of_mu: mu(),
            },
            results: Results {
                queries: vec![0.0; TOKENS * heads.query.len() * key_dim],
                keys: vec![0.0; TOKENS * heads.key.len() * key_dim],
                values: vec![0.0; TOKENS * count * value_dim],
                decays: vec![0.0; TOKENS * count],
                betas: vec![0.0; TOKENS * count],
            },
            maps: MapMemory::default(),
        }
    }
}

impl Results {
    /// Makes what is added up zero.
    pub(super) fn clear(&mut self) {
        self.queries.fill(0.0);
        self.keys.fill(0.0);
    }
}

impl State {
    pub(super) fn copy(&mut self, from: &Self) {
        self.mu.copy_from_slice(&from.mu);
        self.nu.copy(&from.nu);
    }

    pub(super) fn clear(&mut self) {
        self.mu.fill(0.0);
        self.nu.clear();
    }

    /// State `state` of slices `[.,F,V]` and `[.,F]`, as `[V][width]` or as `[F][width]`.
    pub(super) fn load(
        &mut self,
        [features, value_dim]: [usize; 2],
        (width, is_by_value): (usize, bool),
        (state, mu, nu): (usize, Option<&[f32]>, Option<&[f32]>),
    ) {
        if let Some(mu) = mu {
            let mu = &mu[state * features * value_dim..][..features * value_dim];
            for (f, mu) in mu.chunks(value_dim).enumerate() {
                match is_by_value {
                    true => mu.iter().enumerate().for_each(|(v, x)| self.mu[v * width + f] = *x),
                    false => self.mu[f * width..][..value_dim].copy_from_slice(mu),
                }
            }
        }
        if let Some(nu) = nu.filter(|_| !self.nu.sum().is_empty()) {
            self.nu.load(&nu[state * features..][..features]);
        }
    }
}
