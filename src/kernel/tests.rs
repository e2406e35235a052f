//! Every module that can be made is valid WGSL, with the bindings and the uniform that the host
//! has.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};

use crate::kernel::assembler::{Module, Unbound, import};
use crate::kernel::gradient::{GradientStage, RowAccess, map_without_derivative};
use crate::kernel::layout::{DecodeLayout, Layout, RowSource};
use crate::kernel::numbers::{InitialState, Variant};
use crate::kernel::params::Params;
use crate::kernel::stage::Stage;
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::{Beta, BetaActivation, Decay, DecayActivation, UpdateRule};
use crate::shaders;

mod compilers;
mod matrices;
mod parsed;

use parsed::{Modules, parse};

/// The configs whose modules differ in their files, by a readable name.
fn configs() -> Vec<(String, Config)> {
    let mut all = Vec::new();
    for map in [
        FeatureMap::Elu,
        FeatureMap::Softmax,
        FeatureMap::Hedgehog,
        FeatureMap::Favor { features: 1000 },
        FeatureMap::Taylor,
    ] {
        for width in [64, 63] {
            for dtype in Dtype::ALL {
                let mut config = Config::new(width, width);
                (config.feature_map, config.dtype) = (map.clone(), dtype);
                all.push((format!("{map}-{width}-{}", dtype.name()), config.clone()));
                if dtype == Dtype::F32 {
                    config.normalization = Normalization::None;
                    all.push((format!("{map}-{width}-plain"), config));
                }
            }
        }
    }
    let (bounded, sigmoid) =
        (DecayActivation::Sigmoid { lower_bound: -5.0 }, BetaActivation::Sigmoid);
    let (half, beta) = (Decay::per_row().with_dtype(Dtype::F16), Beta::per_head());
    for (name, rule) in [
        ("gated-constant", UpdateRule::Gated(Decay::constant())),
        ("gated", UpdateRule::Gated(Decay::per_head().with_activation(DecayActivation::Softplus))),
        ("gated-rows", UpdateRule::Gated(half.with_activation(bounded))),
        ("delta", UpdateRule::Delta(Beta::shared())),
        ("gated-delta", UpdateRule::GatedDelta(Decay::per_head(), beta)),
        ("gated-delta-rows", UpdateRule::GatedDelta(half, beta.with_activation(sigmoid))),
    ] {
        for width in [64, 63] {
            let config = Config::of_rule(width, width, rule);
            let dtype = if name.ends_with("rows") { Dtype::F16 } else { Dtype::F32 };
            all.push((format!("{name}-{width}"), config.clone().with_dtype(dtype)));
            if rule.beta().is_none() {
                let config = config.with_feature_map(FeatureMap::Elu);
                let config = config.with_normalization(Normalization::default()).with_dtype(dtype);
                all.push((format!("{name}-{width}-sum"), config));
            }
        }
    }
    all
}

fn layouts(config: &Config) -> Vec<(&'static str, Layout)> {
    let mut layouts = vec![
        ("workgroup", Layout::workgroup(16, 4, 16, 8)),
        ("one-lane", Layout::workgroup(64, 4, 16, 4)),
    ];
    let subgroups = Layout::workgroup(16, 4, 16, 8).with_subgroup_sums(true);
    if config.dtype == Dtype::F32 && subgroups.check_subgroups(config, 8).is_ok() {
        layouts.push(("subgroups", subgroups));
    }
    if config.is_element_wise() {
        layouts.push(("direct", Layout::for_cpu(config)));
    }
    layouts
}

/// The module of a stage; `None` where no plan has the stage.
fn module(stage: Stage, config: &Config, layout: Layout, is_whole: bool) -> Option<Module> {
    Some(stage.module(config, layout, variant(stage, config, layout, is_whole)?))
}

