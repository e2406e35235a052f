//! Heads of q, k and v in other numbers: grouped queries and grouped values.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::{Tensor, computed, encode, f32s, refused, run, scratch};

/// Two tokens of width 1: q is 1, k is 1 then 3, and value head e holds 10 e then 10 e + 4. With
/// identity the quotient weighs the values 1 to 3, so a value head's outputs are 10 e and 10 e + 3.
fn tensors(heads: usize, key_heads: usize, value_heads: usize) -> Vec<(&'static str, Tensor)> {
    let of_head = |e: usize| 10.0 * e as f32;
    let v = [0.0, 4.0].map(|x| (0..value_heads).map(|e| of_head(e) + x).collect::<Vec<f32>>());
    let k = [vec![1.0; key_heads], vec![3.0; key_heads]].concat();
    vec![
        ("q", Tensor::f32(&[1, 2, heads, 1], &vec![1.0; 2 * heads])),
        ("k", Tensor::f32(&[1, 2, key_heads, 1], &k)),
        ("v", Tensor::f32(&[1, 2, value_heads, 1], &v.concat())),
    ]
}

const NORMALIZED: [&str; 3] = ["--feature-map", "identity", "--normalize"];

/// o has max(H,E) heads and the state E, whatever the number of key heads is.
#[test]
fn o_has_a_head_for_each_query_or_value() {
    for (heads, key_heads, value_heads) in [(1, 1, 4), (2, 1, 4), (2, 2, 4), (4, 1, 2), (4, 2, 2)] {
        let tensors = tensors(heads, key_heads, value_heads);
        for reference in [&["--reference"][..], &[]] {
            let bytes = computed(&tensors, &[&NORMALIZED[..], reference].concat());
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let output_heads = heads.max(value_heads);
            let group = output_heads / value_heads;
            let expected = [0.0, 3.0].map(|x| {
                (0..output_heads).map(move |h| 10.0 * (h / group) as f32 + x).collect::<Vec<f32>>()
            });
            let o = file.tensor("o").unwrap();
            assert_eq!(o.shape(), [1, 2, output_heads, 1]);
            for (found, expected) in f32s(o.data()).iter().zip(expected.concat()) {
                assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
            }
            let [mu, nu] = ["final_mu", "final_nu"].map(|name| file.tensor(name).unwrap());
            assert_eq!(
                (mu.shape(), nu.shape()),
                (&[1, value_heads, 1, 1][..], &[1, value_heads, 1][..])
            );
            assert_eq!(f32s(nu.data()), vec![4.0; value_heads]);
        }
    }
}

/// A state to begin with has E heads: the final state of a first call goes into the next.
#[test]
fn initial_states_have_value_heads() {
    let mut tensors = tensors(1, 1, 2);
    let first = computed(&tensors, &[&NORMALIZED[..], &["--reference"]].concat());
    let first = SafeTensors::deserialize(&first).unwrap();
    for (name, from, shape) in
        [("initial_mu", "final_mu", &[1, 2, 1, 1][..]), ("initial_nu", "final_nu", &[1, 2, 1])]
    {
        tensors.push((name, Tensor::f32(shape, &f32s(first.tensor(from).unwrap().data()))));
    }
    let bytes = computed(&tensors, &[&NORMALIZED[..], &["--reference"]].concat());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(f32s(file.tensor("final_mu").unwrap().data()), [24.0, 104.0]);
    assert_eq!(f32s(file.tensor("final_nu").unwrap().data()), [8.0, 8.0]);
}

/// With equal q and k softmax weighs all tokens alike, and so does every map.
#[test]
fn compare_takes_grouped_heads() {
    let (_guard, directory) = scratch();
    let (input, json) = (directory.join("in"), directory.join("rows.json"));
    for (heads, key_heads, value_heads) in [(1, 1, 4), (2, 1, 4), (4, 1, 2)] {
        let mut tensors = tensors(heads, key_heads, value_heads);
        tensors[1].1 = Tensor::f32(&[1, 2, key_heads, 1], &vec![1.0; 2 * key_heads]);
        fs::write(&input, encode(&tensors)).unwrap();
        let files = [input.to_str().unwrap(), "--json", json.to_str().unwrap()];
        let found = run(&[&["compare"][..], &files, &["--feature-map", "elu"]].concat());
        assert_eq!(found.status, 0, "{}", found.stderr);
        let rows: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let rows = rows["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert!(row["error"].as_f64().unwrap() < 1e-6, "{row}");
        }
    }
}

#[test]
fn compare_needs_a_token() {
    let (_guard, directory) = scratch();
    let input = directory.join("in");
    let empty = Tensor::f32(&[1, 0, 1, 1], &[]);
    fs::write(&input, encode(&["q", "k", "v"].map(|name| (name, empty.clone())))).unwrap();
    let line = refused(&["compare", input.to_str().unwrap()]);
    assert!(line.contains("tensor q") && line.contains("found T = 0"), "{line}");
}
