//! `conformance`: a table of the files of `check`, and a status that says whether all of it held.

use std::fs;

use serde_json::{Value, json};

use crate::common::{refused, run, scratch};

fn column(adapter: &str, rows: &[(&str, &str, f64, bool)]) -> Value {
    let rows: Vec<Value> = rows
        .iter()
        .map(|(case, group, ratio, passed)| {
            json!({ "case": case, "group": group, "ratio": ratio, "passed": passed })
        })
        .collect();
    json!({ "adapters": [{
        "adapter": adapter, "driver": "d 1.0", "backend": "vulkan", "checked": false,
        "default_limits": true, "date": "2026-11-25", "rows": rows,
    }] })
}

#[test]
fn a_table_of_two_devices() {
    let (_guard, directory) = scratch();
    let write = |name: &str, value: &Value| {
        let path = directory.join(name);
        fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = column("one", &[("t63", "prompts", 0.25, true), ("f16", "16 bits", 0.5, true)]);
    let first = write("first", &first);
    let found = run(&["conformance", &first]);
    assert_eq!(found.status, 0, "{}", found.stderr);
    let second = column("two", &[("t63", "prompts", 7.0, false), ("t64", "prompts", 0.1, true)]);
    let second = write("second", &second);
    let found = run(&["conformance", &first, &second]);
    assert_eq!(found.status, 1, "{}", found.stdout);
    for line in [
        "|  | one | two |",
        "| limits | default | default |",
        "| 16 bits | 1 (0.50) | not run |",
        "| prompts | 1 (0.25) | **1 of 2**: t63 |",
    ] {
        assert!(found.stdout.contains(line), "{line} in {}", found.stdout);
    }
    let broken = write("broken", &json!({ "rows": [] }));
    assert!(refused(&["conformance", &broken]).contains("check --json"));
}
