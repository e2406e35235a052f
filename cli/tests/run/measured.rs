//! `bench --against`, `bench --sweep` and `plot`. What needs a device says visibly where there
//! is none; the files of `plot` are made by hand and need none.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{adapter, refused, run, scratch};

const SIZES: [&str; 6] = ["b", "t", "h", "g", "k", "v"];

/// A row of a peer that took a second.
fn peer(name: &str, sizes: [u32; 6], ms: f64) -> Value {
    let mut row = json!({ "peer": name, "dtype": "F32", "ms": ms, "tokens_s": 1.0 });
    for (key, size) in SIZES.iter().zip(sizes) {
        row[key] = size.into();
    }
    row
}

fn peers(rows: &[Value]) -> String {
    json!({ "adapter": "a slow machine", "driver": "1.0", "rows": rows }).to_string()
}

/// Runs `bench` to its end, on the CPU engine where there is no GPU.
fn bench(arguments: &[&str]) -> String {
    let found = run(&[&["bench", "--iterations", "1"], arguments].concat());
    assert_eq!(found.status, 0, "{}", found.stderr);
    found.stdout
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn against_the_fastest_peer() {
    let (_guard, directory) = scratch();
    let [slow, fast, rows] = ["slow", "fast", "rows"].map(|name| directory.join(name));
    let failed = json!({ "peer": "broken", "b": 1, "t": 8, "h": 2, "g": 2, "k": 4, "v": 4,
                         "dtype": "F32", "error": "out of memory" });
    let mut other = peer("another function", [1, 8, 2, 2, 4, 8], 1e-9);
    other["computes"] = "softmax".into();
    fs::write(&slow, peers(&[peer("slow", [1, 8, 2, 2, 4, 4], 2e6), failed])).unwrap();
    fs::write(&fast, peers(&[peer("fast", [1, 8, 2, 2, 4, 4], 1e6), other])).unwrap();
    let [slow, fast, json] = [&slow, &fast, &rows].map(|path| path.to_str().unwrap());
    let shapes = ["--shape", "1,8,2,4", "--shape", "1,9,2,4"];
    let files = ["--against", slow, "--against", fast, "--json", json];
    let adapter = adapter();
    let on_adapter: Vec<_> = adapter.iter().flat_map(|name| ["--adapter", name]).collect();
    let stdout = bench(&[&shapes[..], &files, &on_adapter].concat());
    assert!(stdout.contains("fast (F32)") && stdout.contains("none of these sizes"), "{stdout}");

    let report = read(&rows);
    let [compared, alone] = [&report["rows"][0], &report["rows"][1]];
    assert_eq!((&compared["peer"], &compared["peer_dtype"]), (&"fast".into(), &"F32".into()));
    let [ratio, ms] = [&compared["ratio"], &compared["ms"]].map(|x| x.as_f64().unwrap());
    assert!((ratio * ms / 1e6 - 1.0).abs() < 1e-9, "{ratio} of {ms} ms");
    assert!(alone.get("ratio").is_none() && alone.get("peer").is_none(), "{alone}");
    // The CPU engine has no pipelines and records nothing.
    let keys = ["total_bytes", "first_dispatch_ms", "pipeline_ms", "record_us", "finish_us"];
    for key in &keys[..if adapter.is_some() { 5 } else { 2 }] {
        assert!(compared[key].as_f64().unwrap() > 0.0, "{key} in {compared}");
    }
}

#[test]
fn sweeps_double_t() {
    let (_guard, directory) = scratch();
    let rows = directory.join("rows");
    let json = rows.to_str().unwrap();
    // The last is longer than any plan, and is passed over.
    let sweep = ["--sweep", "1,8..32,2,4", "2,3..3,1,4,8", "1,3000000000..3000000000,1,1"];
    bench(&[&sweep[..], &["--json", json]].concat());
    let report = read(&rows);
    let measured: Vec<Vec<u64>> = report["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| SIZES.iter().map(|key| row[key].as_u64().unwrap()).collect())
        .collect();
    let expected =
        [[1, 8, 2, 2, 4, 4], [1, 16, 2, 2, 4, 4], [1, 32, 2, 2, 4, 4], [2, 3, 1, 1, 4, 8]];
    assert_eq!(measured, expected);
}

/// A sweep of which nothing fits is no measurement, and writes no rows.
#[test]
fn shapes_that_no_device_has_room_for() {
    let (_guard, directory) = scratch();
    let rows = directory.join("rows");
    for (option, value, named) in [
        ("--sweep", "1,3000000000..3000000000,1,1", "--sweep at 1,3000000000,1,1,1: t"),
        ("--shape", "1,3000000000,1,1", "--shape 1,3000000000,1,1,1: t"),
    ] {
        let arguments = ["bench", option, value, "--json", rows.to_str().unwrap()];
        let found = run(&arguments);
        assert_eq!(found.status, 2, "{}", found.stderr);
        let [line] = found.stderr.lines().collect::<Vec<_>>()[..] else {
            panic!("{}", found.stderr)
        };
        assert!(line.contains(named), "{named} in {line}");
        assert!(!rows.exists());
    }
}

/// A reader of the file finds these keys, and may find others.
#[test]
fn the_keys_of_rows() {
    let (_guard, directory) = scratch();
    let rows = directory.join("rows");
    let shapes = ["--shape", "2,24,2,4,8", "--decode", "3,2,4"];
    let rules = ["--update-rule", "linear", "--update-rule", "gated-delta", "--dtype", "f16"];
    let files = ["--json", rows.to_str().unwrap()];
    bench(&[&shapes[..], &rules, &files].concat());
    let report = read(&rows);
    for key in ["adapter", "driver", "backend"] {
        assert!(report[key].is_string(), "{key} in {report}");
    }
    let expected = [
        ("linear", [2, 24, 2, 2, 2, 4, 8]),
        ("gated-delta", [2, 24, 2, 2, 2, 4, 8]),
        ("linear", [3, 1, 2, 2, 2, 4, 4]),
        ("gated-delta", [3, 1, 2, 2, 2, 4, 4]),
    ];
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), expected.len());
    for (row, (rule, sizes)) in rows.iter().zip(expected) {
        assert_eq!((row["update_rule"].as_str(), row["dtype"].as_str()), (Some(rule), Some("F16")));
        let found = ["b", "t", "h", "g", "e", "k", "v"].map(|key| row[key].as_u64().unwrap());
        assert_eq!(found, sizes);
        for key in ["ms", "gb_s", "copy_share", "gflop_s", "fma_share", "tokens_s"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key} in {row}");
        }
        assert!(row["scratch_bytes"].is_u64(), "{row}");
        let tokens_s = (sizes[0] * sizes[1]) as f64 / (1e-3 * row["ms"].as_f64().unwrap());
        assert!((row["tokens_s"].as_f64().unwrap() / tokens_s - 1.0).abs() < 1e-9, "{row}");
        // A step of decoding says how many sequences it has a token of.
        assert_eq!(row.get("n").and_then(Value::as_u64), (sizes[1] == 1).then_some(3));
    }
}

