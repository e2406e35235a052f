//! The CPU engine against the reference.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use linear_attention::cpu::CpuAttention;
use linear_attention::verify::{self, Options};
use linear_attention::{Config, Error, Inputs, Output, Shape};

fn compute(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
    CpuAttention::new(config.clone())?.run(shape, inputs)
}

/// Every case of the harness, within the bound that holds for adapters.
#[test]
fn cases_of_the_harness() {
    let report = verify::run_host(&Options::default(), &mut compute, &mut |row| {
        assert!(row.passed, "{row:?}");
    });
    assert!(report.rows.len() > 300, "{} comparisons", report.rows.len());
}

/// The harness can fail: a result that is a little wrong is caught, in any tensor.
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

/// A plan computes call after call without a trace of the one before.
#[test]
fn plans_are_reused() {
    let config = Config::new(16, 16);
    let shape = Shape::packed(&[40, 0, 7], 2);
    let mut plan = CpuAttention::new(config.clone()).unwrap().plan(&shape).unwrap();
    let x: Vec<f32> = (0..47 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    let y: Vec<f32> = x.iter().rev().copied().collect();
    let first = compute(&config, &shape, Inputs::new(&x, &x, &x)).unwrap();
    let mut output = first.clone();
    plan.run(Inputs::new(&y, &y, &y), &mut output).unwrap();
    assert_ne!(first, output);
    plan.run(Inputs::new(&x, &x, &x), &mut output).unwrap();
    assert_eq!(first, output);
    let short = plan.run(Inputs::new(&x[1..], &x, &x), &mut output);
    assert_eq!(short.unwrap_err().to_string(), "q must have 1504 elements, found 1503");
}
