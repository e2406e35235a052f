//! Properties that need no golden value.

use libtest_mimic::Failed;
use linear_attention::{Config, FeatureMap, Inputs, LinearAttention, Normalization, Output, Shape};

use super::Test;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("property::cut_anywhere", cut_anywhere),
    ("property::changing_a_token_changes_nothing_before_it", causal),
    ("property::constant_v_gives_that_constant", constant_v),
    ("property::a_common_factor_cancels", common_factor),
    ("property::zero_features_give_zero", zero_features),
    ("property::permuted_batch_permutes_the_output", permuted_batch),
    ("property::same_bits_every_time", same_bits),
    ("property::nan_stays_in_its_sequence", nan_stays),
    ("property::error_does_not_grow_with_t", error_does_not_grow),
    ("property::async_on_any_executor", async_path),
];

const D: usize = 16;

/// Numbers that repeat with no period in sight, between -2 and 2.
pub(crate) fn numbers(len: usize, salt: u32) -> Vec<f32> {
    (0..len as u32)
        .map(|i| {
            let x = (i ^ salt.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
            ((x ^ (x >> 15)).wrapping_mul(0xC2B2_AE35) >> 8) as f32 / (1 << 22) as f32 - 2.0
        })
        .collect()
}

fn run(
    gpu: &Gpu,
    a: &LinearAttention,
    shape: &Shape,
    inputs: Inputs<'_>,
) -> Result<Output, Failed> {
    a.run(&gpu.queue, shape, inputs).map_err(Failed::from)
}

pub(crate) fn close(name: &str, a: &[f32], b: &[f32]) -> Result<(), Failed> {
    let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let far = a.iter().zip(b).position(|(x, y)| (x - y).abs() > 4e-6 * largest || y.is_nan());
    match far {
        Some(i) => Err(Failed::from(format!("{name}[{i}]: {} and {}", a[i], b[i]))),
        None if a.len() == b.len() => Ok(()),
        None => Err(Failed::from(format!("{name}: {} and {} elements", a.len(), b.len()))),
    }
}

fn cut_anywhere(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let t = 75;
    let (q, k, v) = (numbers(t * D, 1), numbers(t * D, 2), numbers(t * D, 3));
    let whole = run(gpu, a, &Shape::new(1, t as u32, 1), Inputs::new(&q, &k, &v))?;
    for cut in [1, 7, 8, 9, 16, 17, 64, 74] {
        let at = cut * D;
        let first = Inputs::new(&q[..at], &k[..at], &v[..at]);
        let first = run(gpu, a, &Shape::new(1, cut as u32, 1), first)?;
        let second =
            Inputs::new(&q[at..], &k[at..], &v[at..]).with_initial_state(&first.mu, &first.nu);
        let second = run(gpu, a, &Shape::new(1, (t - cut) as u32, 1), second)?;
        close("o", &whole.o, &[first.o, second.o].concat())?;
        close("mu", &whole.mu, &second.mu)?;
        close("nu", &whole.nu, &second.nu)?;
    }
    Ok(())
}

fn causal(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let t = 50;
    let shape = Shape::new(1, t as u32, 1);
    let (q, k, v) = (numbers(t * D, 1), numbers(t * D, 2), numbers(t * D, 3));
    let before = run(gpu, a, &shape, Inputs::new(&q, &k, &v))?;
    for token in [1, 15, 16, 33, 49] {
        let (mut q2, mut k2, mut v2) = (q.clone(), k.clone(), v.clone());
        for x in [&mut q2, &mut k2, &mut v2] {
            x[token * D..(token + 1) * D].fill(1.5);
        }
        let after = run(gpu, a, &shape, Inputs::new(&q2, &k2, &v2))?;
        let same =
            before.o[..token * D].iter().zip(&after.o).all(|(x, y)| x.to_bits() == y.to_bits());
        if !same {
            return Err(Failed::from(format!("token {token} reached back")));
        }
        if before.o[token * D..] == after.o[token * D..] {
            return Err(Failed::from(format!("token {token} does not see itself")));
        }
    }
    Ok(())
}

fn constant_v(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let t = 40;
    let (q, k, v) = (numbers(t * D, 1), numbers(t * D, 2), vec![0.75; t * D]);
    let out = run(gpu, a, &Shape::new(1, t as u32, 1), Inputs::new(&q, &k, &v))?;
    // eps takes a little away: as much as eps against the smallest weight.
    match out.o.iter().find(|o| (*o - 0.75).abs() > 1e-5) {
        Some(o) => Err(Failed::from(format!("{o} for 0.75"))),
        None => Ok(()),
    }
}

/// Queries and keys of any size give the average of v, also where F has several blocks, with
/// elements of one row as far apart as f32 has room for.
fn common_factor(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use FeatureMap::{Elu, Exp, ReluSquared};
    const K: usize = 300;
    let t = 9;
    for (map, factors) in [
        (ReluSquared, [(1e10, 1e10), (1e-30, 1e-10)]),
        (Elu, [(-60.0, -60.0), (1e30, -20.0)]),
        (Exp, [(-1000.0, -40.0), (3e38, 0.5)]),
    ] {
        let config = Config::new(K as u32, 1).with_feature_map(map.clone());
        let a = LinearAttention::new(&gpu.device, config)?;
        for (q, k) in factors {
            // The first of each row is q, and the others are far from it.
            let far = if q < 0.0 { 2.0 * q } else { 0.0 };
            let q: Vec<f32> = (0..t * K).map(|i| if i % K == 0 { q } else { far }).collect();
            let v: Vec<f32> = (0..t).map(|i| i as f32).collect();
            let k = vec![k; t * K];
            let inputs = Inputs::new(&q, &k, &v);
            let out = run(gpu, &a, &Shape::new(1, t as u32, 1), inputs)?;
            for (i, o) in out.o.iter().enumerate() {
                let average = i as f32 / 2.0;
                if (o - average).abs() > 1e-5 * (1.0 + average) || o.is_nan() {
                    return Err(format!("{map} of {}: {o} for {average}", q[0]).into());
                }
            }
        }
    }
    Ok(())
}

fn zero_features(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(D as u32, D as u32)
        .with_feature_map(FeatureMap::Relu)
        .with_normalization(Normalization::Sum { eps: 0.0 });
    let a = LinearAttention::new(&gpu.device, config.clone())?;
    let t = 20;
    let (q, v) = (vec![-1.0; t * D], numbers(t * D, 3));
    let out = run(gpu, &a, &Shape::new(1, t as u32, 1), Inputs::new(&q, &q, &v))?;
    if out.o.iter().all(|o| *o == 0.0) { Ok(()) } else { Err(Failed::from("no zero")) }
}

fn permuted_batch(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (t, shape) = (30 * D, Shape::new(2, 30, 1));
    let tensors = [1, 2, 3].map(|salt| numbers(2 * t, salt));
    let swapped = tensors.clone().map(|x| [&x[t..], &x[..t]].concat());
    let [q, k, v] = &tensors;
    let one = run(gpu, a, &shape, Inputs::new(q, k, v))?;
    let [q, k, v] = &swapped;
    let other = run(gpu, a, &shape, Inputs::new(q, k, v))?;
    let back = [&other.o[t..], &other.o[..t]].concat();
    if one.o == back { Ok(()) } else { Err(Failed::from("sequences are not apart")) }
}

fn same_bits(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::new(1, 300, 2);
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(300 * 2 * D, salt));
    let first = run(gpu, a, &shape, Inputs::new(&q, &k, &v))?;
    for _ in 0..10 {
        if run(gpu, a, &shape, Inputs::new(&q, &k, &v))? != first {
            return Err(Failed::from("another run, other bits"));
        }
    }
    Ok(())
}

