//! The harness: GPU against CPU on the caller's own device.
//!
//! Every case samples fresh inputs from a printed seed, fills outputs, scratch and final states
//! with NaN, and compares the whole and each stage alone with f64. A result passes where its error
//! is at most twice that of the f32 mirror, plus a few ulp of the largest value.
//!
//! The tests, the program's `check` and an engine that wants to test a user's driver at
//! start-up all call [`run`].

mod backward;
mod case;
mod cases;
mod compare;
mod device;
mod host;
#[cfg(test)]
mod interpreted;
mod map_cases;
#[cfg(not(target_arch = "wasm32"))]
mod matrix_units;
#[cfg(feature = "mutation")]
mod mutation;
mod rule_cases;
mod strided_cases;
mod truths;

pub use backward::{ComputeBackward, backward_cases};
pub use case::{Case, Sampling, SequenceSource};
pub use cases::cases;
pub use compare::{FLOOR_ULP, Row};
#[cfg(feature = "mutation")]
pub use mutation::Mutation;

#[cfg(feature = "mutation")]
pub use crate::device::failure::refuse_object;

use crate::attention::LinearAttention;
use crate::bind::options::{Options as AttentionOptions, ShaderChecks};
#[cfg(feature = "mutation")]
use crate::bind::pipelines::Edit;
use crate::error::{ConfigError, Error};
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;

/// The options of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The seed of the inputs; printed, so that a failure can be repeated.
    pub seed: u64,
    /// Checks within the shaders.
    pub checks: ShaderChecks,
    /// Only the cases whose name contains this.
    pub filter: Option<String>,
    /// Sizes for the cases that they fit, the others being left out; what the library chooses if
    /// `None`.
    pub tuning: Option<Tuning>,
    /// A mutation of a shader: the report must then fail.
    #[cfg(feature = "mutation")]
    pub mutation: Option<Mutation>,
    /// The caller's own config, with a custom map, say: a run then checks it alone, on a few
    /// shapes, with sampled weights.
    pub config: Option<Config>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0x5EED,
            checks: ShaderChecks::default(),
            filter: None,
            tuning: None,
            #[cfg(feature = "mutation")]
            mutation: None,
            config: None,
        }
    }
}

impl Options {
    /// With inputs from another seed.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// With or without checks in the shaders.
    #[must_use]
    pub fn with_checks(self, checks: ShaderChecks) -> Self {
        Self { checks, ..self }
    }

    /// With the cases alone whose name contains this.
    #[must_use]
    pub fn with_filter(self, filter: impl Into<String>) -> Self {
        Self { filter: Some(filter.into()), ..self }
    }

    /// With sizes chosen by the caller; with those of the library for `None`.
    #[must_use]
    pub fn with_tuning(self, tuning: impl Into<Option<Tuning>>) -> Self {
        Self { tuning: tuning.into(), ..self }
    }

    /// With a mutation of a shader.
    #[cfg(feature = "mutation")]
    #[must_use]
    pub fn with_mutation(self, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..self }
    }

    /// With a config of the caller's own.
    #[must_use]
    pub fn with_config(self, config: Config) -> Self {
        Self { config: Some(config), ..self }
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed it ran with.
    pub seed: u64,
    /// A row a case, stage and tensor.
    pub rows: Vec<Row>,
}

impl Report {
    /// True if at least one tensor was compared and every row passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.passed)
    }
}

/// The cases that a run with these options has on a device with these limits.
#[must_use]
pub fn cases_of_run(limits: &wgpu::Limits, options: &Options) -> Vec<Case> {
    let filter = options.filter.as_deref().unwrap_or_default();
    let mut all = options.config.as_ref().map_or_else(cases, cases::cases_of);
    // Those of the backward pass have shaders and sizes of their own.
    #[cfg(feature = "mutation")]
    let is_mutated = options.mutation.is_some();
    #[cfg(not(feature = "mutation"))]
    let is_mutated = false;
    if options.config.is_none() && options.tuning.is_none() && !is_mutated {
        all.extend(backward_cases());
    }
    all.retain(|case| case.name.contains(filter));
    if let Some(tuning) = options.tuning {
        all.retain(|case| tuning.check(&case.config, limits).is_ok());
    }
    all
}

/// Runs the cases and returns what was found. Blocks until the device is done.
#[cfg(not(target_arch = "wasm32"))]
#[must_use]
pub fn run(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options) -> Report {
    run_with(device, queue, options, &mut |_| {})
}

/// The same, calling `on_row` with each row as it is found.
#[cfg(not(target_arch = "wasm32"))]
pub fn run_with(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    options: &Options,
    on_row: &mut dyn FnMut(&Row),
) -> Report {
    let blocks = true;
    pollster::block_on(run_cases(device, queue, options, blocks, on_row))
}

/// The same without blocking, as a browser needs it: the future polls the device and yields until
/// it is done.
pub async fn run_async(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    options: &Options,
    on_row: &mut dyn FnMut(&Row),
) -> Report {
    let blocks = false;
    run_cases(device, queue, options, blocks, on_row).await
}

