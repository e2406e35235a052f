//! The blocks of tokens of `gradient_decays`: gradients by decays that are one for each token and
//! head, from the states that two passes of the recipe `sums` keep.

use std::ops::Range;

use bytemuck::Zeroable as _;

use crate::backward::plan::pass::Pass;
use crate::backward::plan::rows::pass_vec4s;
use crate::error::PlanError;
use crate::kernel::gradient::{DECAY_BLOCK, DECAY_STRIP, decay_lanes};
use crate::kernel::layout::SCAN_THREADS;
use crate::plan::segments::Segment;
use crate::plan::{F32_SIZE, Plan};

const VEC4_SIZE: u64 = 4 * F32_SIZE;

/// Tokens whose gradients are a work item's, as shaders/gradient_decays.wgsl has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Block {
    pub(crate) begin: u32,
    pub(crate) end: u32,
    /// The token behind its window; 0 where no sequence has its tokens.
    pub(crate) last: u32,
    pub(crate) is_followed: u32,
    /// Offsets of M before the block and of the gradient behind its window, in vec4s of the states.
    pub(crate) state: u32,
    pub(crate) of_state: u32,
    /// Likewise of the gradient by M of what keys recall.
    pub(crate) of_recalled: u32,
    /// Brings it to 32 bytes.
    pub(crate) unused: u32,
}

/// The blocks of all tokens, and the range of scratch with the states.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DecayBlocks {
    pub(crate) blocks: Vec<Block>,
    pub(crate) states: Range<u64>,
}

/// Tokens of a segment of the passes that keep states, which are blocks: as many as the loops of an
/// invocation allow, no more than the caller's tuning has, and so that the longest sequence is a few
/// tokens longer than whole segments at most: windows are as much longer than blocks.
pub(super) fn block_len(forward: &Plan) -> Result<u32, PlanError> {
    let tuning = forward.tuning();
    let required = tuning.max_loop_iterations;
    let mut len = tuning.segment_len.unwrap_or(DECAY_BLOCK).clamp(1, DECAY_BLOCK);
    loop {
        let actual = iterations(forward, len);
        if actual <= required.into() {
            let longest = forward.shape().max_len().max(1);
            return Ok(longest / longest.div_ceil(len));
        }
        if len == 1 {
            let what = "gradients by decays";
            return Err(PlanError::Iterations { what, required, actual });
        }
        len /= 2;
    }
}

/// An upper bound of the loop iterations of an invocation for a block of so many tokens. Every loop
/// is counted once more for its last test.
fn iterations(forward: &Plan, tokens: u32) -> u64 {
    let config = forward.config();
    let [keys, values] = pass_vec4s(config);
    let (lanes, threads) = (u64::from(decay_lanes(config)), u64::from(SCAN_THREADS));
    let (tokens, strip) = (u64::from(tokens), u64::from(DECAY_STRIP));
    let (window, group) = (2 * tokens, heads_of_value_head(forward));
    let of_state = keys.div_ceil(lanes)
        * (values.div_ceil(threads / lanes) * (strip + 2) + strip + 3)
        + 4 * (strip + 1);
    let of_pairs = (keys + values) * (strip + 2) + 2 * (strip + 3);
    let of_tokens = tokens.div_ceil(threads) + 1;
    let of_strip = group * (of_state + of_tokens * (of_pairs + strip + 2))
        + tokens
        + of_tokens * (strip + 2)
        + 4 * strip
        + 8;
    let of_keys = tokens.div_ceil(strip) * (group * of_state + 4 * strip);
    let product = group * (4 * keys * values / threads + 2);
    window.div_ceil(strip) * of_strip + of_keys + product + 8 * tokens + 32
}

/// Output heads of a value head, with its keys, which read as queries do, where they recall.
fn heads_of_value_head(forward: &Plan) -> u64 {
    let has_beta = forward.config().update_rule.beta().is_some();
    u64::from(forward.shape().value_group()) + u64::from(has_beta)
}

