//! The memory that a thread needs for each value head of a task.

use crate::cpu::aligned::Aligned;
use crate::cpu::rows::Rows;
use crate::cpu::tiles::{TOKENS, width};
use crate::problem::config::Config;

/// Tokens beyond which the rounding of a running sum is compensated. What a delta rule corrects
/// does not drift.
const LONG: usize = 4096;

/// The same where rows decay one by one, and the most tokens of one decay a head that go one by one:
/// the state is rounded for each of them, and slow decays keep its errors.
const LONG_OF_DECAYS: usize = 1024;

/// The memory that a thread needs for each value head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) rows: Rows,
    /// mu in strips of columns: `[strips][width][columns]`.
    pub(super) mu: Aligned,
    /// The part of mu that rounding took, where a sequence is long.
    pub(super) lost: Aligned,
    /// What tokens, one by one, have added and is not in mu yet, where a sequence is long.
    pub(super) entered: Aligned,
    pub(super) nu: Vec<f32>,
    pub(super) lost_nu: Vec<f32>,
    /// u in strips: `[strips][TOKENS][columns]`.
    pub(super) values: Aligned,
    /// The share of each row that the tokens so far keep, less 1.
    pub(super) kept: Vec<f32>,
}

impl Head {
    pub(super) fn new(config: &Config, group: usize, columns: usize, has_long: bool) -> Self {
        let mu = width(config) * columns;
        let nu = vec![0.0; if config.is_normalized() { config.features() as usize } else { 0 }];
        let compensates = has_long && config.update_rule.beta().is_none();
        let is_summed_apart = has_long && goes_one_by_one(config, group, usize::MAX);
        Self {
            rows: Rows::new(config, group),
            mu: Aligned::zeros(mu),
            lost: Aligned::zeros(if compensates { mu } else { 0 }),
            entered: Aligned::zeros(if is_summed_apart { mu } else { 0 }),
            lost_nu: nu.clone(),
            nu,
            values: Aligned::zeros(TOKENS * columns),
            kept: vec![0.0; if config.decay_rows() > 0 { width(config) } else { 0 }],
        }
    }
}

/// True where rounding is compensated in a sequence of so many tokens.
pub(super) fn is_long(config: &Config, tokens: usize) -> bool {
    tokens > if config.decay_rows() > 1 { LONG_OF_DECAYS } else { LONG }
}

/// True where so many tokens go through a state one by one: each is read by one query, and nothing is
/// corrected. With a decay a head those of a long sequence do not: compensation for each span takes
/// longer than products of a block's tokens.
pub(super) fn goes_one_by_one(config: &Config, group: usize, tokens: usize) -> bool {
    let is_slower = config.decay_rows() == 1 && tokens > LONG_OF_DECAYS;
    config.update_rule.beta().is_none() && group == 1 && !is_slower
}
