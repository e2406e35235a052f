//! Nothing is ignored in silence: a tensor that would not be used is named, with what is taken.

use std::fs;

use crate::common::{Tensor, encode, refused, refused_file, scratch, tiny, with};

const PLAIN: [&str; 4] = ["--reference", "--feature-map", "identity", "--no-normalize"];

#[test]
fn tensors_of_another_rule() {
    let gate = || Tensor::zeros(&[1, 2, 1]);
    let both = encode(&[tiny(), vec![("beta", gate()), ("decay", gate())]].concat());
    for (bytes, rule, parts) in [
        (with("decay", gate()), "linear", ["tensor decay", "the update rule is linear"]),
        (with("beta", gate()), "linear", ["tensor beta", "the update rule is linear"]),
        (
            both.clone(),
            "linear",
            ["tensor beta", "takes q, k, v, cu_seqlens, attention_mask, initial_mu)"],
        ),
        (
            both.clone(),
            "gated",
            ["tensor beta", "takes q, k, v, cu_seqlens, attention_mask, decay, initial_mu)"],
        ),
        (
            both,
            "delta",
            ["tensor decay", "takes q, k, v, cu_seqlens, attention_mask, beta, initial_mu)"],
        ),
        (with("decay", gate()), "delta", ["tensor beta: expected in the file", "[decay, k, q, v]"]),
    ] {
        let line = refused_file(&bytes, &[&PLAIN[..], &["--update-rule", rule]].concat());
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    }
}

/// Without a rule by name every gate is taken, so a misspelt one is shown both.
#[test]
fn names_that_are_not_taken() {
    let any_rule = "takes q, k, v, cu_seqlens, attention_mask, decay, beta, initial_mu";
    for (name, tensor, part) in [
        ("g", Tensor::zeros(&[1, 2, 1]), "here g is called decay"),
        ("gk", Tensor::zeros(&[1, 2, 1, 2]), "here gk is called decay"),
        ("Decay", Tensor::zeros(&[1, 2, 1]), any_rule),
        ("betas", Tensor::zeros(&[1, 2, 1]), any_rule),
        ("final_mu", Tensor::zeros(&[1, 1, 2, 2]), any_rule),
        ("initial_state", Tensor::zeros(&[1, 1, 2, 2]), "here initial_state is called initial_mu"),
        ("key_weight", Tensor::zeros(&[2, 2]), "the feature map has no weights"),
        ("query_bias", Tensor::zeros(&[2]), "the feature map has no weights"),
    ] {
        let line = refused_file(&with(name, tensor), &PLAIN);
        let named = format!("tensor {name}: expected none");
        assert!(line.contains(&named) && line.contains(part), "{named} and {part} in {line}");
    }
    // With a rule that has no decay there is nothing that g could be called.
    let line = refused_file(
        &with("g", Tensor::zeros(&[1, 2, 1])),
        &[&PLAIN[..], &["--update-rule", "linear"]].concat(),
    );
    assert!(line.contains("tensor g") && !line.contains("decay"), "{line}");
}

/// A file from a normalised call has a nu, which goes nowhere where nothing is divided.
#[test]
fn nu_where_nothing_is_divided() {
    let state = vec![
        ("initial_mu", Tensor::zeros(&[1, 1, 2, 2])),
        ("initial_nu", Tensor::zeros(&[1, 1, 2])),
    ];
    let gate = vec![("decay", Tensor::zeros(&[1, 2, 1]))];
    let linear = encode(&[tiny(), state.clone()].concat());
    let gated = encode(&[tiny(), state, gate].concat());
    for (bytes, arguments) in [(linear, &PLAIN[..]), (gated, &["--reference"])] {
        let line = refused_file(&bytes, arguments);
        assert!(line.contains("tensor initial_nu: expected none"), "{line}");
        assert!(line.contains("o is not normalised"), "{line}");
    }
}

#[test]
fn a_bias_without_its_weight() {
    let weight = ("key_weight", Tensor::zeros(&[2, 2]));
    let lonely = encode(&[tiny(), vec![weight, ("query_bias", Tensor::zeros(&[2]))]].concat());
    let drawn = with("key_bias", Tensor::zeros(&[8]));
    for (bytes, map, parts) in [
        (lonely, "t2r:2", ["tensor query_bias: expected none", "the file has no query_weight"]),
        (drawn, "favor:8", ["tensor key_bias: expected none", "the file has no key_weight"]),
    ] {
        let arguments = ["--reference", "--normalize", "--feature-map", map];
        let line = refused_file(&bytes, &arguments);
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    }
}

/// compare has no use for anything but q, k, v and where sequences begin.
#[test]
fn compare_takes_less() {
    let (_guard, directory) = scratch();
    let (input, json) = (directory.join("in"), directory.join("rows.json"));
    for (name, tensor, part) in [
        ("decay", Tensor::zeros(&[1, 2, 1]), "softmax attention has no update rule"),
        ("beta", Tensor::zeros(&[1, 2, 1]), "softmax attention has no update rule"),
        ("g", Tensor::zeros(&[1, 2, 1]), "takes q, k, v, cu_seqlens, attention_mask)"),
        ("initial_mu", Tensor::zeros(&[1, 1, 2, 2]), "softmax attention begins with no state"),
        ("key_weight", Tensor::zeros(&[2, 2]), "weights are drawn"),
    ] {
        fs::write(&input, with(name, tensor)).unwrap();
        let files = [input.to_str().unwrap(), "--json", json.to_str().unwrap()];
        let line = refused(&[&["compare"][..], &files].concat());
        let named = format!("tensor {name}: expected none");
        assert!(line.contains(&named) && line.contains(part), "{named} and {part} in {line}");
        assert!(!json.exists());
    }
}