/// The passes that keep states for the blocks.
#[derive(Clone, Copy)]
pub(super) struct Keeping<'a> {
    /// M in forward time.
    pub(super) of_states: &'a Pass,
    /// R in reversed time, of output heads and of the keys that recall.
    pub(super) of_gradients: &'a Pass,
    pub(super) of_recalled: Option<&'a Pass>,
}

/// Blocks of the segments of a pass in forward time, whose windows end where a pass in reversed
/// time has a state, and blocks of no more than DECAY_BLOCK tokens of no sequence. Segments of
/// sequences whose lengths are no multiples of a segment's begin elsewhere in reversed time, so that
/// windows are longer, up to twice as long.
///
/// # Errors
///
/// More bytes of states than the device binds, or 32 bits count.
pub(super) fn blocks(
    forward: &Plan,
    passes: Keeping<'_>,
    limits: &wgpu::Limits,
) -> Result<DecayBlocks, PlanError> {
    let Keeping { of_states, of_gradients, of_recalled } = passes;
    let all = [Some(of_states), Some(of_gradients), of_recalled].into_iter().flatten();
    let states = all.map(states_of).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
    let states = states.unwrap_or_default();
    let (required, actual) = (limits.max_storage_buffer_binding_size, states.end - states.start);
    if actual > required {
        let (what, largest_batch) = ("states of segments", None);
        return Err(PlanError::TooLarge { what, required, actual, largest_batch });
    }
    list(forward, passes, states)
        .ok_or(PlanError::TooManyElements { what: "states of segments", actual: actual / F32_SIZE })
}

/// The blocks, with the states at a range of scratch; `None` where 32 bits do not count them.
fn list(forward: &Plan, passes: Keeping<'_>, states: Range<u64>) -> Option<DecayBlocks> {
    let Keeping { of_states, of_gradients, of_recalled } = passes;
    let offset = |pass: &Pass, segment: &Segment| {
        let number = if pass.plan.has_segment_states() { segment.number } else { segment.n };
        let bytes = (number as u64).checked_mul(pass.plan.state_size())?;
        let begin = states_of(pass).start - states.start;
        u32::try_from(begin.checked_add(bytes)? / VEC4_SIZE).ok()
    };
    let ranges = forward.shape().token_ranges()?;
    let tokens = |plan: &Plan| plan.shape().batch as usize * plan.shape().seq_len as usize;
    // Of the pass in reversed time, from the first token to the last.
    let used = tokens(&of_gradients.plan);
    let mut windows: Vec<Segment> = of_gradients.plan.segment_list()?;
    windows.reverse();
    for segment in &mut windows {
        segment.tokens = used - segment.tokens.end..used - segment.tokens.start;
    }
    let mut windows = windows.iter().filter(|window| !window.tokens.is_empty()).peekable();
    let mut found = DecayBlocks { blocks: Vec::new(), states: states.clone() };
    let mut before = 0;
    for segment in of_states.plan.segment_list()?.iter().filter(|of| !of.tokens.is_empty()) {
        let Range { start: begin, end } = segment.tokens;
        found.add_empty(before..begin);
        before = end;
        // That of the block's last token.
        while windows.next_if(|window| window.tokens.end < end).is_some() {}
        let (window, sequence) = (windows.peek()?, ranges.get(segment.n)?);
        found.blocks.push(Block {
            begin: begin as u32,
            end: end as u32,
            last: window.tokens.end as u32,
            is_followed: u32::from(window.tokens.end < sequence.end),
            state: offset(of_states, segment)?,
            of_state: offset(of_gradients, window)?,
            of_recalled: match of_recalled {
                Some(pass) => offset(pass, window)?,
                None => 0,
            },
            unused: 0,
        })
    }
    found.add_empty(before..tokens(forward));
    Some(found)
}

/// The states before the segments of a pass, in scratch; those before its sequences where each is
/// one segment.
fn states_of(pass: &Pass) -> Range<u64> {
    if !pass.plan.has_segment_states() {
        return pass.states.clone();
    }
    let own = &pass.plan.scratch().states;
    pass.scratch.start + own.start..pass.scratch.start + own.end
}

