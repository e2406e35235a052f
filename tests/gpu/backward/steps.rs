//! Sequences of many tokens, of which a dispatch of the recurrence has some where a driver exits
//! loops after so many iterations.

use libtest_mimic::Failed;
use linear_attention::gradients::Backward;
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::{Config, LinearAttention, Normalization, Shape, UpdateRule};

use super::check;
use crate::adapters::Gpu;

/// With a short sequence and an empty one beside a long one, whose padding is cleared step by step.
pub(super) fn many_tokens(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::padded(&[3..953, 0..0, 700..731], 1000, 1);
    let gated = Config::new(24, 36).with_update_rule(UpdateRule::Gated(Decay::per_head()));
    let rule = UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head());
    let delta = Config::of_rule(24, 36, rule).with_normalization(Normalization::None);
    for config in [gated, delta] {
        check(gpu, &Backward::new(&gpu.device, config)?, &shape)?;
    }
    Ok(())
}