#[test]
fn segments_and_decoding() {
    let (_guard, directory) = scratch();
    let rows = directory.join("rows");
    let json = rows.to_str().unwrap();
    let shapes = ["--shape", "2,1,2,4", "--shape", "1,600,1,4"];
    bench(&[&shapes[..], &["--json", json]].concat());
    let report = read(&rows);
    let [step, sequence] = [&report["rows"][0], &report["rows"][1]];
    // mu and nu of 2 x 2 heads, once where they are updated in place.
    let state = 4 * 4 * (4 * 4 + 4);
    let state_bytes = step["state_bytes"].as_u64().unwrap();
    assert!([state, 2 * state].contains(&state_bytes), "{step}");
    assert_eq!(sequence["state_bytes"], 0);
    let total = sequence["total_bytes"].as_u64().unwrap();
    assert!(total >= 4 * 4 * 600 * 4 + sequence["scratch_bytes"].as_u64().unwrap(), "{sequence}");
    let stages = sequence["stages"].as_array().unwrap();
    assert_eq!(stages.is_empty(), sequence["segments"] == 1, "{sequence}");
}

#[test]
fn bad_peers() {
    let (_guard, directory) = scratch();
    let file = directory.join("peers");
    let path = file.to_str().unwrap();
    let sizes = [1, 8, 2, 2, 4, 4];
    let mut without_time = peer("x", sizes, 1.0);
    without_time.as_object_mut().unwrap().remove("ms");
    let mut without_t = peer("x", sizes, 1.0);
    without_t.as_object_mut().unwrap().remove("t");
    for (text, part) in [
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "torch_cpu.py"),
        (peers(&[]), "at least one row, found no row"),
        (peers(&[without_t]), "missing field `t`"),
        (peers(&[peer("x", sizes, 1.0), without_time]), "rows[1]: expected ms or error"),
        (peers(&[peer("x", sizes, -1.0)]), "rows[0]: expected ms above 0, found -1"),
    ] {
        fs::write(&file, text).unwrap();
        let line = refused(&["bench", "--against", path]);
        assert!(line.contains("--against") && line.contains(path) && line.contains(part), "{line}");
    }
    let line = refused(&["bench", "--against", "/no/such/file"]);
    assert!(line.contains("--against /no/such/file"), "{line}");
    for sweep in ["1,2,3,4", "1,4..2,3,4", "1,0..2,3,4", "1,1..2,3,9999"] {
        assert!(refused(&["bench", "--sweep", sweep]).contains("--sweep"), "{sweep}");
    }
}

