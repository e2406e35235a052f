//! Recipes, dispatches and scratch of backward passes.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use super::*;
use crate::backward::plan::recurrence::COLUMN_SUMS_BYTES;
use crate::kernel::gradient::DECAY_BLOCK;
use crate::plan::tuning::Tuning;
use crate::problem::config::{Config, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::{Beta, Decay, UpdateRule};

fn plan(shape: &Shape, width: u32, largest: u64) -> BackwardPlan {
    let limits = wgpu::Limits {
        max_storage_buffer_binding_size: largest,
        max_buffer_size: 1 << 32,
        ..Default::default()
    };
    let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let config = Config::of_rule(width, width, rule);
    let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::DiscreteGpu).unwrap();
    let tuning = tuning.with_workgroups(160);
    let forward = Plan::new(&config, shape, &limits, &tuning).unwrap();
    BackwardPlan::new(forward, None, &limits).unwrap()
}

fn has(plan: &BackwardPlan, stage: GradientStage) -> bool {
    plan.dispatches.iter().any(|of| matches!(of, Dispatch::Stage(of, _) if *of == stage))
}

fn sums(plan: &BackwardPlan) -> bool {
    has(plan, GradientStage::ColumnSums)
}

/// The plan of a config with sums, where they can be.
fn with_sums(config: &Config, shape: &Shape, limits: &wgpu::Limits) -> BackwardPlan {
    let discrete = wgpu::DeviceType::DiscreteGpu;
    let tuned = |config: &Config| Tuning::new(config, limits, discrete);
    let forward = Plan::new(config, shape, limits, &tuned(config).unwrap()).unwrap();
    let passes = PassConfigs::new(config, None, &tuned);
    BackwardPlan::new(forward, passes.as_ref(), limits).unwrap()
}

fn passes(plan: &BackwardPlan) -> Vec<&Plan> {
    let dispatches = plan.dispatches.iter();
    let pass = dispatches.filter_map(|dispatch| match dispatch {
        Dispatch::Pass(pass) => Some(&pass.plan),
        Dispatch::Stage(..) => None,
    });
    pass.collect()
}

#[test]
fn rules_without_corrections_have_sums() {
    let limits = wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 30,
        max_buffer_size: 1 << 32,
        ..Default::default()
    };
    let (config, shape) = (Config::new(64, 64), Shape::new(1, 4096, 8));
    let sums = with_sums(&config, &shape, &limits);
    let found = passes(&sums);
    assert_eq!(found.len(), 4);
    // Few heads have segments.
    assert!(found.iter().all(|plan| plan.segments() > 8));
    // Rows of 64 and 1 in one block of 17 threads, or of 16.
    assert_eq!(found[0].layout().block_columns(), 68);
    assert_eq!(found[2].layout().block_columns(), 64);
    assert!(!has(&sums, GradientStage::Recurrence) && !has(&sums, GradientStage::GroupSums));

    let plain = config.clone().with_normalization(Normalization::None);
    let grouped = Shape::new(1, 4096, 8).with_kv_heads(2);
    let sums = with_sums(&plain, &grouped, &limits);
    assert_eq!(passes(&sums).len(), 3);
    assert!(has(&sums, GradientStage::GroupSums));
    assert!(passes(&with_sums(&config, &Shape::new(1, 0, 8), &limits)).is_empty());

    // Two keep states at the ends of blocks.
    let gated = config.clone().with_update_rule(UpdateRule::Gated(Decay::per_head()));
    let sums = with_sums(&gated, &shape, &limits);
    let found = passes(&sums);
    assert_eq!((found.len(), sums.decays.blocks.len()), (4, 32));
    assert!(found[2..].iter().all(|plan| plan.segment_len() == DECAY_BLOCK));
    assert!(has(&sums, GradientStage::Decays) && !has(&sums, GradientStage::TokenGates));

    // No row of k is as wide as these features and this row of v, and decays of rows are the
    // recurrence's.
    let wide = Config::new(600, 8).with_feature_map(FeatureMap::Dpfp { nu: 2 });
    let values = Config::new(8, 1024);
    let rows = config.clone().with_update_rule(UpdateRule::Gated(Decay::per_row()));
    for config in [wide, values, rows] {
        let plan = with_sums(&config, &Shape::new(1, 40, 2), &limits);
        assert!(passes(&plan).is_empty() && has(&plan, GradientStage::Recurrence));
    }
}

