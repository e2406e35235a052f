#![no_main]

#[path = "../bodies/cpu_pool.rs"]
mod cpu_pool;
#[path = "../bodies/program.rs"]
mod program;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cpu_pool::run(bytes));
