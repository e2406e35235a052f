//! Refusals, each with status 2 and one line that names its cause.

use std::fs;

use safetensors::Dtype;

use crate::common::{Tensor, encode, names, refused, refused_file, scratch, tiny, with};

#[test]
fn bad_tensors() {
    let reference = &["--reference"];
    let without_v = encode(&tiny()[..2]);
    let numbers = [0.0; 12];
    for (bytes, parts) in [
        (without_v, ["tensor v", "found only [k, q]"]),
        (with("q", Tensor::new(Dtype::F64, &[1, 2, 1, 2], &[0; 32])), ["tensor q", "found F64"]),
        (with("k", Tensor::f32(&[1, 2, 1, 2], &numbers[..4]).to_f16()), ["tensor k", "found F16"]),
        (with("q", Tensor::f32(&[2, 2], &numbers[..4])), ["tensor q", "found rank 2 [2, 2]"]),
        (with("q", Tensor::f32(&[1, 2, 0, 2], &[])), ["tensor q", "found [1, 2, 0, 2]"]),
        (with("v", Tensor::f32(&[1, 3, 1, 2], &numbers[..6])), ["tensor v", "found [1, 3, 1, 2]"]),
        (with("k", Tensor::f32(&[1, 2, 1, 3], &numbers[..6])), ["tensor k", "found [1, 2, 1, 3]"]),
        (with("q", Tensor::f32(&[1, 2, 1, 1025], &[0.0; 2050])), ["tensor k", "1025"]),
        (with("q", Tensor::f32(&[1, 2, 1, 2], &[f32::NAN; 4])), ["tensor q", "found NaN"]),
        (
            with("initial_mu", Tensor::f32(&[1, 1, 2, 2], &numbers[..4])),
            ["tensor initial_nu", "found only"],
        ),
        (
            with("cu_seqlens", Tensor::new(Dtype::I32, &[2], &[0, 0, 0, 0, 3, 0, 0, 0])),
            ["tensor cu_seqlens: element 1", "expected at most T = 2, found 3"],
        ),
        (
            with("attention_mask", Tensor::new(Dtype::U8, &[1, 2], &[1, 2])),
            ["tensor attention_mask: row 0, token 1", "expected 0 or 1, found 2"],
        ),
        (
            with("cu_seqlens", Tensor::f32(&[2], &[0.0, 2.0])),
            ["tensor cu_seqlens", "expected dtype I32 or I64, found F32"],
        ),
    ] {
        let line = refused_file(&bytes, reference);
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    }
}

