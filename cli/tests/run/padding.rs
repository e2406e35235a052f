//! Padded batches: each row gives what its valid tokens alone give, and rows of padding are zero.

use safetensors::{Dtype, SafeTensors};

use crate::common::{Tensor, adapter, computed, encode, f32s, refused_file, tiny};

const TOKENS: usize = 6;
/// The valid tokens of each row.
const VALID: [std::ops::Range<usize>; 4] = [2..6, 0..3, 0..0, 1..5];

/// Numbers of `[rows,TOKENS,H,D]`, NaN in the padding.
fn rows(heads: usize, width: usize, valid: &[std::ops::Range<usize>]) -> Vec<f32> {
    let row = heads * width;
    let number = |i: usize| {
        let (n, t) = (i / row / TOKENS, i / row % TOKENS);
        if valid[n].contains(&t) { ((i * 7919 % 101) as f32) / 50.0 - 1.0 } else { f32::NAN }
    };
    (0..valid.len() * TOKENS * row).map(number).collect()
}

fn mask(dtype: Dtype) -> Tensor {
    let ones = VALID.iter().flat_map(|valid| (0..TOKENS).map(|t| u8::from(valid.contains(&t))));
    let size = if dtype == Dtype::I64 { 8 } else { 4 };
    let data: Vec<u8> = match dtype {
        Dtype::U8 => ones.collect(),
        _ => ones.flat_map(|x| [vec![x], vec![0; size - 1]].concat()).collect(),
    };
    Tensor::new(dtype, &[VALID.len(), TOKENS], &data)
}

/// The last tokens of a row's tensor are the valid ones of row n.
fn alone(tensor: &[f32], n: usize) -> Vec<f32> {
    let row = tensor.len() / VALID.len() / TOKENS;
    let valid = VALID[n].clone();
    tensor[(n * TOKENS + valid.start) * row..(n * TOKENS + valid.end) * row].to_vec()
}

#[test]
fn rows_of_a_padded_batch() {
    let [q, k, v] = [rows(2, 4, &VALID), rows(1, 4, &VALID), rows(1, 3, &VALID)];
    let (decay, beta) = (rows(1, 1, &VALID), rows(1, 1, &VALID));
    let decay: Vec<f32> = decay.iter().map(|x| -x.abs()).collect();
    let beta: Vec<f32> = beta.iter().map(|x| x.abs()).collect();
    let adapter = adapter();
    let mut engines = vec![vec!["--reference"], vec!["--adapter", "cpu"]];
    engines.extend(adapter.as_ref().map(|name| vec!["--adapter", name]));
    for (dtype, has_gates, engine) in [
        (Dtype::I64, false, &engines[0]),
        (Dtype::I32, true, &engines[0]),
        (Dtype::U8, false, &engines[1]),
        (Dtype::I64, true, &engines[1]),
        (Dtype::I32, false, &engines[engines.len() - 1]),
        (Dtype::U8, true, &engines[engines.len() - 1]),
    ] {
        let file = |n: usize, t: usize, of: &dyn Fn(&[f32]) -> Vec<f32>| {
            let mut tensors = vec![
                ("q", Tensor::f32(&[n, t, 2, 4], &of(&q))),
                ("k", Tensor::f32(&[n, t, 1, 4], &of(&k))),
                ("v", Tensor::f32(&[n, t, 1, 3], &of(&v))),
            ];
            if has_gates {
                tensors.push(("decay", Tensor::f32(&[n, t, 1], &of(&decay))));
                tensors.push(("beta", Tensor::f32(&[n, t, 1], &of(&beta))));
            }
            tensors
        };
        let mut padded = file(VALID.len(), TOKENS, &<[f32]>::to_vec);
        padded.push(("attention_mask", mask(dtype)));
        let found = computed(&padded, engine);
        let found = SafeTensors::deserialize(&found).unwrap();
        let numbers = |file: &SafeTensors<'_>, name| f32s(file.tensor(name).unwrap().data());
        let (o, mu) = (numbers(&found, "o"), numbers(&found, "final_mu"));
        for (n, valid) in VALID.iter().enumerate() {
            let expected = computed(&file(1, valid.len(), &|all| alone(all, n)), engine);
            let expected = SafeTensors::deserialize(&expected).unwrap();
            let close = |found: &[f32], expected: &[f32]| {
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-5, "{engine:?}: {found}, {expected}");
                }
            };
            close(&alone(&o, n), &numbers(&expected, "o"));
            let len = mu.len() / VALID.len();
            close(&mu[n * len..(n + 1) * len], &numbers(&expected, "final_mu"));
            let of_padding = (0..TOKENS).filter(|t| !valid.contains(t));
            for t in of_padding {
                assert!(o[(n * TOKENS + t) * 6..][..6].iter().all(|x| x.to_bits() == 0));
            }
        }
    }
}

#[test]
fn what_is_no_padding() {
    let with = |name, tensor| encode(&[tiny(), vec![(name, tensor)]].concat());
    let ones = |shape: &[usize]| Tensor::new(Dtype::U8, shape, &vec![1; shape.iter().product()]);
    let line = refused_file(&with("attention_mask", ones(&[2, 1])), &["--reference"]);
    assert!(line.contains("tensor attention_mask: expected shape [1, 2], found [2, 1]"), "{line}");
    let seqlens = Tensor::new(Dtype::I32, &[2], &[0, 0, 0, 0, 2, 0, 0, 0]);
    let both = [tiny(), vec![("attention_mask", ones(&[1, 2])), ("cu_seqlens", seqlens)]].concat();
    let line = refused_file(&encode(&both), &["--reference"]);
    assert!(line.contains("tensor attention_mask: expected none beside cu_seqlens"), "{line}");
    let three = |name| (name, Tensor::zeros(&[1, 3, 1, 1]));
    let mut hole = vec![three("q"), three("k"), three("v")];
    hole.push(("attention_mask", Tensor::new(Dtype::U8, &[1, 3], &[1, 0, 1])));
    let line = refused_file(&encode(&hole), &["--reference"]);
    assert!(line.contains("row 0, token 1: expected padding at either end"), "{line}");
}
