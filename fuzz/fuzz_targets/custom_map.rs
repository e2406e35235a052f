//! Any text as a feature map: a map or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use linear_attention::feature_map::CustomMap;

fuzz_target!(|text: &str| {
    let _ = CustomMap::new("fuzzed", text, 8, |_, _, _| {});
});