/// Limits of a device with room for large tensors.
fn large_limits() -> wgpu::Limits {
    wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 30,
        max_buffer_size: 1 << 32,
        ..Default::default()
    }
}

#[test]
fn delta_rules_have_sums_and_walks() {
    use GradientStage::{CorrectionRows, Corrections, CorrectionsReversed, GroupSums, TokenGates};
    let limits = large_limits();
    let delta = Config::of_rule(64, 64, UpdateRule::Delta(Beta::per_head()));
    let gated = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let gated = Config::of_rule(64, 64, gated);
    for shape in [Shape::new(1, 4096, 8), Shape::new(1, 4096, 8).with_kv_heads(2)] {
        for config in [&delta, &gated] {
            let plan = with_sums(config, &shape, &limits);
            let found = passes(&plan);
            // By k', by keys that recall as keys and as queries, by q'.
            assert_eq!(found.len(), 4);
            assert!(found[..2].iter().all(|plan| plan.is_reversed()));
            assert!(found[2..].iter().all(|plan| !plan.is_reversed()));
            assert!(found.iter().all(|plan| plan.config().update_rule.beta().is_none()));
            for stage in [Corrections, CorrectionsReversed, CorrectionRows, GroupSums] {
                assert!(has(&plan, stage), "{stage:?}");
            }
            assert!(!has(&plan, TokenGates) && !has(&plan, GradientStage::Recurrence));
            let has_decays = config.update_rule.decay().is_some();
            assert_eq!(has(&plan, GradientStage::Decays), has_decays);
            assert_eq!(plan.decays.blocks.is_empty(), !has_decays);
            // Passes behind the rows that they take, and all steps in one dispatch.
            let at = |stage| {
                let is = |of: &Dispatch| matches!(of, Dispatch::Stage(of, _) if *of == stage);
                plan.dispatches.iter().position(is).unwrap()
            };
            let is_pass = |of: &Dispatch| matches!(of, Dispatch::Pass(_));
            assert_eq!(plan.dispatches.iter().position(is_pass).unwrap(), at(CorrectionRows) + 1);
            let steps = plan.steps(Corrections);
            assert!(steps.len() == 1 && steps[0] == (0..4096), "{steps:?}");
            assert_eq!(plan.gradients_by_keys(), &plan.scratch.keys);
        }
    }
    // Decays of rows are the recurrence's, and so is what has no room for the passes.
    let rows = UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head());
    let rows = Config::of_rule(64, 64, rows);
    let plan = with_sums(&rows, &Shape::new(1, 40, 2), &limits);
    assert!(passes(&plan).is_empty() && has(&plan, GradientStage::Recurrence));
    let limits = wgpu::Limits { max_buffer_size: 24 << 20, ..Default::default() };
    let plan = with_sums(&gated, &Shape::new(1, 4096, 4), &limits);
    assert!(passes(&plan).is_empty() && has(&plan, GradientStage::Recurrence));
}

#[test]
fn steps_are_in_dispatches_that_a_driver_takes() {
    let limits = wgpu::Limits {
        max_storage_buffer_binding_size: 1 << 30,
        max_buffer_size: 1 << 32,
        ..Default::default()
    };
    let plan = |widths: [u32; 2], device_type: wgpu::DeviceType| {
        let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
        let config = Config::of_rule(widths[0], widths[1], rule);
        let tuning = Tuning::new(&config, &limits, device_type).unwrap();
        let forward = Plan::new(&config, &Shape::new(1, 4096, 1), &limits, &tuning).unwrap();
        BackwardPlan::new(forward, None, &limits)
    };
    let (cpu, gpu) = (wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu);
    let steps = plan([64, 64], gpu).unwrap().steps(GradientStage::Recurrence);
    assert!(steps.len() == 1 && steps[0] == (0..128), "{steps:?}");
    let steps = plan([64, 64], cpu).unwrap().steps(GradientStage::Recurrence);
    assert!(steps.len() > 1 && steps[0].start == 0 && steps[steps.len() - 1].end >= 128);
    assert!(steps.windows(2).all(|pair| pair[0].end == pair[1].start));
    // A block is shorter where fewer tokens fit.
    let wide = plan([128, 256], cpu).unwrap().recurrence;
    assert!(wide.block < 64 && wide.block * wide.blocks >= 4096);
    let error = plan([256, 4096], cpu).unwrap_err();
    assert!(matches!(error, PlanError::Iterations { .. }), "{error}");
    assert!(plan([256, 4096], gpu).is_ok());
}