/// A variant with nothing optional, or with everything at once.
fn variant(stage: Stage, config: &Config, layout: Layout, is_whole: bool) -> Option<Variant> {
    let limits = wgpu::Limits::default();
    let decode = DecodeLayout::new(config, layout, [2, 2], &limits);
    let corrects = config.update_rule.beta().is_some();
    if (stage == Stage::DecodeStep && decode.is_none())
        || (stage == Stage::TokenGates && config.gates().is_none())
        || (matches!(stage, Stage::SegmentTransition | Stage::TransitionScan) && !corrects)
        || (stage == Stage::OutputSum && layout.feature_blocks(config) == 1)
    {
        return None;
    }
    if is_whole {
        return Some(Variant {
            initial_state: InitialState::Given,
            segment_states: true,
            final_state: true,
            has_lengths: true,
            has_gaps: true,
            has_slots: true,
            has_sources: true,
            checkpoints: 2,
            is_untrusted: true,
            has_one_head: layout.row_source == RowSource::Direct,
            rows_ahead: true,
            has_batch_strides: true,
            has_unaligned_rows: false,
            reads_only: true,
            checks_keys: matches!(stage, Stage::SegmentOutput | Stage::DecodeStep),
            decode,
            unbound: Unbound::default(),
        });
    }
    Some(Variant { decode, ..Variant::default() })
}

/// Calls `check` with every module.
fn for_each(mut check: impl FnMut(&str, Stage, &Config, Layout, &Module)) {
    for (config_name, config) in configs() {
        for (layout_name, layout) in layouts(&config) {
            for stage in Stage::ALL {
                for is_whole in [false, true] {
                    let Some(module) = module(stage, &config, layout, is_whole) else { continue };
                    let kind = if is_whole { "-states" } else { "" };
                    let name = format!("{}-{layout_name}-{config_name}{kind}", stage.name());
                    check(&name, stage, &config, layout, &module);
                }
            }
        }
    }
}

/// Calls `check` with every module, those of the backward pass among them.
fn for_each_text(mut check: impl FnMut(&str, &Config, &Module)) {
    for_each(|name, _, config, _, text| check(name, config, text));
    for (config_name, config) in configs() {
        if map_without_derivative(&config).is_some() {
            continue;
        }
        for stage in GradientStage::ALL.into_iter().filter(|stage| stage.is_in(&config)) {
            let module = stage.module(&config, Layout::for_cpu(&config), RowAccess::default());
            check(&format!("{}-{config_name}-states", stage.name()), &config, &module);
        }
    }
}

#[test]
fn modules_of_the_backward_pass_bind_what_the_table_says() {
    let (mut modules, mut count) = (Modules::default(), 0);
    for (config_name, config) in configs() {
        let stages = GradientStage::ALL.into_iter().filter(|stage| stage.is_in(&config));
        for stage in stages.filter(|_| map_without_derivative(&config).is_none()) {
            for has_views in [false, true] {
                let access = RowAccess {
                    has_batch_strides: has_views,
                    has_unaligned_rows: has_views,
                    reads_only: has_views,
                };
                let name = format!("{}-{config_name}-{has_views}", stage.name());
                let text = stage.module(&config, Layout::for_cpu(&config), access);
                let facts = modules.facts(&name, &text);
                assert_eq!(facts.entry_point, stage.name(), "{name}");
                let binds = stage.binds(&config);
                let ours: BTreeSet<u32> = binds.iter().map(|binding| *binding as u32).collect();
                assert!(facts.used.is_subset(&ours), "{name}: {:?} of {ours:?}", facts.used);
                // As many storage buffers as every device has.
                assert!(binds.len() <= 9, "{name}");
                count += 1;
            }
        }
    }
    assert!(count > 20);
}

/// Each module binds what its stage does. A call without states whose sequences have equal lengths
/// binds the fewest buffers, and its module declares no more.
#[test]
fn modules_are_valid_and_bind_what_the_table_says() {
    let mut modules = Modules::default();
    for_each(|name, stage, config, layout, text| {
        let facts = modules.facts(name, text);
        assert_eq!(facts.entry_point, stage.name(), "{name}");
        let is_whole = name.ends_with("-states");
        let variant = variant(stage, config, layout, is_whole).unwrap();
        let binds = stage.binds(config, layout, variant);
        let ours: BTreeSet<u32> = binds.iter().map(|b| *b as u32).collect();
        assert!(facts.used.is_subset(&ours), "{name}: {:?} of {ours:?}", facts.used);
        assert_eq!(facts.overrides, 0, "{name}");
        if !is_whole {
            let all = facts.declared;
            let optional = stage.kernel().optional.iter().map(|binding| *binding as u32);
            let unbound = Unbound::new(optional);
            let text = stage.module(config, layout, Variant { unbound, ..variant });
            let declared = modules.facts(&format!("{name}-unbound"), &text).declared;
            // Files may declare what the stage does not use, q in segment_state, say.
            let [fewest, most] = stage.storage_buffers(config, layout);
            assert_eq!(all - declared, most - fewest, "{name}");
        }
    });
}