#[test]
fn heads_that_do_not_divide() {
    for ([h, g, e], part) in [
        (
            [3, 2, 2],
            "tensor v: expected heads E that divide q's H = 3 or are a multiple of it, found 2",
        ),
        (
            [2, 1, 3],
            "tensor v: expected heads E that divide q's H = 2 or are a multiple of it, found 3",
        ),
        ([2, 2, 1], "tensor k: expected heads G that divide v's E = 1, found 2"),
        ([4, 3, 4], "tensor k: expected heads G that divide v's E = 4, found 3"),
    ] {
        let tensors = [("q", h), ("k", g), ("v", e)];
        let tensors = tensors.map(|(name, heads)| (name, Tensor::zeros(&[1, 1, heads, 1])));
        let line = refused_file(&encode(&tensors), &["--reference"]);
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn bad_gates() {
    let reference = &["--reference"];
    let decay = |shape: &[usize], x: &[f32]| with("decay", Tensor::f32(shape, x));
    let mut normalised = tiny();
    normalised.push(("beta", Tensor::f32(&[1, 2, 1], &[0.5; 2])));
    for (bytes, arguments, parts) in [
        (decay(&[1, 3, 1], &[0.0; 3]), &reference[..], ["tensor decay", "found [1, 3, 1]"]),
        (decay(&[1, 2, 1, 3], &[0.0; 6]), reference, ["tensor decay", "found [1, 2, 1, 3]"]),
        (decay(&[1, 2, 1], &[0.0, f32::NAN]), reference, ["decay", "NaN at token 1, head 0"]),
        (
            decay(&[1, 2, 1], &[0.0; 2]),
            &["--reference", "--update-rule", "gated-delta"],
            ["tensor beta", "expected in the file"],
        ),
        (
            encode(&normalised),
            &["--reference", "--normalize"],
            ["--normalize: expected --no-normalize", "the update rule delta"],
        ),
        (with("decay", Tensor::f32(&[1, 2, 1], &[0.0; 2]).to_f16()), reference, ["decay", "F16"]),
    ] {
        let line = refused_file(&bytes, arguments);
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    }
}

#[test]
fn keys_whose_features_leave_f32() {
    let k = Tensor::f32(&[1, 2, 1, 1], &[1.0, 200.0]);
    let zeros = || Tensor::zeros(&[1, 2, 1, 1]);
    let file = encode(&[("q", zeros()), ("k", k), ("v", zeros())]);
    for engine in [&["--reference"][..], &["--adapter", "cpu"]] {
        let line = refused_file(&file, &[&["--feature-map", "exp"][..], engine].concat());
        assert!(
            line.contains("phi(k) must be finite in f32, found inf at token 1, head 0"),
            "{line}"
        );
    }
}

#[test]
fn truncated_files() {
    let whole = encode(&tiny());
    for len in [0, 7, 8, 40, whole.len() - 1] {
        let line = refused_file(&whole[..len], &["--reference"]);
        assert!(line.contains("truncated"), "{len} bytes: {line}");
    }
    let line = refused_file(&whole[..whole.len() - 1], &["--reference"]);
    assert!(line.contains("tensor v"), "{line}");
}

#[test]
fn lying_headers() {
    let whole = encode(&tiny());
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    // The tensors lie in the order of their names: k, q, v.
    for (bytes, part) in [
        (replaced("[1,2,1,2]", "[1,9,1,2]"), "tensor k: its header lies: expected 72 bytes"),
        (replaced("[16,32]", "[16,99]"), "tensor q"),
        (replaced("[32,48]", "[48,32]"), "tensor v"),
        (replaced("{", "["), "expected a safetensors file"),
        ([&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), "header"),
    ] {
        let line = refused_file(&bytes, &["--reference"]);
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn unwritable_outputs() {
    let (_guard, directory) = scratch();
    let input = directory.join("in");
    fs::write(&input, encode(&tiny())).unwrap();
    let input = input.to_str().unwrap();
    let nowhere = directory.join("no/such/out");
    for output in [nowhere.to_str().unwrap(), directory.to_str().unwrap(), "/dev/null"] {
        let line = refused(&["run", input, "-o", output, "--reference"]);
        assert!(line.contains("--output") && line.contains(output), "{line}");
    }
    assert_eq!(names(&directory), ["in"]);
}

#[test]
fn bad_arguments() {
    let (_guard, directory) = scratch();
    let (input, output) = (directory.join("in"), directory.join("out"));
    fs::write(&input, encode(&tiny())).unwrap();
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let start = ["run", input, "-o", output];
    for (rest, part) in [
        (&["--eps", "-1"][..], "--eps must be finite and not negative, found -1"),
        (&["--eps", "nan"], "--eps"),
        (&["--eps", "small"], "--eps"),
        (&["--scale", "inf"], "--scale must be finite, found inf"),
        (&["--feature-map", "identity"], "--no-normalize"),
        (&["--feature-map", "silu"], "--no-normalize"),
        (&["--feature-map", "relu", "--query-map", "silu"], "--query-map silu"),
        (&["--feature-map", "softplus"], "identity, relu, relu-squared"),
        (&["--feature-map", "favor"], "favor:F"),
        (
            &["--feature-map", "fourier:12", "--no-normalize"],
            "--feature-map fourier: features must be a multiple of 8, found 12",
        ),
        (&["--feature-map", "dpfp:4"], "--feature-map dpfp: nu must be 1 to 3"),
        (
            &["--query-map", "dpfp:1"],
            "--query-map dpfp: features must be the 2 of the keys' map elu, found 4",
        ),
        (
            &["--feature-map", "dpfp:1", "--query-map", "dpfp:2"],
            "--query-map dpfp: features must be the 4 of the keys' map dpfp:1, found 8",
        ),
        (&["--update-rule", "fixed"], "linear, gated, delta, gated-delta"),
        // Weights that the file does not have.
        (&["--feature-map", "t2r:3"], "tensor key_weight"),
        (&["--feature-map", "hedgehog"], "tensor key_weight"),
        (&["--normalize", "--no-normalize"], "--no-normalize"),
        (&["--reference", "--adapter", "x"], "--adapter"),
        (&["--adapter", "no such adapter"], "--adapter no such adapter"),
    ] {
        let line = refused(&[&start[..], rest].concat());
        assert!(line.contains(part), "{part} in {line}");
    }
    let line = refused(&["run", input]);
    assert!(line.contains("--output"), "{line}");
    let line = refused(&["run", "/no/such/file", "--verify"]);
    assert!(line.contains("/no/such/file"), "{line}");
    assert!(refused(&[]).contains("expected a command"));
}

#[test]
fn bad_maps_to_compare() {
    let (_guard, directory) = scratch();
    let input = directory.join("in");
    fs::write(&input, encode(&tiny())).unwrap();
    let line = refused(&["compare", input.to_str().unwrap(), "--feature-map", "fourier:12"]);
    assert!(line.contains("--feature-map fourier: features must be a multiple of 8"), "{line}");
}

#[test]
fn bad_shapes() {
    for shape in
        ["1,2,3", "1,2,3,4,5,6", "1,x,1,1", "1,0,1,1", "1,1,1,1025", "-1,1,1,1", "99999,99999,1,1"]
    {
        let line = refused(&["bench", "--shape", shape]);
        assert!(line.contains("--shape"), "{line}");
    }
    assert!(refused(&["bench", "--json", "/no/such/file"]).contains("--json /no/such/file"));
    assert!(refused(&["check", "--json", "/no/such/file"]).contains("--json /no/such/file"));
    assert!(refused(&["check", "--adapter", "no such"]).contains("--adapter no such"));
}
