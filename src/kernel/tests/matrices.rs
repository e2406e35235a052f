//! The modules for matrix units.

use std::collections::BTreeSet;

use super::parsed::parse;
use super::{module, variant};
use crate::kernel::assembler::Module;
use crate::kernel::layout::Layout;
use crate::kernel::stage::Stage;
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::{Beta, Decay, UpdateRule};

/// Calls `check` with every module for matrix units, of both sizes.
pub(super) fn for_each(mut check: impl FnMut(&str, Stage, &Config, Layout, &Module)) {
    let rule = |rule, width| Config::of_rule(width, width, rule).with_dtype(Dtype::F16);
    let gated = UpdateRule::Gated(Decay::per_head());
    let gated_delta = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let sum = |config: Config| config.with_normalization(Normalization::default());
    let configs = [
        ("elu-64", Config::new(64, 64).with_dtype(Dtype::F16)),
        ("gated-64", rule(gated, 64)),
        ("elu-128", Config::new(128, 128).with_dtype(Dtype::F16)),
        ("gated-128", rule(gated, 128)),
        ("gated-63-sum", sum(rule(gated, 63).with_feature_map(FeatureMap::Elu))),
        ("delta-64", rule(UpdateRule::Delta(Beta::per_head()), 64)),
        ("gated-delta-63", rule(gated_delta, 63)),
        ("gated-delta-128", rule(gated_delta, 128)),
        ("gated-delta-l2-64", rule(gated_delta, 64).with_l2_norm(true)),
        ("bf16-elu-64", Config::new(64, 64).with_dtype(Dtype::Bf16)),
        ("bf16-gated-delta-128", rule(gated_delta, 128).with_dtype(Dtype::Bf16)),
    ];
    for (config_name, config) in configs {
        for layout in
            [Layout::matrices(8, 8, 8), Layout::matrices(16, 4, 64), Layout::matrices(16, 8, 64)]
        {
            for stage in [Stage::SegmentState, Stage::SegmentTransition, Stage::SegmentOutput] {
                for is_whole in [false, true] {
                    let Some(module) = module(stage, &config, layout, is_whole) else { continue };
                    let kind = if is_whole { "-states" } else { "" };
                    let name = format!(
                        "{}-{}x{}-{config_name}{kind}",
                        stage.name(),
                        layout.rows,
                        layout.column_threads
                    );
                    check(&name, stage, &config, layout, &module);
                }
            }
        }
    }
}

/// With the capabilities of `MatrixUnits::required_features` alone; they bind what the table says,
/// take the memory that their layout counts, and translate to SPIR-V.
#[test]
fn modules_of_matrices_are_valid() {
    use naga::valid::Capabilities;
    let mut checked = 0;
    for_each(|name, stage, config, layout, text| {
        let module = parse(name, text);
        let capabilities = Capabilities::COOPERATIVE_MATRIX
            | Capabilities::SHADER_FLOAT16
            | Capabilities::SUBGROUP;
        let flags = naga::valid::ValidationFlags::all();
        let mut validator = naga::valid::Validator::new(flags, capabilities);
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        let info = validator.validate(&module).unwrap_or_else(|error| {
            panic!("{name}: {}", text.locate(&error.emit_to_string(&text.wgsl)))
        });
        assert_eq!(module.entry_points[0].name, stage.name(), "{name}");
        let uses = info.get_entry_point(0);
        let variables = || module.global_variables.iter().filter(|(v, _)| !uses[*v].is_empty());
        let declared: BTreeSet<u32> =
            variables().filter_map(|(_, v)| Some(v.binding?.binding)).collect();
        let variant = variant(stage, config, layout, name.ends_with("-states")).unwrap();
        let binds = stage.binds(config, layout, variant);
        let ours: BTreeSet<u32> = binds.iter().map(|b| *b as u32).collect();
        assert!(declared.is_subset(&ours), "{name}: {declared:?} of {ours:?}");
        let mut sizes = naga::proc::Layouter::default();
        sizes.update(module.to_ctx()).unwrap();
        let memory = variables()
            .filter(|(_, variable)| variable.space == naga::AddressSpace::WorkGroup)
            .map(|(_, variable)| u64::from(sizes[variable.ty].size.next_multiple_of(16)))
            .sum::<u64>();
        assert!(memory <= layout.workgroup_memory(config), "{name}: {memory} bytes");
        naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None)
            .unwrap_or_else(|error| panic!("{name} in SPIR-V: {error}"));
        if let Some(folder) = std::env::var_os("LINEAR_ATTENTION_MATRIX_MODULES") {
            let path = std::path::Path::new(&folder).join(format!("{name}.wgsl"));
            std::fs::write(path, &text.wgsl).unwrap();
        }
        checked += 1;
    });
    assert_eq!(checked, 162);
}
