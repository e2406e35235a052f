//! Several workgroups to a value head, each with some of its columns.

use libtest_mimic::Failed;
use linear_attention::gradients::{Backward, GradientStage, Recipe};
use linear_attention::tuning::Tuning;
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::{Config, LinearAttention, Options, Shape, UpdateRule};

use super::mutations::check_caught_with;
use super::{Sample, check};
use crate::adapters::Gpu;

/// Options for as many workgroups to a head as may share it.
fn options(gpu: &Gpu, config: &Config) -> Result<Options<'static>, Failed> {
    let device_type = gpu.adapter.get_info().device_type;
    let tuning = Tuning::new(config, &gpu.device.limits(), device_type)?;
    Ok(Options::default().with_tuning(tuning.with_workgroups(1 << 20)))
}

/// The recurrence in such workgroups.
pub(super) fn in_value_blocks(gpu: &Gpu, config: Config) -> Result<Backward, Failed> {
    let options = options(gpu, &config)?;
    let recipe = Recipe::Recurrence;
    Ok(Backward::with_mutation(&gpu.device, config, &options, recipe, &|_, wgsl| wgsl)?)
}

/// Several workgroups to a head: the same gradients, the same bits each time, and sums over columns
/// of which none is lost.
pub(super) fn value_blocks(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let rule = UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head());
    let shape = Shape::packed(&[0, 11, 3], 2);
    for config in [Config::of_rule(6, 37, rule), Config::new(6, 20)] {
        let backward = in_value_blocks(gpu, config)?;
        check(gpu, &backward, &shape)?;
        let sample = Sample::new(backward.config(), &shape)?;
        let (inputs, gradients) = (sample.inputs(backward.config()), sample.gradients());
        let run = || backward.run(&gpu.queue, &shape, inputs, gradients);
        assert_eq!(run()?, run()?, "the same call again");
    }
    Ok(())
}

/// Mistakes in sums over columns.
pub(super) fn mutations(gpu: &Gpu, delta: &Config, sums: &Config) -> Result<(), Failed> {
    use GradientStage::{ColumnSums, Recurrence};
    // Two value blocks of 4 columns.
    let shape = Shape::new(1, 12, 1);
    let lost = "block < params.value_blocks; block++) { sum += keys[";
    for (config, stage, from, to) in [
        (delta, ColumnSums, "block <= params.value_blocks; block++) { sum += keys[", lost),
        (
            sums,
            ColumnSums,
            "block <= params.value_blocks; block++) {\n            sum += queries[",
            "block < params.value_blocks; block++) {\n            sum += queries[",
        ),
        (
            delta,
            ColumnSums,
            "block <= params.value_blocks; block++) {\n                sum += gates[",
            "block < params.value_blocks; block++) {\n                sum += gates[",
        ),
        (sums, ColumnSums, "states[at] = sum;", ""),
        (sums, ColumnSums, "block * block_memory() + f", "f"),
        // The gradient by the final nu in every value block, and one nu for all of them.
        (
            sums,
            Recurrence,
            "{ states[item.of_nu + f] = 0.0; }",
            "{ states[item.of_nu + f] = 1.0; }",
        ),
        (sums, Recurrence, "select(own, gradients + item.initial_nu, block == 0u)", "own"),
        // A row of a column, and a block's first column, that nobody has.
        (delta, Recurrence, "var lane = 0u; lane < ROW_LANES", "var lane = 1u; lane < ROW_LANES"),
        (
            delta,
            Recurrence,
            "item.first = block * columns;",
            "item.first = block * (columns + 1u);",
        ),
    ] {
        let (options, sample) = (options(gpu, config)?, Sample::new(config, &shape)?);
        check_caught_with(gpu, &options, (config, &shape), &sample, (stage, from, to))?;
    }
    Ok(())
}