fn nan_stays(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // Host slices are refused when they are not finite, so the buffers are bound by hand.
    let t = 20 * D;
    let shape = Shape::new(2, 20, 1);
    let [q, k, mut v] = [1, 2, 3].map(|salt| numbers(2 * t, salt));
    // With the same tensors bound: a pipeline that writes a final state may round otherwise.
    let clean = super::binding::run_bound(gpu, a, &shape, [&q, &k, &v])?;
    v[3 * D] = f32::NAN;
    let refused = a.run(&gpu.queue, &shape, Inputs::new(&q, &k, &v));
    if !matches!(refused, Err(linear_attention::Error::NonFinite { tensor: "v", index: 48, .. })) {
        return Err(Failed::from(format!("{refused:?}")));
    }
    let out = super::binding::run_bound(gpu, a, &shape, [&q, &k, &v])?;
    if out[3 * D..t].iter().all(|o| o.is_finite()) {
        return Err(Failed::from("the NaN did not arrive"));
    }
    if out[..3 * D] != clean[..3 * D] || out[t..] != clean[t..] {
        return Err(Failed::from("the NaN left its sequence or went back in time"));
    }
    Ok(())
}

/// All keys positive, which is the worst for a running sum: at a million tokens, o and the state
/// are at most four times as far off as at 4,096.
fn error_does_not_grow(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(4, 4).with_feature_map(FeatureMap::Relu);
    let a = LinearAttention::new(&gpu.device, config.clone())?;
    let errors = |t: usize| -> Result<[f64; 3], Failed> {
        let positive = |salt| -> Vec<f32> {
            numbers(4 * t, salt).iter().map(|x| 0.1 + (x + 2.0) / 4.0).collect()
        };
        let [q, k, v] = [1, 2, 3].map(positive);
        let (shape, inputs) = (Shape::new(1, t as u32, 1), Inputs::new(&q, &k, &v));
        let found = run(gpu, &a, &shape, inputs)?;
        let truth = linear_attention::reference::recurrent(&config, &shape, inputs)?;
        let worst = |truth: &[f64], found: &[f32]| {
            let errors = truth.iter().zip(found).map(|(x, y)| (f64::from(*y) / x - 1.0).abs());
            errors.fold(0.0, f64::max)
        };
        Ok([worst(&truth.o, &found.o), worst(&truth.mu, &found.mu), worst(&truth.nu, &found.nu)])
    };
    let (short, long) = (errors(1 << 12)?, errors(1 << 20)?);
    println!("errors of o, mu, nu at T = 2^12: {short:?}, at 2^20: {long:?}");
    for (tensor, (short, long)) in ["o", "mu", "nu"].iter().zip(short.iter().zip(long)) {
        // Below a few ulp, luck decides.
        if long.is_nan() || long > 4.0 * short.max(2.5e-7) {
            return Err(format!("{tensor}: {short:e} at 2^12, {long:e} at 2^20").into());
        }
    }
    Ok(())
}

fn async_path(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::new(1, 40, 1);
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(40 * D, salt));
    let inputs = Inputs::new(&q, &k, &v);
    let blocking = run(gpu, a, &shape, inputs)?;
    let future = a.run_async(&gpu.queue, &shape, inputs);
    if pollster::block_on(future)? != blocking {
        return Err(Failed::from("another result"));
    }
    // A future that is dropped half-way leaves nothing behind that the next call notices.
    drop(a.run_async(&gpu.queue, &shape, inputs));
    if run(gpu, a, &shape, inputs)? != blocking {
        return Err(Failed::from("a dropped future was noticed"));
    }
    Ok(())
}
