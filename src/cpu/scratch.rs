//! The memory that a thread needs for a task.

use crate::cpu::aligned::Aligned;
use crate::cpu::block::Block;
use crate::cpu::features::RowBuffer;
use crate::cpu::head::Head;
use crate::cpu::one_by_one::OneByOne;
use crate::cpu::step::Step;
use crate::cpu::tiles::TOKENS;
use crate::problem::config::Config;

/// The memory that a thread needs for any task.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) block: Block,
    pub(super) one_by_one: OneByOne,
    pub(super) step: Step,
    pub(super) heads: Vec<Head>,
    /// A row of q or k.
    pub(super) row: RowBuffer,
    /// Rows of o: `[TOKENS][output heads][columns of all strips]`.
    pub(super) outputs: Aligned,
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
            one_by_one: OneByOne::new(config),
            step: Step::new(config),
            heads: (0..heads).map(|_| head()).collect(),
            row: RowBuffer::new(config),
            outputs: Aligned::zeros(TOKENS * heads * group * columns),
        }
    }
}
