#![no_main]

#[path = "../bodies/custom_map.rs"]
mod custom_map;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| custom_map::run(bytes));
