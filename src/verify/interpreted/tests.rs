#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::collections::HashMap;
use std::time::Instant;

use super::call::{Call, Prepared};
use super::families::families;
use super::mutations::MISTAKES;
use super::run::Runner;
use super::space;
use crate::kernel::layout::Layout;
use crate::kernel::stage::Stage;
use crate::plan::steps::{Memory, Step};
use crate::problem::config::Config;

/// splitmix64's finalizer, so that a part of the space has some of everything.
fn mix(x: u64) -> u64 {
    let z = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Some of every `skip`th family's calls, one of `stride`, until `each` says that it is enough.
fn for_each(stride: u64, skip: usize, mut each: impl FnMut(&Prepared<'_>) -> bool) {
    let families = families();
    for i in (0..families.len()).step_by(skip) {
        // Neighbours have much in common: the order is another.
        let f = i * 7919 % families.len();
        let ((config, layout), f) = (&families[f], f as u64);
        for i in (mix(f) % stride..space::len()).step_by(stride as usize) {
            let index = if stride == 1 { i } else { mix(i ^ (f << 32)) % space::len() };
            let call = space::call(config, *layout, index, mix(index ^ (f << 20)));
            if let Some(prepared) = call.as_ref().and_then(Call::prepare)
                && each(&prepared)
            {
                return;
            }
        }
    }
}

/// Checks one call of `stride` of every `skip`th family: accesses and results, or with
/// `spoils_scratch` accesses alone.
fn check(stride: u64, skip: usize, spoils_scratch: bool) {
    let begin = Instant::now();
    let mut runner = Runner { spoils_scratch, ..Runner::default() };
    let (mut calls, mut failed) = (0u64, Vec::new());
    for_each(stride, skip, |prepared| {
        if spoils_scratch && !prepared.plan.has_table() {
            return false;
        }
        calls += 1;
        let is_right = |found| if spoils_scratch { Ok(()) } else { prepared.compare(&found) };
        if let Err(message) = runner.run(prepared).and_then(is_right) {
            failed.push(format!("{message}\n    {}", prepared.call.describe()));
        }
        failed.len() > 9
    });
    println!(
        "{} families, {calls} calls, {} modules, {} dispatches, {:?} in {:?}",
        families().len().div_ceil(skip),
        runner.modules,
        runner.dispatches,
        runner.statistics,
        begin.elapsed()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(calls > 0);
}

#[test]
fn small_shapes() {
    check(200_000, 24, false);
}

#[test]
fn scratch_that_the_caller_writes_to() {
    check(400_000, 53, true);
}

/// The passes of the backward pass in reversed time: what a call writes of reversed rows. Decays are
/// in the order of a pass.
#[test]
fn tokens_in_reversed_time() {
    let mut runner = Runner::default();
    let (mut calls, mut failed) = (0, Vec::new());
    for_each(200_000, 7, |prepared| {
        let (config, shape) = (prepared.plan.config(), prepared.plan.shape());
        if config.update_rule.beta().is_some() || shape.strides.is_some() {
            return false;
        }
        calls += 1;
        let tokens = (shape.batch * shape.seq_len).max(1) as usize;
        let reversed = |rows: &[f32]| -> Vec<f32> {
            let width = (rows.len() / tokens).max(1);
            rows.chunks(width).rev().flatten().copied().collect()
        };
        let mut sample = prepared.sample.clone();
        for rows in [&mut sample.q, &mut sample.k, &mut sample.v] {
            *rows = reversed(rows);
        }
        let plan = prepared.plan.clone().in_reversed_time();
        let (before, sequences) = (prepared.before.clone(), prepared.sequences.clone());
        let of_reversed = Prepared { plan, sample, before, sequences, ..*prepared };
        let found = runner.run(&of_reversed).and_then(|mut found| {
            found.o = reversed(&found.o);
            prepared.compare(&found)
        });
        if let Err(message) = found {
            failed.push(format!("{message}\n    {}", prepared.call.describe()));
        }
        failed.len() > 9
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(calls > 10, "{calls}");
}

/// Lanes meet in workgroup memory where a subgroup has other threads of the workgroup.
#[test]
fn lanes_that_are_apart() {
    let edit = |_, wgsl: String| {
        let begin = "atomicStore(&lanes_are_apart[0], 0u);";
        wgsl.replace(begin, "atomicStore(&lanes_are_apart[0], 1u);")
    };
    let mut runner = Runner { edit: Some(&edit), ..Runner::default() };
    let (mut calls, mut failed) = (0, Vec::new());
    for_each(200_000, 7, |prepared| {
        if !prepared.plan.layout().subgroup_sums || prepared.plan.is_decode() {
            return false;
        }
        calls += 1;
        if let Err(message) = runner.run(prepared).and_then(|found| prepared.compare(&found)) {
            failed.push(format!("{message}\n    {}", prepared.call.describe()));
        }
        failed.len() > 9
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(calls > 10, "{calls}");
}

/// One call of 50,000, or of `LINEAR_ATTENTION_INTERPRET`.
#[test]
#[ignore = "minutes"]
fn all_small_shapes() {
    let stride = std::env::var("LINEAR_ATTENTION_INTERPRET").ok();
    let stride = stride.map_or(50_000, |stride| stride.parse().unwrap());
    check(stride, 1, false);
    check(10 * stride, 1, true);
}

/// The calls that are tried for a mistake. Their number decides, not their time, so that a slow
/// machine finds what a fast one finds.
const MOST_CALLS: usize = 500;

/// The proof that a mistake is noticed.
#[test]
fn mistakes_are_reported() {
    let edits: Vec<_> = MISTAKES
        .iter()
        .map(|mistake| |_: Stage, wgsl: String| wgsl.replace(mistake.from, mistake.to))
        .collect();
    let mut sought: Vec<_> = MISTAKES
        .iter()
        .zip(&edits)
        .map(|(mistake, edit)| {
            let spoils_scratch = mistake.needs_spoilt_scratch;
            (mistake, Runner { edit: Some(edit), spoils_scratch, ..Runner::default() }, 0)
        })
        .collect();
    // All have the modules that a mistake does not change.
    let mut shaders = HashMap::new();
    // The modules of a family, whose calls come one after the other.
    let (mut family, mut modules) = (None, HashMap::new());
    for_each(30_000, 1, |prepared| {
        let plan = &prepared.plan;
        let (config, layout) = (plan.config(), plan.layout());
        let is_untrusted = prepared.call.is_untrusted;
        let memory = Memory { is_untrusted, ..Memory::default() };
        let steps = plan.steps(prepared.call.states, memory);
        let is_same = |(other, of): &(Config, Layout)| other == config && *of == layout;
        if !family.as_ref().is_some_and(is_same) {
            family = Some((config.clone(), layout));
            modules.clear();
        }
        for Step { stage, variant, .. } in &steps {
            let assemble = || stage.module(config, layout, *variant).wgsl;
            modules.entry((*stage, *variant)).or_insert_with(assemble);
        }
        sought.retain_mut(|(mistake, runner, tried)| {
            let mut of_call = steps.iter().map(|step| &modules[&(step.stage, step.variant)]);
            if !of_call.any(|wgsl| wgsl.contains(mistake.from)) {
                return true;
            }
            *tried += 1;
            std::mem::swap(&mut runner.shaders, &mut shaders);
            let message = runner.run(prepared).err().unwrap_or_default();
            std::mem::swap(&mut runner.shaders, &mut shaders);
            let is_reported =
                mistake.kinds.iter().any(|kind| message.contains(&format!("{kind:?}:")));
            if is_reported {
                println!("{}: {tried} calls, {message}", mistake.name);
            }
            let name = mistake.name;
            let is_over = !is_reported && *tried >= MOST_CALLS;
            assert!(!is_over, "{name}: not reported in {tried} calls; last {message}");
            !is_reported
        });
        sought.is_empty()
    });
    let missing: Vec<_> = sought.iter().map(|(mistake, _, tried)| (mistake.name, tried)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
