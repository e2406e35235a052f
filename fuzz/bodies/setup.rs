//! The config, the sizes and the tokens of a program of calls, and what they come to in f64.

use arbitrary::{Result, Unstructured};
use linear_attention::shape::PackedLimits;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, FeatureMap, Inputs, Normalization, Shape, reference};

/// Config, heads and sizes of a program.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: Config,
    pub shape: Shape,
    pub slots: u32,
}

/// Rows of some tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub decay: Vec<f32>,
    pub beta: Vec<f32>,
    pub len: usize,
}

impl Setup {
    /// Any of the rules and maps, heads and small sizes.
    pub fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let (k, v) = (u.int_in_range(1..=6)?, u.int_in_range(1..=9)?);
        let elu = |rule| {
            let config = Config::of_rule(k, v, rule).with_feature_map(FeatureMap::Elu);
            config.with_normalization(Normalization::default())
        };
        let (head, row) = (Decay::per_head(), Decay::per_row());
        // Keys of a delta rule have the norm 1, or the rule diverges by itself.
        let delta = |rule| Config::of_rule(k, v, rule).with_l2_norm(true);
        let config = match u.int_in_range(0..=8)? {
            0 => Config::new(k, v),
            1 => Config::new(k, v).with_feature_map(FeatureMap::Exp),
            2 => Config::new(k, v).with_normalization(Normalization::None),
            3 => Config::of_rule(k, v, UpdateRule::Gated(head)),
            4 => elu(UpdateRule::Gated(head)),
            5 => elu(UpdateRule::Gated(row)),
            6 => delta(UpdateRule::Delta(Beta::shared())),
            7 => delta(UpdateRule::GatedDelta(head, Beta::per_head())),
            _ => delta(UpdateRule::GatedDelta(row, Beta::per_head())),
        };
        let [h, g, e] =
            *u.choose(&[[1, 1, 1], [2, 2, 2], [2, 1, 1], [4, 1, 2], [1, 1, 2], [2, 1, 4]])?;
        let shape = match u.int_in_range(0..=3)? {
            0 => Shape::new(u.int_in_range(1..=3)?, 1, h),
            1 => Shape::new(2, u.int_in_range(0..=5)?, h),
            2 => Shape::packed_up_to(PackedLimits { sequences: 4, tokens: 4, max_len: 1 }, h),
            _ => Shape::packed_up_to(PackedLimits { sequences: 3, tokens: 80, max_len: 70 }, h),
        };
        let shape = shape.with_key_heads(g).with_value_heads(e);
        Ok(Self { config, shape, slots: u.int_in_range(1..=6)? })
    }

    /// Values of a row of each tensor.
    pub fn widths(&self) -> [usize; 5] {
        let (shape, config) = (&self.shape, &self.config);
        let one = Shape::new(1, 1, shape.heads)
            .with_key_heads(shape.key_heads)
            .with_value_heads(shape.value_heads);
        let lens = one.lens(config).expect("a shape of one token");
        [lens.q, lens.k, lens.v, lens.decay, lens.beta].map(|len| len as usize)
    }

    pub fn tokens(&self, len: usize, seed: u64) -> Tokens {
        let mut next = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut uniform = || {
            next = next.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (next >> 40) as f32 / (1u64 << 24) as f32
        };
        let [q, k, v, decay, beta] = self
            .widths()
            .map(|width| (0..len * width).map(|_| 2.0 * uniform() - 1.0).collect::<Vec<f32>>());
        let decay = decay.iter().map(|x| if *x > 0.95 { f32::NEG_INFINITY } else { -x.abs() });
        let beta = beta.iter().map(|x| x.abs()).collect();
        Tokens { q, k, v, decay: decay.collect(), beta, len }
    }

    /// o and the state after some tokens.
    pub fn truth(&self, tokens: &Tokens) -> (Vec<f64>, Vec<f64>) {
        let (shape, rule) = (&self.shape, self.config.update_rule);
        let one = Shape::new(1, tokens.len as u32, shape.heads)
            .with_key_heads(shape.key_heads)
            .with_value_heads(shape.value_heads);
        let mut inputs = Inputs::new(&tokens.q, &tokens.k, &tokens.v);
        inputs.decay = rule.decay().map(|_| &tokens.decay[..]);
        inputs.beta = rule.beta().map(|_| &tokens.beta[..]);
        let truth = reference::recurrent(&self.config, &one, inputs).expect("inputs of the shape");
        (truth.o, [truth.mu, truth.nu].concat())
    }
}

impl Tokens {
    /// Appends rows; those of all five tensors have `widths`.
    pub fn extend(&mut self, from: &Tokens, range: std::ops::Range<usize>, widths: [usize; 5]) {
        let Self { q, k, v, decay, beta, len } = self;
        let sources = [&from.q, &from.k, &from.v, &from.decay, &from.beta];
        for ((to, from), width) in [q, k, v, decay, beta].into_iter().zip(sources).zip(widths) {
            to.extend_from_slice(&from[range.start * width..range.end * width]);
        }
        *len += range.len();
    }
}
