//! The walks of `gradient_corrections` and `gradient_corrections_reversed` through the tokens of each
//! sequence, in dispatches whose loops are as long as a driver takes.

use std::ops::Range;

use crate::error::PlanError;
use crate::kernel::gradient::CorrectionSizes;
use crate::plan::Plan;

/// Dispatches of some tokens of every sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Walk {
    /// Tokens of the longest sequence, and of a dispatch.
    tokens: u32,
    tokens_of_dispatch: u32,
}

impl Walk {
    /// # Errors
    ///
    /// More loop iterations for a token than an invocation may make.
    pub(super) fn new(forward: &Plan) -> Result<Self, PlanError> {
        let tokens = forward.shape().max_len();
        let required = forward.tuning().max_loop_iterations;
        let of_one = iterations(forward, 1);
        if of_one > required.into() {
            let (what, actual) = ("the backward pass of a token", of_one);
            return Err(PlanError::Iterations { what, required, actual });
        }
        // Each of as many as bring `iterations` to the limit, and all at once where they are fewer.
        let (mut fits, mut too_many) = (1, tokens.saturating_add(1).max(2));
        while fits + 1 < too_many {
            let middle = fits + (too_many - fits) / 2;
            match iterations(forward, middle) <= required.into() {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        Ok(Self { tokens, tokens_of_dispatch: fits })
    }

    /// The tokens of each dispatch, as a sequence's are counted in the order of a walk.
    pub(crate) fn dispatches(self) -> impl Iterator<Item = Range<u32>> {
        let Self { tokens, tokens_of_dispatch } = self;
        let len = tokens_of_dispatch.max(1);
        (0..tokens.div_ceil(len))
            .map(move |i| i * len..tokens.min(i.saturating_add(1).saturating_mul(len)))
    }
}

/// An upper bound of the loop iterations of an invocation for so many tokens. Every loop is counted
/// once more for its last test.
fn iterations(forward: &Plan, tokens: u32) -> u64 {
    let config = forward.config();
    let CorrectionSizes { columns, lanes, rows } = CorrectionSizes::new(config);
    let threads = u64::from(columns * lanes);
    let features = u64::from(config.features().div_ceil(4).next_multiple_of(lanes));
    let [lanes, rows] = [lanes, rows].map(u64::from);
    // The reversed walk has more rows: those of output heads, and the key.
    let all = u64::from(tokens) * (u64::from(forward.shape().value_group()) + 1);
    let of_chunk =
        (rows * features).div_ceil(threads) + rows.div_ceil(lanes) + rows.div_ceil(threads);
    all + all.div_ceil(rows) * (of_chunk + 5) + 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::plan::tuning::Tuning;
    use crate::problem::config::Config;
    use crate::problem::shape::Shape;
    use crate::problem::update_rule::{Beta, UpdateRule};

    fn forward(width: u32, shape: &Shape, device_type: wgpu::DeviceType) -> Plan {
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 30,
            max_buffer_size: 1 << 32,
            ..Default::default()
        };
        let config = Config::of_rule(width, width, UpdateRule::Delta(Beta::per_head()));
        let tuning = Tuning::new(&config, &limits, device_type).unwrap();
        Plan::new(&config, shape, &limits, &tuning).unwrap()
    }

    #[test]
    fn a_dispatch_has_as_many_tokens_as_a_driver_takes() {
        for (width, heads) in [(4, 1), (64, 1), (64, 4), (128, 2), (256, 1)] {
            let shape = Shape::new(1, 60_000, heads).with_kv_heads(1);
            let plan = forward(width, &shape, wgpu::DeviceType::Cpu);
            let walk = Walk::new(&plan).unwrap();
            let dispatches: Vec<_> = walk.dispatches().collect();
            assert!(dispatches.len() > 1 && dispatches[0].start == 0);
            assert_eq!(dispatches[dispatches.len() - 1].end, 60_000);
            assert!(dispatches.windows(2).all(|pair| pair[0].end == pair[1].start));
            for range in dispatches {
                assert!(!range.is_empty());
                assert!(iterations(&plan, range.end - range.start) <= 65_000, "{width}, {heads}");
            }
            let plan = forward(width, &shape, wgpu::DeviceType::DiscreteGpu);
            assert_eq!(Walk::new(&plan).unwrap().dispatches().count(), 1);
        }
        let empty = forward(8, &Shape::new(1, 0, 1), wgpu::DeviceType::Cpu);
        assert_eq!(Walk::new(&empty).unwrap().dispatches().count(), 0);
    }

    #[test]
    fn a_token_that_is_too_many_rows_is_refused() {
        let shape = Shape::new(1, 2, 65_536).with_kv_heads(1);
        let plan = forward(4, &shape, wgpu::DeviceType::Cpu);
        let error = Walk::new(&plan).unwrap_err();
        assert!(matches!(error, PlanError::Iterations { required: 65_000, .. }), "{error}");
    }

    #[test]
    fn rows_fit_the_memory_that_every_device_has() {
        for width in [1, 4, 63, 64, 65, 128, 200, 256] {
            let config = Config::of_rule(width, width, UpdateRule::Delta(Beta::per_head()));
            let sizes = CorrectionSizes::new(&config);
            let CorrectionSizes { columns, lanes, rows } = sizes;
            let features = lanes * sizes.vec4s(&config);
            assert!(4 * features >= width && sizes.blocks(&config) * columns >= width);
            let bytes = rows * (16 * features + 4 * columns + 8) + 8 * columns * lanes + 8;
            assert!(bytes <= 16_384 && columns * lanes <= 256, "{width}: {bytes}");
        }
    }
}
