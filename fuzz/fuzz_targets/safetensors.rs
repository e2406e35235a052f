#![no_main]
#![allow(dead_code, reason = "the program uses the rest")]

#[path = "../../cli/src/attention_mask.rs"]
mod attention_mask;
#[path = "../../cli/src/cu_seqlens.rs"]
mod cu_seqlens;
#[path = "../../cli/src/failure.rs"]
mod failure;
#[path = "../../cli/src/file.rs"]
mod file;
#[path = "../../cli/src/fuzzed.rs"]
mod fuzzed;
#[path = "../../cli/src/header.rs"]
mod header;
#[path = "../../cli/src/maps.rs"]
mod maps;
#[path = "../../cli/src/rule.rs"]
mod rule;
#[path = "../../cli/src/taken.rs"]
mod taken;
#[path = "../../cli/src/tensors.rs"]
mod tensors;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzed::run(bytes));
