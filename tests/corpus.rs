//! Replays the inputs that the fuzzer kept, on a stable compiler: `fuzz/bodies` has the code for
//! each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]
#![allow(unreachable_pub, reason = "the targets of the fuzzer have the same modules")]

#[path = "../fuzz/bodies/cpu_pool.rs"]
mod cpu_pool;
#[path = "../fuzz/bodies/custom_map.rs"]
mod custom_map;
#[path = "../fuzz/bodies/plan.rs"]
mod plan;
#[path = "../fuzz/bodies/program.rs"]
mod program;
#[path = "../fuzz/bodies/setup.rs"]
mod setup;
#[path = "../fuzz/bodies/snapshot.rs"]
mod snapshot;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&std::fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "nothing in {folder}");
}

#[test]
fn plans() {
    replay("plan", plan::run);
}

#[test]
fn custom_maps() {
    replay("custom_map", custom_map::run);
}

#[test]
fn snapshots() {
    replay("snapshot", snapshot::run);
}

#[test]
fn programs_on_the_cpu_engine() {
    replay("cpu_pool", cpu_pool::run);
}
