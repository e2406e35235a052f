//! The modules that are compiled: every stage of every rule at usual widths, and configs that have
//! other files.

use std::collections::HashSet;
use std::error::Error;

use linear_attention::gradients::GradientStage;
use linear_attention::plan::Stage;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{RowSource, Tuning};
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Dtype, FeatureMap, Normalization, Plan, Shape, States};

/// An assembled module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Module {
    /// The config: a rule and K = V, or a map or dtype with it.
    pub config: String,
    /// Workgroup memory that the device has, in KiB; decides the layout.
    pub memory: u32,
    /// The stage. `segment_output` without states of segments is `segment_output, S = 1`.
    pub stage: String,
    /// The text.
    pub wgsl: String,
    /// All of it, which no other module has: the key of a row.
    pub name: String,
}

/// The update rules, by the names of the table.
pub(crate) const RULES: [&str; 6] =
    ["linear", "gated", "gated-rows", "delta", "gated-delta", "gated-delta-rows"];

/// K = V of every rule.
pub(crate) const WIDTHS: [u32; 6] = [16, 32, 64, 96, 128, 256];

/// Workgroup memory in KiB: wgpu's default, and what AMD's drivers have.
pub(crate) const MEMORY: [u32; 2] = [16, 64];

/// Every module. Stages without a tile of mu that come out the same in several configs are there
/// once.
///
/// # Errors
///
/// A config, tuning or plan that the library refuses.
pub fn modules() -> Result<Vec<Module>, Box<dyn Error>> {
    let mut found = Modules::default();
    for memory in MEMORY {
        for rule in RULES {
            for width in WIDTHS {
                let config = Config::of_rule(width, width, rule_of(rule));
                found.add(&format!("{rule} {width}"), &config, memory)?;
            }
        }
        for (name, config) in others() {
            found.add(name, &config, memory)?;
        }
        for rule in ["linear", "gated-delta"] {
            for width in [64, 128] {
                let config = Config::of_rule(width, width, rule_of(rule));
                found.add_with(&format!("{rule}, subgroups {width}"), &config, memory, 32)?;
            }
        }
    }
    for width in [64, 128] {
        for rule in ["linear", "gated", "gated-delta"] {
            let config = Config::of_rule(width, width, rule_of(rule));
            found.add_matrices(&format!("{rule}, matrices {width}"), config)?;
        }
        let config = Config::of_rule(width, width, rule_of("gated-delta")).with_l2_norm(true);
        found.add_matrices(&format!("gated-delta, l2 norm, matrices {width}"), config)?;
    }
    Ok(found.modules)
}

fn rule_of(name: &str) -> UpdateRule {
    let (head, row, beta) = (Decay::per_head(), Decay::per_row(), Beta::per_head());
    match name {
        "gated" => UpdateRule::Gated(head),
        "gated-rows" => UpdateRule::Gated(row),
        "delta" => UpdateRule::Delta(beta),
        "gated-delta" => UpdateRule::GatedDelta(head, beta),
        "gated-delta-rows" => UpdateRule::GatedDelta(row, beta),
        _ => UpdateRule::Linear,
    }
}

/// Of a device with so many KiB of workgroup memory.
fn limits(memory: u32) -> Limits {
    Limits {
        max_compute_workgroup_storage_size: memory << 10,
        max_compute_invocations_per_workgroup: if memory > 16 { 1024 } else { 256 },
        max_compute_workgroup_size_x: if memory > 16 { 1024 } else { 256 },
        max_storage_buffer_binding_size: 1 << 30,
        max_buffer_size: 1 << 30,
        ..Limits::default()
    }
}

/// Other types, scalar accesses, maps of whole rows, several feature blocks.
fn others() -> Vec<(&'static str, Config)> {
    let linear = |width| Config::new(width, width);
    let gated_delta = Config::of_rule(128, 128, rule_of("gated-delta"));
    let map = |width, map| linear(width).with_feature_map(map);
    // Of the backward pass of a rule that divides.
    let pass = |k, v| {
        let pass = Config::new(k, v).with_feature_map(FeatureMap::Identity);
        pass.with_normalization(Normalization::None)
    };
    vec![
        ("linear, bf16 64", linear(64).with_dtype(Dtype::Bf16)),
        ("linear, bf16 128", linear(128).with_dtype(Dtype::Bf16)),
        ("gated-delta, bf16 128", gated_delta.with_dtype(Dtype::Bf16)),
        ("linear, f16 63", linear(63).with_dtype(Dtype::F16)),
        ("linear, f32 63", linear(63)),
        (
            "linear, numerator 64",
            map(64, FeatureMap::Identity).with_normalization(Normalization::None),
        ),
        ("linear, exp 64", map(64, FeatureMap::Exp)),
        ("linear, softmax 64", map(64, FeatureMap::Softmax)),
        ("linear, hedgehog 64", map(64, FeatureMap::Hedgehog)),
        ("linear, favor:256 64", map(64, FeatureMap::Favor { features: 256 })),
        ("linear, favor:1024 64", map(64, FeatureMap::Favor { features: 1024 })),
        ("linear, taylor 16", map(16, FeatureMap::Taylor)),
        ("linear, pass of 128 by 132", pass(128, 132)),
        ("linear, pass of 132 by 128", pass(132, 128)),
    ]
}