/// A row of ours, as `bench --json` writes it.
fn ours([b, t, h, g, k, v]: [u32; 6], ms: f64) -> Value {
    json!({
        "b": b, "t": t, "h": h, "g": g, "k": k, "v": v, "dtype": "F32", "ms": ms, "gb_s": 1.0,
        "copy_share": 0.1, "gflop_s": 1.0, "fma_share": 0.1,
        "tokens_s": 1e3 * f64::from(b * t) / ms, "segments": 1, "scratch_bytes": 0,
        "state_bytes": 0, "total_bytes": 1, "pipeline_ms": 1.0, "first_dispatch_ms": 1.0,
        "record_us": 1.0, "finish_us": 1.0, "stages": [],
    })
}

fn report(rows: &[Value]) -> String {
    json!({
        "adapter": "a <quick> machine", "driver": "2.0", "backend": "vulkan",
        "date": "2026-11-24", "version": "0.1.0", "timer": "a clock", "iterations": 3,
        "copy_gb_s": 1.0, "fma_gflop_s": 1.0, "rows": rows,
    })
    .to_string()
}

#[test]
fn plots() {
    let (_guard, directory) = scratch();
    let [rows, others, svg] = ["rows", "peers", "plot.svg"].map(|name| directory.join(name));
    let swept = |t, k| ours([1, t, 2, 2, k, k], f64::from(t * k));
    fs::write(&rows, report(&[swept(64, 4), swept(128, 4), swept(64, 8), swept(4096, 8)])).unwrap();
    let mut softmax = peer("softmax attention", [1, 64, 2, 2, 4, 4], 3.0);
    softmax["computes"] = "softmax".into();
    fs::write(&others, peers(&[softmax, peer("unwanted", [1, 64, 2, 2, 4, 4], 1.0)])).unwrap();
    let [rows, others, svg_path] = [&rows, &others, &svg].map(|path| path.to_str().unwrap());
    let found = run(&["plot", rows, others, "-o", svg_path, "--peer", "softmax"]);
    assert_eq!((found.status, found.stderr.as_str()), (0, ""));
    let text = fs::read_to_string(&svg).unwrap();
    assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
    for part in [
        "Time of a call, B = 1, H = 2, K = V = 4",
        "Time per token, B = 1, H = 2, K = V = 8",
        "softmax attention (F32)",
        "a &lt;quick&gt; machine",
        "2026-11-24",
        "a slow machine",
        "\n4k\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("unwanted") && !text.contains("NaN"), "{text}");
}

#[test]
fn bad_plots() {
    let (_guard, directory) = scratch();
    let [rows, svg] = ["rows", "plot.svg"].map(|name| directory.join(name));
    let [path, svg_path] = [&rows, &svg].map(|path| path.to_str().unwrap());
    let one = ours([1, 64, 2, 2, 4, 4], 1.0);
    for (text, part) in [
        ("nonsense".to_owned(), "bench --json"),
        (report(&[]), "at least one row"),
        (report(&[one.clone(), ours([1, 64, 2, 2, 8, 8], 1.0)]), "differ in T alone"),
        (
            report(&[one, ours([1, 128, 2, 2, 4, 4], -1.0)]),
            "rows[1]: expected ms above 0, found -1",
        ),
    ] {
        fs::write(&rows, text).unwrap();
        let line = refused(&["plot", path, "-o", svg_path]);
        assert!(line.contains(path) && line.contains(part), "{line}");
        assert!(!svg.exists(), "no plot appears, nor a part of one");
    }
    fs::write(&rows, report(&[ours([1, 1, 1, 1, 1, 1], 1.0), ours([1, 2, 1, 1, 1, 1], 1.0)]))
        .unwrap();
    let line = refused(&["plot", path, "/no/such/peers", "-o", svg_path]);
    assert!(line.contains("/no/such/peers"), "{line}");
    let line = refused(&["plot", path, "-o", "/no/such/directory/plot.svg"]);
    assert!(line.contains("--output"), "{line}");
    assert!(refused(&["plot", path]).contains("--output"));
}

#[test]
fn predictions_need_no_device() {
    let shapes = ["--shape", "8,4096,16,64", "--decode", "256,32,128"];
    let found = run(&[&["bench", "--predict", "h100"], &shapes[..]].concat());
    assert_eq!(found.status, 0, "{}", found.stderr);
    let lines: Vec<&str> = found.stdout.lines().collect();
    assert!(lines[0].starts_with("h100: 3350 GB/s"), "{}", found.stdout);
    // B,T,H,K,V, the map, ms and what bounds it.
    let row = |line: &str| -> (String, f64) {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[0].to_owned(), words[2].parse().unwrap())
    };
    let [(prompt, prompt_ms), (step, step_ms)] = [row(lines[2]), row(lines[3])];
    assert_eq!([prompt.as_str(), step.as_str()], ["8,4096,16,64,64", "256,1,32,128,128"]);
    // Not below the bytes over the bandwidth: 0.54 GB and 1.1 GB at 3.35 TB/s.
    assert!((0.16..5.0).contains(&prompt_ms), "{prompt_ms}");
    assert!((0.32..1.0).contains(&step_ms), "{step_ms}");
    assert!(lines[3].contains("memory: "), "{}", lines[3]);

    let custom = run(&["bench", "--predict", "1000,20000,40", "--shape", "1,64,1,8"]);
    assert_eq!(custom.status, 0, "{}", custom.stderr);
    assert!(custom.stdout.starts_with("1000 GB/s, 20000 GFLOP/s, 40 units"), "{}", custom.stdout);
}

#[test]
fn predictions_refuse_what_they_would_not_use() {
    for (arguments, part) in [
        (&["--predict", "h99"][..], "expected one of h100"),
        (&["--predict", "1,2,0"], "above 0"),
        (&["--predict", "h100", "--json", "x.json"], "--json"),
        (&["--predict", "h100", "--tune"], "--tune"),
        (&["--predict", "h100", "--adapter", "cpu"], "--adapter"),
        (&["--predict", "h100", "--iterations", "3"], "--iterations"),
        (&["--predict", "h100", "--shape", "1,0,1,8"], "T must be at least 1"),
    ] {
        let line = refused(&[&["bench"], arguments].concat());
        assert!(line.contains(part), "{part} in {line}");
    }
}
