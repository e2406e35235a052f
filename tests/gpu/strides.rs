//! Rows that are not contiguous, in the caller's own buffers.

use libtest_mimic::Failed;
use linear_attention::error::BindError;
use linear_attention::shape::{Strides, TensorStrides};
use linear_attention::{Error, Inputs, LinearAttention, Shape, Tensors};

use super::Test;
use super::binding::{run_bound, submit, tensor};
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("strides::views_of_one_buffer", views_of_one_buffer),
    ("strides::tokens_before_the_batch", tokens_before_the_batch),
    ("strides::slices", slices),
];

const D: usize = 16;

/// q, k and v of a token side by side in one buffer give the bits that they give apart; prompts and
/// steps.
fn views_of_one_buffer(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    for (batch, t) in [(2, 30), (5, 1)] {
        let shape = Shape::new(batch as u32, t as u32, 4).with_kv_heads(2);
        let tokens = batch * t;
        let [q, k, v] = [(1, 4), (2, 2), (3, 2)].map(|(salt, h)| numbers(tokens * h * D, salt));
        let expected = run_bound(gpu, a, &shape, [&q, &k, &v])?;
        let row = |x: &[f32], t: usize| x[x.len() / tokens * t..][..x.len() / tokens].to_vec();
        let fused: Vec<f32> =
            (0..tokens).flat_map(|t| [row(&q, t), row(&k, t), row(&v, t)].concat()).collect();
        let views = shape.clone().with_strides(TensorStrides::fused(a.config(), &shape));
        let plan = a.plan(&views)?;
        let (one, o) = (tensor(gpu, &fused), tensor(gpu, &vec![f32::NAN; tokens * 4 * D]));
        let scratch = tensor(gpu, &vec![f32::NAN; plan.scratch_size() as usize / 4 + 1]);
        let scratch = || Some(scratch.as_entire_buffer_binding());
        let bound = a.bind(&plan, &Tensors::new(&one, &one, &one, &o), scratch())?;
        let found = submit(gpu, a, &bound, &o)?;
        if found != expected {
            return Err(format!("other bits, T = {t}").into());
        }
        // A written tensor cannot be in the buffer that is bound to be read.
        let o = linear_attention::wgpu::BufferBinding { buffer: &one, offset: 0, size: None };
        let mut tensors = Tensors::new(&one, &one, &one, &one);
        tensors.o = o;
        match a.bind(&plan, &tensors, scratch()) {
            Err(BindError::Overlap { .. } | BindError::SharedBuffer { .. }) => {}
            other => return Err(format!("o among q, k and v: {other:?}").into()),
        }
    }
    Ok(())
}

/// `[T,B,H,D]`, at an offset that no binding may have, and what lies between rows of o is not
/// touched.
fn tokens_before_the_batch(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (batch, t, heads) = (3usize, 20usize, 2usize);
    let shape = Shape::new(batch as u32, t as u32, heads as u32);
    let len = batch * t * heads * D;
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(len, salt));
    let expected = run_bound(gpu, a, &shape, [&q, &k, &v])?;
    let strides = |offset: u32, gap: u32| Strides {
        offset,
        head: D as u32 + gap,
        batch: heads as u32 * (D as u32 + gap),
        token: batch as u32 * heads as u32 * (D as u32 + gap),
    };
    let at = |strides: Strides, [n, t, h]: [usize; 3]| {
        let Strides { offset, batch, token, head } = strides;
        [offset as usize, n * batch as usize, t * token as usize, h * head as usize].iter().sum()
    };
    let rows = || {
        let of = |n: usize| (0..t).flat_map(move |t| (0..heads).map(move |h| [n, t, h]));
        (0..batch).flat_map(of)
    };
    for (offset, gap) in [(4, 0), (3, 0), (8, 4), (1, 3)] {
        let of = strides(offset, gap);
        let all = TensorStrides { q: of, k: of, v: of, o: of };
        let plan = a.plan(&shape.clone().with_strides(all))?;
        let spread = |x: &[f32]| {
            let mut spread = vec![f32::NAN; plan.lens().q as usize];
            for (row, x) in rows().zip(x.chunks(D)) {
                let begin: usize = at(of, row);
                spread[begin..begin + D].copy_from_slice(x);
            }
            spread
        };
        let [q, k, v] = [&q, &k, &v].map(|x| tensor(gpu, &spread(x)));
        let o = tensor(gpu, &vec![7.0; plan.lens().o as usize]);
        let scratch = tensor(gpu, &vec![f32::NAN; plan.scratch_size() as usize / 4 + 1]);
        let scratch = Some(scratch.as_entire_buffer_binding());
        let bound = a.bind(&plan, &Tensors::new(&q, &k, &v, &o), scratch)?;
        let found = submit(gpu, a, &bound, &o)?;
        let mut left = found.clone();
        for (row, expected) in rows().zip(expected.chunks(D)) {
            let begin: usize = at(of, row);
            // Scalar loads may be compiled to other roundings.
            super::properties::close("o", expected, &found[begin..begin + D])?;
            left[begin..begin + D].fill(7.0);
        }
        if left.iter().any(|x| *x != 7.0) {
            return Err(format!("a gap was written, offset {offset}, gap {gap}").into());
        }
    }
    Ok(())
}

/// The same from host slices, which may go on behind the last row, and refusals.
fn slices(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::new(1, 10, 2);
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(10 * 2 * D, salt));
    let expected = a.run(&gpu.queue, &shape, Inputs::new(&q, &k, &v))?;
    let fused: Vec<f32> = (0..10)
        .flat_map(|t| [&q, &k, &v].map(|x| x[t * 2 * D..(t + 1) * 2 * D].to_vec()).concat())
        .collect();
    let views = shape.clone().with_strides(TensorStrides::fused(a.config(), &shape));
    let found = a.run(&gpu.queue, &views, Inputs::new(&fused, &fused, &fused))?;
    if found != expected {
        return Err("other bits".into());
    }
    let refused = a.run(&gpu.queue, &views, Inputs::new(&fused, &fused, &fused[..fused.len() - 1]));
    match refused {
        Err(Error::Len { tensor: "v", .. }) => Ok(()),
        other => Err(format!("a slice that is too short: {other:?}").into()),
    }
}
