#![no_main]

#[path = "../bodies/cpu_pool.rs"]
mod cpu_pool;
#[path = "../bodies/program.rs"]
mod program;
#[path = "../bodies/setup.rs"]
mod setup;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cpu_pool::run(bytes));
