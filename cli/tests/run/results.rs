//! Correct results.

use half::f16;
use safetensors::{Dtype, SafeTensors};

use crate::common::{Tensor, adapter, computed, f32s, run, tiny};

/// `o` of `tiny()`, worked by hand with identity and no division:
/// mu_1 = k_1^T v_1 = [[3, 4], [6, 8]], o_1 = q_1 mu_1 = [3, 4];
/// mu_2 = mu_1 + k_2^T v_2 = [[3, 4], [11, 14]], o_2 = q_2 mu_2 = [14, 18].
const BY_HAND: [f32; 4] = [3.0, 4.0, 14.0, 18.0];

const PLAIN: [&str; 4] = ["--feature-map", "identity", "--no-normalize", "--reference"];

#[test]
fn by_hand() {
    let bytes = computed(&tiny(), &PLAIN);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let o = file.tensor("o").unwrap();
    assert_eq!((o.dtype(), o.shape()), (Dtype::F32, &[1, 2, 1, 2][..]));
    assert_eq!(f32s(o.data()), BY_HAND);
    let mu = file.tensor("final_mu").unwrap();
    assert_eq!((mu.dtype(), mu.shape()), (Dtype::F32, &[1, 1, 2, 2][..]));
    assert_eq!(f32s(mu.data()), [3.0, 4.0, 11.0, 14.0]);
    // Nothing is divided, so there is no nu.
    assert!(file.tensor("final_nu").is_err());
}

#[test]
fn normalized_by_name() {
    let arguments = ["--feature-map", "identity", "--normalize", "--eps", "0", "--reference"];
    let bytes = computed(&tiny(), &arguments);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // nu_1 = [1, 2], q_1 . nu_1 = 1; nu_2 = [1, 3], q_2 . nu_2 = 4.
    assert_eq!(f32s(file.tensor("o").unwrap().data()), [3.0, 4.0, 3.5, 4.5]);
    let nu = file.tensor("final_nu").unwrap();
    assert_eq!((nu.dtype(), nu.shape()), (Dtype::F32, &[1, 1, 2][..]));
    assert_eq!(f32s(nu.data()), [1.0, 3.0]);
}

/// Without --eps nothing is added to the sum of weights, so the average of ones is 1 where every
/// weight is e^-16; without --scale q is taken as it stands.
#[test]
fn defaults() {
    let same = |x: f32| Tensor::f32(&[1, 2, 1, 1], &[x; 2]);
    let small = [("q", same(-8.0)), ("k", same(-8.0)), ("v", same(1.0))];
    for (arguments, expected) in [
        (&["--reference"][..], 1.0),
        (&["--reference", "--eps", "0", "--scale", "1"], 1.0),
        (&["--reference", "--eps", "1"], 0.0),
        (&[], 1.0),
    ] {
        let bytes = computed(&small, arguments);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for found in f32s(file.tensor("o").unwrap().data()) {
            assert!((found - expected).abs() < 1e-5, "{arguments:?}: {found}");
        }
    }
    let scaled = |scale| {
        let bytes = computed(&tiny(), &[&PLAIN[..], &["--scale", scale]].concat());
        f32s(SafeTensors::deserialize(&bytes).unwrap().tensor("o").unwrap().data())
    };
    assert_eq!(scaled("1"), BY_HAND);
    assert_eq!(scaled("2"), BY_HAND.map(|x| 2.0 * x));
}

#[test]
fn initial_state() {
    let mut tensors = tiny();
    tensors.push(("initial_mu", Tensor::f32(&[1, 1, 2, 2], &[1.0, 0.0, 0.0, 0.0])));
    let bytes = computed(&tensors, &PLAIN);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(f32s(file.tensor("o").unwrap().data()), [4.0, 4.0, 15.0, 18.0]);
    tensors.push(("initial_nu", Tensor::f32(&[1, 1, 2], &[5.0, 0.0])));
    let arguments = ["--feature-map", "identity", "--normalize", "--reference"];
    let bytes = computed(&tensors, &arguments);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(f32s(file.tensor("final_nu").unwrap().data()), [6.0, 3.0]);
}

/// A decay means gated, a beta delta, both gated-delta; with identity and no quotient, unless asked
/// for. With a decay of ln 1/2 and a beta of 1/2 at both tokens: gated: mu_2 = mu_1 / 2 + k_2^T v_2
/// = [[1.5, 2], [8, 10]], o_2 = [9.5, 12]; delta: u_1 = v_1 / 2, mu_1 = [[1.5, 2], [3, 4]], u_2 =
/// (v_2 - [3, 4]) / 2 = [1, 1], o_2 = [5.5, 7]; gated-delta: u_2 = (v_2 - [1.5, 2]) / 2 = [1.75,
/// 2], mu_2 = [[0.75, 1], [3.25, 4]].
#[test]
fn rules_are_implied() {
    let gate = |x: f32| Tensor::f32(&[1, 2, 1], &[x; 2]);
    let (decay, beta) = (("decay", gate(0.5f32.ln())), ("beta", gate(0.5)));
    for (gates, o) in [
        (vec![decay.clone()], [3.0, 4.0, 9.5, 12.0]),
        (vec![beta.clone()], [1.5, 2.0, 5.5, 7.0]),
        (vec![decay, beta], [1.5, 2.0, 4.0, 5.0]),
    ] {
        let tensors = [tiny(), gates].concat();
        let adapter = adapter();
        let on_adapter: Vec<_> =
            adapter.iter().flat_map(|name| ["--adapter", name.as_str()]).collect();
        for arguments in [&["--reference"][..], &["--adapter", "cpu"], &on_adapter] {
            let bytes = computed(&tensors, arguments);
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let found = f32s(file.tensor("o").unwrap().data());
            for (found, expected) in found.iter().zip(o) {
                assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
            }
            assert!(file.tensor("final_nu").is_err());
        }
    }
}

