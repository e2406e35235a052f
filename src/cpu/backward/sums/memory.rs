//! The memory of a task: rows of a block of tokens, and sums over the tokens before.

use pulp::Simd;

use super::Sums;
use super::product::Product;
use crate::cpu::aligned::Aligned;
use crate::cpu::backward::RowHeads;
use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::products::width;
use crate::cpu::backward::running_sum::RunningSum;
use crate::cpu::tiles::TOKENS;

/// Rows are `[TOKENS][width]`, in the order of the direction; behind F or V elements they are 0.
pub(super) struct Memory {
    /// Of rows of features and of values.
    pub(super) widths: [usize; 2],
    /// Of each output head.
    pub(super) heads: Vec<Head>,
    pub(super) product: Product,
    /// Results of products: gradients by features and by values.
    pub(super) of_features: Aligned,
    pub(super) of_values: Aligned,
    /// Of each token and output head: c, and `c (q' . g)`.
    pub(super) factors: Vec<f32>,
    pub(super) taken: Vec<f32>,
    /// Results in the order of tokens: by the rows of q or k, and of v, of the query, key or value
    /// heads of the task.
    pub(super) to_elements: Vec<f32>,
    pub(super) to_values: Vec<f32>,
    pub(super) maps: MapMemory,
}

/// An output head.
pub(super) struct Head {
    pub(super) of: RowHeads,
    /// k' and q', and the gains of the queries.
    pub(super) keys: Aligned,
    pub(super) queries: Aligned,
    pub(super) gains: [f32; TOKENS],
    /// nu after each token, or its gradient.
    pub(super) nus: Aligned,
    /// v and dn.
    pub(super) values: Aligned,
    pub(super) of_rows: Aligned,
    /// mu or its gradient as `[V,F]`.
    pub(super) by_value: Aligned,
    /// The gradient as `[F,V]`.
    pub(super) by_feature: Aligned,
    pub(super) nu: RunningSum,
}

impl Memory {
    #[inline(always)]
    pub(super) fn new<S: Simd>(of: &Sums<'_, '_>) -> Self {
        let widths = of.sizes().map(width::<S>);
        let [features, values] = widths;
        let (key_dim, value_dim) = (of.of.config.key_dim as usize, of.of.config.value_dim as usize);
        let (heads, count) = (of.task_heads(), of.heads().len());
        let rows = |width: usize| Aligned::zeros(TOKENS * width);
        let head = |h: usize| Head {
            of: of.of.row_heads(h),
            keys: rows(features),
            queries: rows(features),
            gains: [1.0; TOKENS],
            nus: rows(features),
            values: rows(values),
            of_rows: rows(values),
            by_value: Aligned::zeros(features * values),
            by_feature: Aligned::zeros(features * values),
            nu: RunningSum::new(if of.of.config.is_normalized() { of.sizes()[0] } else { 0 }),
        };
        let of_tokens = || vec![0.0; of.task.tokens.len() * count];
        Self {
            widths,
            heads: of.heads().map(head).collect(),
            product: Product::new(features.max(values), of.mistake),
            of_features: rows(features),
            of_values: rows(values),
            factors: of_tokens(),
            taken: of_tokens(),
            to_elements: vec![0.0; TOKENS * heads.query.len().max(heads.key.len()) * key_dim],
            to_values: vec![0.0; TOKENS * heads.value.len() * value_dim],
            maps: MapMemory::default(),
        }
    }
}

impl Head {
    /// State `state` of slices `[.,F,V]` and `[.,F]`.
    pub(super) fn load(
        &mut self,
        [features, value_dim]: [usize; 2],
        [width, value_width]: [usize; 2],
        (state, mu, nu): (usize, Option<&[f32]>, Option<&[f32]>),
    ) {
        if let Some(mu) = mu {
            let mu = &mu[state * features * value_dim..][..features * value_dim];
            for (f, mu) in mu.chunks(value_dim).enumerate() {
                self.by_feature[f * value_width..][..value_dim].copy_from_slice(mu);
                for (v, x) in mu.iter().enumerate() {
                    self.by_value[v * width + f] = *x;
                }
            }
        }
        if let Some(nu) = nu.filter(|_| !self.nu.sum().is_empty()) {
            self.nu.load(&nu[state * features..][..features]);
        }
    }

    /// Zero states.
    pub(super) fn clear(&mut self) {
        self.by_value.fill(0.0);
        self.by_feature.fill(0.0);
        self.nu.clear();
    }
}
