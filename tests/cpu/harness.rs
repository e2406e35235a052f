//! The harness over the engine, as over any adapter.

use linear_attention::cpu::{CpuAttention, Mutation};
use linear_attention::gradients::OutputGradients;
use linear_attention::verify::{self, Options};
use linear_attention::{Config, Error, Inputs, Output, Shape};

fn compute(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
    CpuAttention::new(config.clone())?.run(shape, inputs)
}

/// Every case, within the bound that holds for adapters, in all vectors that this CPU has, and none.
#[test]
fn cases_of_the_harness() {
    for i in 0..instruction_sets().len() {
        let mut compute = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
            CpuAttention::of_each_instruction_set(config)?[i].run(shape, inputs)
        };
        let report = verify::run_host(&Options::default(), &mut compute, &mut |row| {
            assert!(row.passed, "{}: {row:?}", instruction_sets()[i]);
        });
        assert!(report.rows.len() > 300, "{} comparisons", report.rows.len());
    }
}

/// Every case of the backward pass, too.
#[test]
fn backward_cases_of_the_harness() {
    for i in 0..instruction_sets().len() {
        let mut compute =
            |config: &Config, shape: &Shape, inputs: Inputs<'_>, given: OutputGradients<'_>| {
                let engines = CpuAttention::of_each_instruction_set(config)?;
                engines[i].backward(shape, inputs, given)
            };
        let report = verify::run_host_backward(&Options::default(), &mut compute, &mut |row| {
            assert!(row.passed, "{}: {row:?}", instruction_sets()[i]);
        });
        assert!(report.rows.len() > 100, "{} comparisons", report.rows.len());
    }
}

/// Without vectors first, and with those that an engine takes unasked.
fn instruction_sets() -> Vec<&'static str> {
    let config = Config::new(8, 8);
    let engines = CpuAttention::of_each_instruction_set(&config).unwrap();
    let names: Vec<_> = engines.iter().map(CpuAttention::instruction_set).collect();
    assert_eq!(names[0], "scalar");
    assert!(names.contains(&CpuAttention::new(config).unwrap().instruction_set()));
    names
}

/// The harness can fail: each engine that is wrong on purpose is caught.
#[test]
fn wrong_engines_are_caught() {
    for mutation in Mutation::ALL {
        let mut wrong = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
            CpuAttention::new(config.clone())?.with_mutation(mutation).run(shape, inputs)
        };
        let report = verify::run_host(&Options::default(), &mut wrong, &mut |_| {});
        assert!(!report.passed(), "{mutation:?}");
    }
}

/// The mistakes of tokens that go through the state one by one: of cases whose last block is not
/// whole, short and long, with decays and without.
#[test]
fn wrong_engines_are_caught_one_by_one() {
    use Mutation::{
        DecayForgotten, MaskOffByOne, NuNotUpdated, RaggedBlockSkipped, StateNotCarried,
    };
    let of_all = [MaskOffByOne, RaggedBlockSkipped, StateNotCarried];
    for (case, own) in [
        ("t63", NuNotUpdated),
        ("long", NuNotUpdated),
        ("gated-softplus", DecayForgotten),
        ("gated-rows-wide", DecayForgotten),
    ] {
        for mutation in of_all.into_iter().chain([own]) {
            let mut wrong = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
                assert!(config.update_rule.beta().is_none() && shape.value_heads >= shape.heads);
                CpuAttention::new(config.clone())?.with_mutation(mutation).run(shape, inputs)
            };
            let options = Options::default().with_filter(case);
            let report = verify::run_host(&options, &mut wrong, &mut |_| {});
            assert!(!report.rows.is_empty() && !report.passed(), "{case}: {mutation:?}");
        }
    }
}

/// The mistakes that blocks of tokens can have in the backward pass, of every rule that goes by
/// blocks and can have them.
#[test]
fn wrong_engines_are_caught_in_the_backward_pass() {
    use Mutation::{
        BetaForgotten, DecayForgotten, DecaySumsLate, MaskOffByOne, NuNotUpdated,
        RaggedBlockSkipped, SolveForward, StateNotCarried,
    };
    let linear: &[_] = &[MaskOffByOne, RaggedBlockSkipped, StateNotCarried];
    let gated = [linear, &[DecayForgotten, DecaySumsLate]].concat();
    let normalized = [&gated[..], &[NuNotUpdated]].concat();
    let delta = [linear, &[BetaForgotten, SolveForward]].concat();
    let gated_delta = [&gated[..], &[BetaForgotten, SolveForward]].concat();
    let mut seen = Vec::new();
    for (case, mutations) in [
        ("backward-packed", linear),
        ("backward-recurrence-gated", &normalized),
        ("backward-gated-constant", &gated),
        ("backward-delta", &delta),
        ("backward-gated-delta", &gated_delta),
    ] {
        for mutation in mutations {
            let mut wrong =
                |config: &Config, shape: &Shape, inputs: Inputs<'_>, given: OutputGradients<'_>| {
                    let engine = CpuAttention::new(config.clone())?.with_mutation(*mutation);
                    engine.backward(shape, inputs, given)
                };
            let options = Options::default().with_filter(case);
            let report = verify::run_host_backward(&options, &mut wrong, &mut |_| {});
            assert!(!report.rows.is_empty() && !report.passed(), "{case}: {mutation:?}");
            seen.push(*mutation);
        }
    }
    assert!(Mutation::BACKWARD.iter().all(|mutation| seen.contains(mutation)));
}

/// A result that is a little wrong is caught, in any tensor.
#[test]
fn wrong_results_are_caught() {
    for tensor in 0..3 {
        let mut wrong = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
            let mut output = compute(config, shape, inputs)?;
            let of = [&mut output.o, &mut output.mu, &mut output.nu];
            of.into_iter().nth(tensor).into_iter().flatten().for_each(|x| *x *= 1.0001);
            Ok(output)
        };
        let options = Options::default().with_filter("t64-state");
        let report = verify::run_host(&options, &mut wrong, &mut |_| {});
        assert!(!report.passed() && report.rows.len() == 3, "{tensor}");
    }
}
