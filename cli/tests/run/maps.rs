//! Feature maps in files: weights, random features, `compare`.

use std::fs;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::{Tensor, computed, encode, f32s, refused, run, scratch, tiny};

fn o_of(tensors: &[(&str, Tensor)], arguments: &[&str]) -> (Vec<f32>, Vec<usize>) {
    let bytes = computed(tensors, arguments);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let state = file.tensor("final_mu").unwrap().shape().to_vec();
    (f32s(file.tensor("o").unwrap().data()), state)
}

/// q = (1, 0), (1, 1), k = (1, 2), (0, 1), v = (3, 4), (5, 6). With W = [1 1; 1 -1; 2 0] and
/// b = (0, 1, 0): φ(k) = (3, 0, 2), (1, 0, 0), φ(q) = (1, 2, 2), (2, 1, 2).
/// o_1 = 7 v_1; o_2 = 10 v_1 + 2 v_2.
#[test]
fn weights_of_a_file() {
    let mut tensors = tiny();
    tensors.push(("key_weight", Tensor::f32(&[3, 2], &[1.0, 1.0, 1.0, -1.0, 2.0, 0.0])));
    tensors.push(("key_bias", Tensor::f32(&[3], &[0.0, 1.0, 0.0])));
    let plain = ["--feature-map", "t2r:3", "--no-normalize", "--reference"];
    let (o, state) = o_of(&tensors, &plain);
    assert_eq!(o, [21.0, 28.0, 40.0, 52.0]);
    assert_eq!(state, [1, 1, 3, 2]);
    // Of one head, which has the same as all of them; and queries apart, with W = 0 and b = 1.
    tensors[3].1 = Tensor::f32(&[1, 3, 2], &[1.0, 1.0, 1.0, -1.0, 2.0, 0.0]);
    tensors[4].1 = Tensor::f32(&[1, 3], &[0.0, 1.0, 0.0]);
    assert_eq!(o_of(&tensors, &plain).0, o);
    tensors.push(("query_weight", Tensor::f32(&[3, 2], &[0.0; 6])));
    tensors.push(("query_bias", Tensor::f32(&[3], &[1.0; 3])));
    // o_1 = 5 v_1, o_2 = 5 v_1 + v_2.
    assert_eq!(o_of(&tensors, &plain).0, [15.0, 20.0, 20.0, 26.0]);
}

#[test]
fn weights_of_another_shape_are_refused() {
    let (_guard, directory) = scratch();
    let input = directory.join("in");
    let mut tensors = tiny();
    tensors.push(("key_weight", Tensor::f32(&[2, 2], &[1.0; 4])));
    fs::write(&input, encode(&tensors)).unwrap();
    let refused_with = |map: &str| {
        refused(&["run", input.to_str().unwrap(), "-o", "/dev/null/x", "--feature-map", map])
            + &refused(&["run", input.to_str().unwrap(), "--verify", "--feature-map", map])
    };
    let said = refused_with("t2r:3");
    assert!(said.contains("tensor key_weight: expected shape [3, 2], found [2, 2]"), "{said}");
    // Weights are of f32 beside q of any type.
    let mut narrow: Vec<_> = tensors.iter().map(|(name, x)| (*name, x.to_f16())).collect();
    fs::write(&input, encode(&narrow)).unwrap();
    let said = refused_with("t2r:2");
    assert!(said.contains("tensor key_weight: expected dtype F32, found F16"), "{said}");
    narrow[3] = tensors[3].clone();
    computed(&narrow, &["--reference", "--feature-map", "t2r:2"]);
}

/// The same seed draws the same features, another draws others, and all are near one another.
#[test]
fn random_features_have_a_seed() {
    let of = |seed| {
        let arguments = ["--feature-map", "favor:4096", "--reference", "--seed", seed];
        o_of(&tiny(), &arguments).0
    };
    let (first, again, other) = (of("1"), of("1"), of("2"));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(first.iter().zip(&other).all(|(a, b)| (a - b).abs() < 0.3), "{first:?} {other:?}");
}

/// The table has the numbers of the file, maps are compared with softmax attention, and a plot is
/// drawn.
#[test]
fn compare_writes_a_table_and_a_plot() {
    let (_guard, directory) = scratch();
    let (input, json, plot) =
        (directory.join("in"), directory.join("rows.json"), directory.join("plot.svg"));
    // 40 tokens of one head, small, so that Taylor's series is near.
    let numbers = |salt: usize| -> Vec<f32> {
        (0..160).map(|i| ((i * 37 + salt * 11) % 64) as f32 / 64.0 - 0.5).collect()
    };
    let tensor = |salt| Tensor::f32(&[1, 40, 1, 4], &numbers(salt));
    let tensors = [("q", tensor(1)), ("k", tensor(2)), ("v", tensor(3))];
    fs::write(&input, encode(&tensors)).unwrap();
    let found = run(&[
        "compare",
        input.to_str().unwrap(),
        "--json",
        json.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
        "--feature-map",
        "elu",
        "--feature-map",
        "taylor",
        "--feature-map",
        "favor:256",
        "--feature-map",
        "hedgehog",
    ]);
    assert_eq!(found.status, 0, "{}", found.stderr);
    let rows: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let rows = rows["rows"].as_array().unwrap();
    let errors: Vec<f64> = rows.iter().map(|row| row["error"].as_f64().unwrap()).collect();
    let [equal, elu, taylor, favor, _] = errors[..] else { panic!("{errors:?}") };
    assert!(taylor < 0.01 && taylor < favor && favor < equal && favor < elu, "{errors:?}");
    for (row, weights) in rows.iter().zip(["none", "none", "none", "random", "untrained"]) {
        assert_eq!(row["weights"], weights);
        assert!(found.stdout.contains(row["map"].as_str().unwrap()), "{}", found.stdout);
        // The first token is its own value, whatever the map.
        assert!(row["over_position"][0][1].as_f64().unwrap() < 1e-4, "{row}");
    }
    assert_eq!(rows[2]["state_bytes"], 4 * 15 * 5);
    let svg = fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("taylor") && svg.contains("hedgehog"));
}
