//! Summaries of pieces from every adapter, joined with those of the CPU engine.

use libtest_mimic::Failed;
use linear_attention::cpu::CpuAttention;
use linear_attention::summary::{Summarizer, Summary};
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::{Config, Error, LinearAttention, Shape, UpdateRule, reference};

use super::Test;
use super::backward::{Sample, configs};
use crate::adapters::Gpu;
use crate::pieces::Piece;

pub(crate) const TESTS: &[(&str, Test)] = &[("summary::rules", rules)];

/// The trials that the full matrix alone has.
pub(crate) const FULL: &[(&str, Test)] = &[("summary::all_rules", all_rules)];

/// A rule of either kind.
fn rules(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let rule = UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head());
    check(gpu, Config::new(9, 7))?;
    check(gpu, Config::of_rule(9, 7, rule))?;
    // Only a state from zero has a summary.
    let (config, shape) = (Config::new(9, 7), Shape::new(1, 5, 2));
    let sample = Sample::new(&config, &shape)?;
    let summarizer = Summarizer::new(&gpu.device, config.clone())?;
    // Keys of a piece may vanish: there may be others before.
    let vanishing = [-200.0; 90];
    let mut inputs = sample.inputs(&config);
    (inputs.k, inputs.initial_state) = (&vanishing, None);
    summarizer.run(&gpu.queue, &shape, inputs)?;
    let inputs = sample.inputs(&config).with_initial_state(&[0.0; 126], &[0.0; 18]);
    match summarizer.run(&gpu.queue, &shape, inputs) {
        Err(Error::RuleTensor { tensor: "initial_mu", .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn all_rules(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    configs(9, 7).into_iter().chain([Config::new(8, 12)]).try_for_each(|config| check(gpu, config))
}

/// Three pieces, the second one's summary from the CPU, are the whole in f64.
fn check(gpu: &Gpu, config: Config) -> Result<(), Failed> {
    let shape = Shape::packed(&[70, 0, 1, 9], 2);
    let sample = Sample::new(&config, &shape)?;
    let mut inputs = sample.inputs(&config);
    inputs.initial_state = None;
    let (device, host) =
        (Summarizer::new(&gpu.device, config.clone())?, CpuAttention::new(config.clone())?);
    let mut whole = Summary::empty(&config, 2, 4)?;
    for i in 0..3 {
        let piece = Piece::new(&config, &shape, inputs, (i, 3));
        let added = match i {
            1 => host.summarize(&piece.shape, piece.inputs(inputs))?,
            _ => device.run(&gpu.queue, &piece.shape, piece.inputs(inputs))?,
        };
        whole = whole.then(&added)?;
    }
    let truth = reference::summary(&config, &shape, inputs)?;
    let (mu, nu) = whole.state();
    let form = whole.form();
    let of_state = (mu.len() + nu.len()) / 8;
    let carried: Vec<f32> =
        whole.records().chunks(form.record_len()).flat_map(|x| x[of_state..].to_vec()).collect();
    let matrices = if truth.matrices.is_empty() { &carried[..0] } else { &carried[..] };
    for (name, found, truth) in
        [("mu", &mu[..], &truth.mu), ("nu", &nu, &truth.nu), ("matrix", matrices, &truth.matrices)]
    {
        let largest = truth.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
        let is_near = |(x, y): (&f32, &f64)| (f64::from(*x) - y).abs() <= 1e-5 * largest;
        if found.len() != truth.len() || !found.iter().zip(truth).all(is_near) {
            return Err(format!("{config:?}: {name}: {found:?}, expected {truth:?}").into());
        }
    }
    Ok(())
}