impl DecayBlocks {
    /// Of tokens of no sequence.
    fn add_empty(&mut self, tokens: Range<usize>) {
        let len = DECAY_BLOCK as usize;
        for begin in tokens.clone().step_by(len) {
            let end = tokens.end.min(begin + len);
            let (begin, end) = (begin as u32, end as u32);
            self.blocks.push(Block { begin, end, ..Block::zeroed() });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::backward::plan::BackwardPlan;
    use crate::backward::plan::pass::PassConfigs;
    use crate::plan::tuning::Tuning;
    use crate::problem::config::Config;
    use crate::problem::shape::Shape;
    use crate::problem::update_rule::{Beta, Decay, UpdateRule};

    fn plan(config: &Config, shape: &Shape, segment_len: Option<u32>) -> BackwardPlan {
        let limits = wgpu::Limits { max_buffer_size: 1 << 32, ..Default::default() };
        let tuned = |config: &Config| {
            let tuning = Tuning::new(config, &limits, wgpu::DeviceType::Cpu)?;
            Ok(tuning.with_segment_len(segment_len))
        };
        let forward = Plan::new(config, shape, &limits, &tuned(config).unwrap()).unwrap();
        let passes = PassConfigs::new(config, None, &tuned);
        BackwardPlan::new(forward, passes.as_ref(), &limits).unwrap()
    }

    #[test]
    fn every_token_has_a_block_whose_states_are_there() {
        let gated = Config::of_rule(8, 12, UpdateRule::Gated(Decay::per_head()));
        let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
        let delta = Config::of_rule(8, 12, rule);
        for shape in [
            Shape::new(2, 261, 4).with_kv_heads(2),
            Shape::new(3, 7, 1),
            Shape::packed(&[0, 21, 0, 3, 300, 128, 0], 2),
            Shape::padded(&[3..20, 0..0, 0..9, 20..20], 20, 2),
        ] {
            let of = |config| [None, Some(5), Some(64)].map(|segment_len| (config, segment_len));
            for (config, segment_len) in [of(&gated), of(&delta)].concat() {
                let plan = plan(config, &shape, segment_len);
                let [e, h] = [shape.value_heads, shape.output_heads()].map(u64::from);
                let state = 8 * 12 * F32_SIZE;
                let of_states = (plan.decays.states.end - plan.decays.states.start) / VEC4_SIZE;
                let mut next = 0;
                for block in &plan.decays.blocks {
                    assert_eq!(block.begin, next);
                    assert!(block.end > block.begin && block.end - block.begin <= DECAY_BLOCK);
                    next = block.end;
                    let token = block.begin as usize..block.end as usize;
                    let sequence = plan.ranges.iter().find(|range| range.contains(&token.start));
                    let Some(sequence) = sequence else {
                        assert_eq!(block.last, 0);
                        continue;
                    };
                    let last = block.last as usize;
                    assert!(token.end <= last && last <= sequence.end);
                    // The memory of a workgroup.
                    assert!(last - token.start < 2 * DECAY_BLOCK as usize);
                    assert_eq!(block.is_followed == 1, last < sequence.end);
                    let recalled = (block.of_recalled, e);
                    for (first, heads) in [(block.state, e), (block.of_state, h), recalled] {
                        assert!(u64::from(first) + heads * state / VEC4_SIZE <= of_states);
                    }
                }
                assert_eq!(u64::from(next), plan.forward.lens().decay / e);
            }
        }
    }

    #[test]
    fn blocks_are_as_long_as_a_driver_takes() {
        let shape = Shape::new(1, 300, 8).with_kv_heads(1);
        for (width, most) in [(16, DECAY_BLOCK), (256, DECAY_BLOCK / 2)] {
            let config = Config::of_rule(width, width, UpdateRule::Gated(Decay::per_head()));
            let forward = &plan(&config, &shape, None).forward;
            let len = block_len(forward).unwrap();
            assert!(len <= most && 300 % len < 300 / len, "{width}: {len}");
            assert!(iterations(forward, len) <= forward.tuning().max_loop_iterations.into());
        }
    }
}