async fn run_cases(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    options: &Options,
    blocks: bool,
    on_row: &mut dyn FnMut(&Row),
) -> Report {
    let mut report = Report { seed: options.seed, rows: Vec::new() };
    let mut harness = Harness::new(device, queue, options);
    for case in cases_of_run(&device.limits(), options) {
        for row in harness.rows(&case, blocks).await {
            on_row(&row);
            report.rows.push(row);
        }
        #[cfg(feature = "mutation")]
        if options.mutation.is_some() && !report.passed() {
            break; // caught: the rest would only repeat it
        }
    }
    report
}

/// Compares an implementation that takes slices with f64, as [`run`] does adapters. `compute` gets
/// each case's config, shape and inputs; of `options` the seed and the filter count.
pub fn run_host(
    options: &Options,
    compute: &mut dyn FnMut(&Config, &Shape, Inputs<'_>) -> Result<Output, Error>,
    on_row: &mut dyn FnMut(&Row),
) -> Report {
    let mut report = Report { seed: options.seed, rows: Vec::new() };
    let filter = options.filter.as_deref().unwrap_or_default();
    for case in cases().into_iter().filter(|case| case.name.contains(filter)) {
        let rows = host::check(&case, options.seed, compute);
        let failed = |error: Error| vec![Row::failed(&case, "whole", error.to_string())];
        for row in rows.unwrap_or_else(failed) {
            on_row(&row);
            report.rows.push(row);
        }
    }
    report
}

/// Compares a backward pass that takes slices with that in f64, as [`run_host`] does a forward
/// pass.
pub fn run_host_backward(
    options: &Options,
    compute: &mut ComputeBackward<'_>,
    on_row: &mut dyn FnMut(&Row),
) -> Report {
    let mut report = Report { seed: options.seed, rows: Vec::new() };
    let filter = options.filter.as_deref().unwrap_or_default();
    for case in backward_cases().into_iter().filter(|case| case.name.contains(filter)) {
        let rows = backward::check_host(&case, options.seed, compute);
        let failed = |error: Error| vec![Row::failed(&case, "backward", error.to_string())];
        for row in rows.unwrap_or_else(failed) {
            on_row(&row);
            report.rows.push(row);
        }
    }
    report
}

/// The harness on one device, a case at a time, in any order.
///
/// Pipelines are kept from one case to the next: cases with the same config share them.
#[derive(Debug)]
pub struct Harness {
    device: wgpu::Device,
    queue: wgpu::Queue,
    options: Options,
    compiled: Vec<LinearAttention>,
}

impl Harness {
    /// Nothing is compiled before the first case.
    #[must_use]
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, options: &Options) -> Self {
        let (device, queue) = (device.clone(), queue.clone());
        Self { device, queue, options: options.clone(), compiled: Vec::new() }
    }

    /// Runs one case and returns its rows. Blocks until the device is done.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn check(&mut self, case: &Case) -> Vec<Row> {
        let blocks = true;
        pollster::block_on(self.rows(case, blocks))
    }

    async fn rows(&mut self, case: &Case, blocks: bool) -> Vec<Row> {
        if case.is_backward {
            let on = On { device: &self.device, queue: &self.queue, blocks };
            return backward::check(on, case, self.options.seed).await;
        }
        match attention(&self.device, &self.options, case, &mut self.compiled) {
            Ok((attention, tuning)) => {
                let on = On { device: &self.device, queue: &self.queue, blocks };
                device::check(on, attention, &tuning, case, self.options.seed).await
            }
            Err(error) => vec![Row::failed(case, "whole", error.to_string())],
        }
    }
}

/// The device that a case runs on; `blocks` where the harness may block this thread.
#[derive(Clone, Copy)]
struct On<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    blocks: bool,
}

/// The pipelines of a case, compiled once for all cases that share them.
fn attention<'a>(
    device: &wgpu::Device,
    options: &Options,
    case: &Case,
    compiled: &'a mut Vec<LinearAttention>,
) -> Result<(&'a LinearAttention, Tuning), ConfigError> {
    let device_type = device.adapter_info().device_type;
    let mut tuning = match options.tuning {
        Some(tuning) => tuning.on(device_type),
        None => Tuning::new(&case.config, &device.limits(), device_type)?,
    };
    case.set_segments(&mut tuning);
    let is_it =
        |a: &LinearAttention| *a.config() == case.config && a.tuning().compiles_like(&tuning);
    if let Some(index) = compiled.iter().position(is_it) {
        return Ok((&compiled[index], tuning));
    }
    let attention_options =
        AttentionOptions::default().with_tuning(tuning).with_checks(options.checks);
    let config = case.config.clone();
    #[cfg(not(feature = "mutation"))]
    let edit = None;
    #[cfg(feature = "mutation")]
    let edit = options.mutation.map(|mutation| -> Edit {
        std::sync::Arc::new(move |stage, wgsl| mutation.edit(stage, wgsl))
    });
    let attention = LinearAttention::with_edit(device, config, &attention_options, edit)?;
    compiled.push(attention);
    Ok((&compiled[compiled.len() - 1], tuning))
}
