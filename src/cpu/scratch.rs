//! The memory that a thread needs for a task.

use crate::cpu::aligned::Aligned;
use crate::cpu::block::Block;
use crate::cpu::features::RowBuffer;
use crate::cpu::rows::Rows;
use crate::cpu::step::Step;
use crate::cpu::tiles::{TOKENS, width};
use crate::problem::config::Config;
use crate::problem::update_rule::UpdateRule;

/// Tokens beyond which the rounding of a running sum is compensated. What a delta rule corrects
/// does not drift.
const LONG: usize = 4096;

/// Tokens whose sum is added to the state of a long sequence, where they go through it one by one.
pub(super) const TOGETHER: usize = 64;

/// The memory that a thread needs for any task.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) block: Block,
    pub(super) step: Step,
    pub(super) heads: Vec<Head>,
    /// A row of q or k.
    pub(super) row: RowBuffer,
    /// Rows of o: `[TOKENS][output heads][columns of all strips]`.
    pub(super) outputs: Aligned,
}

/// The memory that it needs for each value head.
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

impl Scratch {
    /// For tasks of at most so many value heads, each with a group of output heads, and columns,
    /// which strips fill. `has_long` where a sequence may be long.
    pub(super) fn new(
        config: &Config,
        [heads, group, columns]: [usize; 3],
        has_long: bool,
    ) -> Self {
        let head = || Head::new(config, group, columns, has_long);
        Self {
            block: Block::new(config),
            step: Step::new(config),
            heads: (0..heads).map(|_| head()).collect(),
            row: RowBuffer::new(config),
            outputs: Aligned::zeros(TOKENS * heads * group * columns),
        }
    }
}

impl Head {
    fn new(config: &Config, group: usize, columns: usize, has_long: bool) -> Self {
        let mu = width(config) * columns;
        let nu = vec![0.0; if config.is_normalized() { config.features() as usize } else { 0 }];
        let compensates = has_long && config.update_rule.beta().is_none();
        Self {
            rows: Rows::new(config, group),
            mu: Aligned::zeros(mu),
            lost: Aligned::zeros(if compensates { mu } else { 0 }),
            entered: Aligned::zeros(if has_long && goes_one_by_one(config, group) {
                mu
            } else {
                0
            }),
            lost_nu: nu.clone(),
            nu,
            values: Aligned::zeros(TOKENS * columns),
            kept: vec![0.0; if config.decay_rows() > 0 { width(config) } else { 0 }],
        }
    }
}

/// True where rounding is compensated in a sequence of so many tokens.
pub(super) fn is_long(tokens: usize) -> bool {
    tokens > LONG
}

/// True where the tokens of a block go through the state one by one, which takes the fewest
/// operations: where each is read by one query, and the state needs no more than adding.
pub(super) fn goes_one_by_one(config: &Config, group: usize) -> bool {
    config.update_rule == UpdateRule::Linear && group == 1
}
