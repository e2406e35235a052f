//! The compilers behind wgpu's backends: tint, and Vulkan's, Metal's and Direct3D's by way of naga.

use std::process::Command;

use super::for_each_text;
use super::parsed::{Seen, has_shuffles, parse, validate};
use crate::problem::dtype::Dtype;

/// Browsers compile with tint, where it is on PATH.
#[test]
fn modules_are_valid_for_tint() {
    if Command::new("tint").arg("--help").output().is_err() {
        eprintln!("SKIPPED: tint is not on PATH");
        return;
    }
    let path = std::env::temp_dir().join(format!("linear-attention-{}.wgsl", std::process::id()));
    let mut seen = Seen::default();
    for_each_text(|name, config, text| {
        // The dtypes differ in no control flow. No browser runs the modules with shuffles.
        if config.dtype != Dtype::F16 && !has_shuffles(text) && seen.is_new(text) {
            std::fs::write(&path, &text.wgsl).unwrap();
            let tint = Command::new("tint").args(["--format", "wgsl"]).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&tint.stderr);
            assert!(tint.status.success(), "{name}: {said}");
        }
    });
    std::fs::remove_file(&path).unwrap();
}

/// Vulkan gets what naga makes of the shaders, as wgpu asks for it, where spirv-val is on PATH.
/// Drivers for phones refuse what the specification does not allow.
///
/// One violation is naga's, <https://github.com/gfx-rs/wgpu/issues/7696>: types of variables have
/// the strides and offsets of buffers. Newer validators report it, and it is counted.
#[test]
fn modules_are_valid_for_vulkan() {
    use naga::back::spv;
    if Command::new("spirv-val").arg("--version").output().is_err() {
        eprintln!("SKIPPED: spirv-val is not on PATH");
        return;
    }
    const NAGAS: &str = "VUID-StandaloneSpirv-None-10684";
    let path = std::env::temp_dir().join(format!("linear-attention-{}.spv", std::process::id()));
    let (mut seen, mut valid, mut with_layouts) = (Seen::default(), 0, 0);
    for_each_text(|name, _, text| {
        if !name.ends_with("-states") || !seen.is_new(text) {
            return;
        }
        let module = parse(name, text);
        let info = validate(name, text, &module);
        for (target, lang_version) in [("vulkan1.1", (1, 3)), ("vulkan1.3", (1, 6))] {
            let options = spv::Options {
                lang_version,
                fake_missing_bindings: true,
                zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
                ..Default::default()
            };
            let words = spv::write_vec(&module, &info, &options, None)
                .unwrap_or_else(|error| panic!("{name} in SPIR-V: {error}"));
            std::fs::write(&path, bytemuck::cast_slice(&words)).unwrap();
            let validator =
                Command::new("spirv-val").args(["--target-env", target]).arg(&path).output();
            let validator = validator.unwrap();
            let said = String::from_utf8_lossy(&validator.stderr);
            if said.contains(NAGAS) {
                with_layouts += 1;
            } else {
                assert!(validator.status.success(), "{name}, {target}: {said}");
                valid += 1;
            }
        }
    });
    println!("{valid} valid, {with_layouts} but for layouts of variables");
    assert!(valid + with_layouts > 100);
    std::fs::remove_file(&path).unwrap();
}

/// Metal and Direct3D get what naga makes of the shaders.
#[test]
fn modules_translate_to_msl_and_hlsl() {
    let mut seen = Seen::default();
    for_each_text(|name, _, text| {
        if !name.ends_with("-states") || !seen.is_new(text) {
            return;
        }
        let module = parse(name, text);
        let info = validate(name, text, &module);
        let options =
            naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = naga::back::msl::PipelineOptions::default();
        naga::back::msl::write_string(&module, &info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{name} in MSL: {error}"));
        let options =
            naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        let mut hlsl = String::new();
        naga::back::hlsl::Writer::new(&mut hlsl, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name} in HLSL: {error}"));
    });
}
