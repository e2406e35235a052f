//! Rows that are not contiguous.

use linear_attention::cpu::{CpuAttention, Tensors};
use linear_attention::shape::{Strides, TensorStrides};
use linear_attention::{Config, Inputs, Output, Shape};

use crate::{Sample, assert_slices_near, plan, with_threads};

/// q, k and v of a token side by side in one slice.
#[test]
fn views_of_one_slice() {
    let config = Config::new(16, 12);
    for (batch, t) in [(2, 50), (1, 3000), (6, 1)] {
        let shape = Shape::new(batch, t, 4).with_kv_heads(2);
        let sample = Sample::new(&config, &shape, 0.5);
        let expected = CpuAttention::new(config.clone()).unwrap().run(&shape, sample.inputs());
        let tokens = (batch * t) as usize;
        let row = |x: &[f32], t: usize| x[x.len() / tokens * t..][..x.len() / tokens].to_vec();
        let of_token =
            |t: usize| [row(&sample.q, t), row(&sample.k, t), row(&sample.v, t)].concat();
        let fused: Vec<f32> = (0..tokens).flat_map(of_token).collect();
        let views = shape.clone().with_strides(TensorStrides::fused(&config, &shape));
        let inputs = Inputs::new(&fused, &fused, &fused);
        let found = CpuAttention::new(config.clone()).unwrap().run(&views, inputs);
        assert_eq!(found.unwrap(), expected.unwrap());
    }
}

/// o in any order of its dimensions, with gaps, which stay as they were; nothing is allocated.
#[test]
fn outputs_anywhere() {
    const GAP: u32 = 3;
    let config = Config::new(8, 7);
    for (batch, t, heads) in [(3u32, 41u32, 4u32), (3, 1, 4), (1, 9, 2), (2, 5, 1)] {
        let shape = Shape::new(batch, t, heads);
        let sample = Sample::new(&config, &shape, 0.5);
        let attention = CpuAttention::new(config.clone()).unwrap();
        let expected = attention.run(&shape, sample.inputs()).unwrap();
        // The sizes of the batch, tokens and heads from the inside out.
        for order in [[2, 1, 0], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2], [0, 1, 2]] {
            let sizes = [batch, t, heads];
            let mut strides = [0; 3];
            let mut reach = 7;
            for dim in order {
                strides[dim] = reach + GAP;
                reach = strides[dim] * sizes[dim];
            }
            let [batch_stride, token, head] = strides;
            let of_o = Strides { offset: 5, batch: batch_stride, token, head };
            let all = TensorStrides { o: of_o, ..TensorStrides::contiguous(&config, &shape) };
            let mut plan = with_threads(3, || plan(&config, &shape.clone().with_strides(all)));
            let mut o = vec![9.0; plan.lens().o as usize + 2];
            let tensors = Tensors::new(&sample.q, &sample.k, &sample.v, &mut o);
            plan.run(tensors).unwrap();
            let mut rows = expected.o.chunks(7);
            for n in 0..batch {
                for t in 0..t {
                    for h in 0..heads {
                        let begin = (5 + n * batch_stride + t * token + h * head) as usize;
                        assert_slices_near(&o[begin..begin + 7], rows.next().unwrap());
                        o[begin..begin + 7].fill(9.0);
                    }
                }
            }
            assert!(o.iter().all(|x| *x == 9.0), "{order:?}");
        }
    }
}

/// Padding between strided rows is zero.
#[test]
fn padded_rows_with_heads_first() {
    let config = Config::new(8, 8);
    let shape = Shape::padded(&[2..9, 0..0, 0..4], 9, 3);
    let shape = shape.clone().with_strides(TensorStrides::heads_first(&config, &shape));
    let sample = Sample::new(&config, &shape, 0.5);
    let mut plan = plan(&config, &shape);
    let mut output = Output::zeros(plan.lens());
    output.o.fill(9.0);
    plan.run(Tensors::of(sample.inputs(), &mut output)).unwrap();
    for (row, o) in output.o.chunks(8).enumerate() {
        let (n, t) = (row / (3 * 9), row % 9);
        let is_valid = [2..9, 0..0, 0..4][n].contains(&t);
        assert_eq!(o.iter().all(|x| *x == 0.0), !is_valid, "row {n}, token {t}");
        assert!(o.iter().all(|x| *x != 9.0));
    }
}