/// One query and key head, two value heads: o has two heads, and mu has one for each.
#[test]
fn grouped_values() {
    let tensors = [
        ("q", Tensor::f32(&[1, 1, 1, 1], &[2.0])),
        ("k", Tensor::f32(&[1, 1, 1, 1], &[3.0])),
        ("v", Tensor::f32(&[1, 1, 2, 1], &[5.0, 7.0])),
        ("decay", Tensor::f32(&[1, 1, 2], &[0.0; 2])),
        ("initial_mu", Tensor::f32(&[1, 2, 1, 1], &[1.0, 2.0])),
    ];
    let bytes = computed(&tensors, &["--reference"]);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (o, mu) = (file.tensor("o").unwrap(), file.tensor("final_mu").unwrap());
    assert_eq!((o.shape(), f32s(o.data())), (&[1, 1, 2, 1][..], vec![32.0, 46.0]));
    assert_eq!((mu.shape(), f32s(mu.data())), (&[1, 2, 1, 1][..], vec![16.0, 23.0]));
}

/// A call without tokens has an empty o, and ends with the state that it began with.
#[test]
fn no_tokens() {
    let empty = Tensor::f32(&[1, 0, 1, 2], &[]);
    let tensors = [
        ("q", empty.clone()),
        ("k", empty.clone()),
        ("v", empty),
        ("initial_mu", Tensor::f32(&[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0])),
    ];
    for arguments in [&PLAIN[..], &PLAIN[..3]] {
        let bytes = computed(&tensors, arguments);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("o").unwrap().shape(), [1, 0, 1, 2]);
        assert_eq!(f32s(file.tensor("final_mu").unwrap().data()), [1.0, 2.0, 3.0, 4.0]);
    }
}

/// `tiny` as two sequences of a token, and an empty one before, between and after them, which
/// leaves its state as it was: o_2 = q_2 (mu_0 + k_2^T v_2) = [5, 6] + [7, 0].
#[test]
fn packed_sequences() {
    let entries = [0, 0, 1, 1, 2, 2];
    let i32s: Vec<u8> = entries.iter().flat_map(|x: &i32| x.to_le_bytes()).collect();
    let i64s: Vec<u8> = entries.iter().flat_map(|x| i64::from(*x).to_le_bytes()).collect();
    let mu: Vec<f32> = [1.0, 0.0, 2.0, 7.0, 3.0].iter().flat_map(|x| [*x, 0.0, 0.0, 0.0]).collect();
    for (dtype, data) in [(Dtype::I32, i32s), (Dtype::I64, i64s)] {
        let mut tensors = tiny();
        tensors.push(("cu_seqlens", Tensor::new(dtype, &[6], &data)));
        tensors.push(("initial_mu", Tensor::f32(&[5, 1, 2, 2], &mu)));
        let bytes = computed(&tensors, &PLAIN);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let o = file.tensor("o").unwrap();
        assert_eq!(o.shape(), &[1, 2, 1, 2]);
        assert_eq!(f32s(o.data()), [3.0, 4.0, 12.0, 6.0]);
        let found = file.tensor("final_mu").unwrap();
        assert_eq!(found.shape(), &[5, 1, 2, 2]);
        let found = f32s(found.data());
        for empty in [0, 2, 4] {
            assert_eq!(found[4 * empty..4 * empty + 4], mu[4 * empty..4 * empty + 4]);
        }
        assert_eq!(found[4..8], [3.0, 4.0, 6.0, 8.0]);
        assert_eq!(found[12..16], [7.0, 0.0, 5.0, 6.0]);
    }
}

#[test]
fn f16_in_f16_out() {
    let tensors: Vec<_> = tiny().into_iter().map(|(name, x)| (name, x.to_f16())).collect();
    let bytes = computed(&tensors, &PLAIN);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let o = file.tensor("o").unwrap();
    assert_eq!(o.dtype(), Dtype::F16);
    let expected: Vec<u8> = BY_HAND.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    assert_eq!(o.data(), expected);
    assert_eq!(file.tensor("final_mu").unwrap().dtype(), Dtype::F32);
}

#[test]
fn bf16_rounds_to_nearest_even() {
    // One token: o = q k v. bf16 has 8 bits: 257 lies between 256 and 258, 259 between 258
    // and 260, and each goes to the neighbour whose last bit is 0.
    let bf16 = |shape: &[usize], numbers: &[f32]| {
        let data: Vec<u8> =
            numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        Tensor::new(Dtype::BF16, shape, &data)
    };
    let tensors = [
        ("q", bf16(&[1, 1, 1, 2], &[1.0, 1.0])),
        ("k", bf16(&[1, 1, 1, 2], &[1.0, 1.0 / 256.0])),
        ("v", bf16(&[1, 1, 1, 2], &[256.0, 258.0])),
    ];
    let bytes = computed(&tensors, &PLAIN);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let o = file.tensor("o").unwrap();
    assert_eq!(o.dtype(), Dtype::BF16);
    // 256 + 1 is a tie; 258 + 1.0078125 is just above one.
    let expected: Vec<u8> =
        [256.0f32, 260.0].iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
    assert_eq!(o.data(), expected);
}

#[test]
fn real_activations_hold() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/minilm-layer0-t512-f16.safetensors");
    let found = run(&["run", path, "--reference", "--verify"]);
    assert_eq!(found.status, 0, "{}", found.stderr);
    assert!(found.stdout.contains("holds"), "{}", found.stdout);
}
