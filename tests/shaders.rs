//! Every module the crate can make is valid WGSL: for naga, and for tint where it is on PATH.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::io::Write;
use std::process::Command;

use linear_attention::feature_map::CustomMap;
use linear_attention::plan::Stage;
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Dtype, FeatureMap};

/// Every text there is: stages, layouts and ways to read tensors.
fn modules() -> Vec<(String, String)> {
    let mut modules = Vec::new();
    let dtypes = Dtype::ALL.into_iter();
    let both = |dtype| [("x4", Config::new(64, 64), dtype), ("x1", Config::new(63, 65), dtype)];
    for (tensors, mut config, dtype) in dtypes.flat_map(both) {
        config.dtype = dtype;
        for device_type in [DeviceType::Other, DeviceType::Cpu] {
            let tuning = Tuning::new(&config, &Limits::default(), device_type).unwrap();
            let layout = if device_type == DeviceType::Cpu { "thread" } else { "workgroup" };
            for stage in Stage::ALL {
                let name = format!("{}-{layout}-{tensors}-{}", stage.name(), dtype.name());
                modules.push((name, stage.wgsl(&config, tuning.layout).into_owned()));
            }
        }
    }
    // Maps that need all of a row, F in one block and in several, and a caller's own text.
    let own = "fn phi(row: Row, feature: u32) -> f32 { return abs(x(row, feature)); }";
    let own = CustomMap::new("own", own, 64, |_, _, _| {}).unwrap().non_negative();
    for map in [FeatureMap::Softmax, FeatureMap::Taylor, FeatureMap::Custom(own.into())] {
        for (tensors, width) in [("x4", 64), ("x1", 63)] {
            for dtype in Dtype::ALL {
                let mut config = Config::new(width, width);
                (config.feature_map, config.dtype) = (map.clone(), dtype);
                let tuning = Tuning::new(&config, &Limits::default(), DeviceType::Other).unwrap();
                for stage in Stage::ALL {
                    let name = format!("{}-{map}-{tensors}-{}", stage.name(), dtype.name());
                    modules.push((name, stage.wgsl(&config, tuning.layout).into_owned()));
                }
            }
        }
    }
    modules
}

#[test]
fn valid_for_naga() {
    for (name, wgsl) in modules() {
        let module = naga::front::wgsl::parse_str(&wgsl)
            .unwrap_or_else(|error| panic!("{name}: {}", error.emit_to_string(&wgsl)));
        // No capability at all: plain WGSL is what every backend can take.
        naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::empty(),
        )
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}

#[test]
fn valid_for_tint() {
    if Command::new("tint").arg("--help").output().is_err() {
        eprintln!("SKIPPED: tint is not on PATH");
        return;
    }
    for (name, wgsl) in modules() {
        let path = std::env::temp_dir()
            .join(format!("linear-attention-{}-{name}.wgsl", std::process::id()));
        std::fs::File::create(&path).unwrap().write_all(wgsl.as_bytes()).unwrap();
        let output = Command::new("tint").args(["--format", "wgsl"]).arg(&path).output().unwrap();
        std::fs::remove_file(&path).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
    }
}