/// A table of all modules, so that a change shows which of them it touches, and a few whole texts.
#[test]
fn snapshots() {
    let mut table = String::new();
    for_each_text(|name, _, module| {
        let (lines, crc) = (module.wgsl.lines().count(), crc32fast::hash(module.wgsl.as_bytes()));
        let files = module.files.join(" ");
        table.push_str(&format!("{name}: {lines} lines, {crc:08x}\n    {files}\n"));
        let whole =
            ["segment_output-workgroup-elu-64-F32-states", "decode_step-direct-elu-64-F32-states"];
        if whole.contains(&name) {
            insta::assert_snapshot!(name, module.wgsl);
        }
    });
    insta::assert_snapshot!("modules", table);
}

#[test]
fn fields_lie_where_the_shaders_read_them() {
    let config = Config::new(64, 64);
    let text = module(Stage::SegmentOutput, &config, Layout::for_cpu(&config), true).unwrap();
    let module = parse("params", &text);
    let (_, ty) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).unwrap();
    let naga::TypeInner::Struct { members, span } = &ty.inner else { panic!("no struct") };
    assert_eq!(*span as usize, size_of::<Params>());
    macro_rules! fields {
        ($($field:ident),*) => { [$((stringify!($field), offset_of!(Params, $field))),*] };
    }
    let ours = fields![
        q,
        k,
        v,
        o,
        sequences,
        seq_len,
        total_tokens,
        max_len,
        heads,
        key_heads,
        value_heads,
        output_heads,
        key_group,
        query_group,
        group,
        head_tile,
        head_blocks,
        value_blocks,
        segments,
        segment_len,
        chunk_len,
        states,
        key_weights,
        query_weights_begin,
        query_weights,
        shares_key_weights,
        grid_width,
        first_workgroup,
        first_step,
        end_step,
        steps
    ];
    let theirs: Vec<_> =
        members.iter().filter_map(|m| Some((m.name.as_deref()?, m.offset as usize))).collect();
    assert_eq!(theirs, ours);
}

/// Every file on disk is in the table and in some module; every name that is imported is declared
/// where it is said to be, and used.
#[test]
fn every_file_is_reached_and_every_import_used() {
    let mut reached = BTreeSet::from(["map/custom_prelude"]);
    for_each_text(|_, _, module| reached.extend(module.files.iter().copied()));
    matrices::for_each(|_, _, _, _, module| reached.extend(module.files.iter().copied()));
    let table: BTreeSet<_> = shaders::FILES.iter().map(|(name, _)| *name).collect();
    assert_eq!(reached, table, "files that no module has, or that are in no table");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut on_disk = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "wgsl") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                on_disk.insert(name.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    assert_eq!(on_disk, table.iter().map(|name| (*name).to_owned()).collect());

    for (file, text) in shaders::FILES {
        let body: String = text
            .lines()
            .filter(|line| import(line).is_none())
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let words: BTreeSet<&str> = body.split(|c| !is_part(c)).collect();
        for (from, names) in text.lines().filter_map(import) {
            for name in names {
                assert!(words.contains(name), "{file} imports {name} and does not use it");
                if from == "constants" {
                    continue;
                }
                let implements = format!("// implements: {from}");
                let sources = shaders::FILES.iter().filter(|(source, text)| {
                    *source == from || text.lines().any(|line| line == implements)
                });
                let declares = |(_, text): &&(&str, &str)| {
                    text.lines().filter_map(shaders::declared_name).any(|own| own == name)
                };
                assert!(
                    sources.clone().any(|source| declares(&source)),
                    "{file} imports {name} from {from}, which has no such name"
                );
            }
        }
    }
}