#[test]
fn sums_over_tokens_are_as_long_as_a_driver_takes() {
    let limits = wgpu::Limits { max_buffer_size: 1 << 32, ..Default::default() };
    let plan = |decay: Decay, tokens: u32, device_type: wgpu::DeviceType| {
        let config = Config::new(4, 4).with_update_rule(UpdateRule::Gated(decay));
        let tuning = Tuning::new(&config, &limits, device_type).unwrap();
        let shape = Shape::new(1, tokens, 1);
        let forward = Plan::new(&config, &shape, &limits, &tuning).unwrap();
        BackwardPlan::new(forward, None, &limits)
    };
    let (cpu, gpu) = (wgpu::DeviceType::Cpu, wgpu::DeviceType::DiscreteGpu);
    let constant = Decay::constant();
    assert!(plan(constant, 65_000, cpu).is_ok() && plan(constant, 65_001, gpu).is_ok());
    let error = plan(constant, 65_001, cpu).unwrap_err();
    assert!(matches!(error, PlanError::Iterations { actual: 65_001, .. }), "{error}");
    // The gradient by a decay of one token is no sum over tokens.
    assert!(plan(Decay::per_head(), 65_001, cpu).is_ok());
}

/// Sums take more rows, and the recurrence more states.
#[test]
fn sums_that_have_no_room_leave_it_to_the_recurrence() {
    let config = Config::new(8, 64);
    let limits = wgpu::Limits { max_buffer_size: 40 << 20, ..Default::default() };
    let plan = with_sums(&config, &Shape::new(1, 16_384, 4), &limits);
    assert!(has(&plan, GradientStage::Recurrence), "{}", plan.scratch_size());
}

#[test]
fn heads_are_shared_where_they_are_few() {
    let large = 1 << 31;
    let few = plan(&Shape::new(1, 4096, 8), 128, large);
    assert_eq!((few.recurrence.value_blocks, sums(&few)), (8, true));
    let many = plan(&Shape::new(20, 512, 8), 128, large);
    assert_eq!((many.recurrence.value_blocks, sums(&many)), (1, false));
    // Three of 40 columns in chunks of 16, of which the tuning wants two.
    assert_eq!(plan(&Shape::new(10, 64, 8), 40, large).recurrence.value_blocks, 2);
    // Nine parts of 16 MiB are more than a binding has, and of seven blocks some would be
    // empty.
    assert_eq!(plan(&Shape::new(1, 4096, 8), 128, 128 << 20).recurrence.value_blocks, 4);
}

#[test]
fn scratch_at_most_doubles_or_takes_half_a_gigabyte_more() {
    for (tokens, heads) in [(4096, 8), (4096, 16), (16_384, 4), (65_536, 1)] {
        let shape = Shape::new(1, tokens, heads);
        let split = plan(&shape, 128, 1 << 31);
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: 1 << 31,
            max_buffer_size: 1 << 32,
            ..Default::default()
        };
        let whole = Recurrence { value_blocks: 1, ..split.recurrence };
        let whole = whole.place(&split.forward, split.piece, &limits).unwrap();
        let most = whole.size + whole.size.max(COLUMN_SUMS_BYTES);
        assert!(split.scratch_size() <= most, "{tokens} tokens: {}", split.scratch_size());
        assert!(split.recurrence.value_blocks > 1, "{tokens} tokens");
    }
}