#[derive(Default)]
struct Modules {
    modules: Vec<Module>,
    /// Texts of stages without a tile.
    small: HashSet<String>,
}

impl Modules {
    fn add(&mut self, name: &str, config: &Config, memory: u32) -> Result<(), Box<dyn Error>> {
        self.add_with(name, config, memory, 1)
    }

    /// With the layout of a device that was granted subgroups of so many lanes.
    fn add_with(
        &mut self,
        name: &str,
        config: &Config,
        memory: u32,
        subgroup_lanes: u32,
    ) -> Result<(), Box<dyn Error>> {
        let limits = limits(memory);
        let kind = DeviceType::DiscreteGpu;
        let tuning = Tuning::with_subgroups(config, &limits, kind, subgroup_lanes)?;
        let decode = PackedLimits { sequences: 32, tokens: 32, max_len: 1 };
        let shapes = [
            (Shape::new(1, 4096, 8), ""),
            (Shape::new(64, 64, 16), ", S = 1"),
            (Shape::packed_up_to(decode, 8).with_slots(40), ", slots"),
        ];
        for (shape, suffix) in shapes {
            let plan = Plan::new(config, &shape, &limits, &tuning)?;
            for stage in Stage::ALL {
                let Some(wgsl) = plan.wgsl(stage, States::InitialAndFinal) else { continue };
                self.push(name, memory, [stage.name(), suffix], wgsl);
            }
        }
        for stage in GradientStage::ALL {
            if let Some(wgsl) = stage.wgsl(config)? {
                self.push(name, memory, [stage.name(), ", backward"], wgsl);
            }
        }
        Ok(())
    }

    /// The stages on matrix units of 16x16x16, in the layout that a device of AMD's gets.
    fn add_matrices(&mut self, name: &str, config: Config) -> Result<(), Box<dyn Error>> {
        let config = config.with_dtype(Dtype::F16);
        let (limits, memory, width) = (limits(64), 64, config.value_dim);
        let mut tuning = Tuning::new(&config, &limits, DeviceType::DiscreteGpu)?;
        let layout = &mut tuning.layout;
        (layout.rows, layout.columns, layout.column_threads) = (16, 16, width / 16);
        (layout.chunk_tokens, layout.chunk_queries) = (16, 16);
        layout.row_source = RowSource::Matrices { subgroup_size: 64 };
        let plan = Plan::new(&config, &Shape::new(1, 4096, 8), &limits, &tuning)?;
        for stage in [Stage::SegmentState, Stage::SegmentTransition, Stage::SegmentOutput] {
            if let Some(wgsl) = plan.wgsl(stage, States::InitialAndFinal) {
                self.push(name, memory, [stage.name(), ""], wgsl);
            }
        }
        Ok(())
    }

    /// The suffix is of a shape, and tells modules apart whose name would be the same.
    fn push(&mut self, config: &str, memory: u32, [stage, suffix]: [&str; 2], wgsl: String) {
        let has_tile = ["segment_output", "segment_state", "segment_transition", "decode_step"];
        let name = |stage: &str| format!("{config}/{memory}/{stage}");
        let is_taken = |stage: &str| self.modules.iter().any(|module| module.name == name(stage));
        let stage = match has_tile.contains(&stage) {
            true if stage == "segment_output" => format!("{stage}{suffix}"),
            true => stage.to_owned(),
            false if !self.small.insert(wgsl.clone()) => return,
            false if is_taken(stage) => format!("{stage}{suffix}"),
            false => stage.to_owned(),
        };
        if !is_taken(&stage) {
            let name = name(&stage);
            self.modules.push(Module { config: config.to_owned(), memory, stage, wgsl, name });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_there_and_no_name_twice() {
        let all = modules().unwrap_or_default();
        let names: HashSet<_> = all.iter().map(|module| &module.name).collect();
        assert_eq!(names.len(), all.len(), "names of {} modules", all.len());
        let gradients = GradientStage::ALL.map(GradientStage::name);
        for stage in Stage::ALL.map(Stage::name).into_iter().chain(gradients) {
            assert!(all.iter().any(|module| module.stage == stage), "{stage}");
        }
        for stage in ["segment_output, S = 1", "segment_output, slots", "output_sum"] {
            assert!(all.iter().any(|module| module.stage == stage), "{stage}");
        }
    }
}
