//! Feature maps on the device: numbers at the ends of their range, the future, weights, F in
//! blocks, a caller's own map.

use libtest_mimic::Failed;
use linear_attention::error::{BindError, WeightsError};
use linear_attention::feature_map::{
    CustomMap, WeightHeads, Weights, WeightsBinding, WeightsBuffer,
};
use linear_attention::tuning::Tuning;
use linear_attention::verify::{self, Options};
use linear_attention::wgpu::DeviceType;
use linear_attention::{
    Config, Error, FeatureMap, Inputs, LinearAttention, Normalization, Output, Shape, reference,
};

use super::Test;
use super::properties::{close, numbers};
use crate::adapters::Gpu;
use crate::cases::every_other;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("maps::large_numbers", large_numbers),
    ("maps::exp_of_far_queries", exp_of_far_queries),
    ("maps::no_future", no_future),
    ("maps::cut_anywhere", cut_anywhere),
    ("maps::weights_drawn_again", weights_drawn_again),
    ("maps::weights_that_do_not_fit", weights_that_do_not_fit),
    ("maps::favor_comes_near_softmax", favor_comes_near_softmax),
    ("maps::a_map_of_the_callers_own", own_map),
];

const D: usize = 16;

fn config(map: &str) -> Config {
    let mut config = Config::new(D as u32, D as u32);
    config.feature_map = map.parse().unwrap_or_default();
    if !config.is_non_negative() {
        config.normalization = Normalization::None;
    }
    config
}

fn run(
    gpu: &Gpu,
    attention: &LinearAttention,
    shape: &Shape,
    inputs: Inputs<'_>,
) -> Result<Output, Failed> {
    attention.run(&gpu.queue, shape, inputs).map_err(Failed::from)
}

/// The pipelines of a test so far, which cost more than everything else in it.
#[derive(Default)]
struct Compiled(Vec<LinearAttention>);

impl Compiled {
    /// The choice for a device of this type, on this device.
    fn get(
        &mut self,
        gpu: &Gpu,
        config: &Config,
        device_type: DeviceType,
    ) -> Result<&LinearAttention, Failed> {
        let tuning = Tuning::new(config, &gpu.device.limits(), device_type)?;
        let is_it = |a: &LinearAttention| a.config() == config && a.tuning().compiles_like(&tuning);
        if let Some(index) = self.0.iter().position(is_it) {
            return Ok(&self.0[index]);
        }
        let options = linear_attention::Options::default().with_tuning(tuning);
        self.0.push(LinearAttention::with_options(&gpu.device, config.clone(), &options)?);
        Ok(&self.0[self.0.len() - 1])
    }
}

/// Elements whose e^x is beyond f32, or whose terms cancel: each against f64 as a whole, and each
/// output finite.
fn large_numbers(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let extremes = [0.0, -0.0, 88.0, -88.0, 100.0, -100.0, 17.0, -17.0, -18.0, 1e4, -1e4, 1e-30];
    let t = 24;
    let mut compiled = Compiled::default();
    // Keys of exp have a limit, queries none. The largest come first, last and in the middle.
    let problems = [
        ("exp", 20.0, 16, true),
        ("exp", 20.0, 16, false),
        ("exp", 20.0, 68, false),
        ("exp", 20.0, 68, true),
        ("sigmoid", 1e4, 16, true),
        ("sigmoid", 1e4, 16, false),
        ("softmax", 1e4, 16, false),
        ("softmax", 1e4, 16, true),
    ];
    for (map, keys_up_to, wide, normalized) in every_other("maps::large_numbers", problems) {
        let q: Vec<f32> = (0..t * wide).map(|i| extremes[(i * 7 + i / wide) % 12]).collect();
        let k: Vec<f32> = q.iter().rev().map(|x| x.clamp(-keys_up_to, keys_up_to)).collect();
        let v = numbers(t * 4, 3);
        let mut config = config(map);
        (config.key_dim, config.value_dim) = (wide as u32, 4);
        let mut q = q.clone();
        if map == "exp" {
            // Beyond 709 f64 has no e^x either.
            q.iter_mut().for_each(|x| *x = x.clamp(-600.0, 600.0));
        }
        if !normalized {
            config.normalization = Normalization::None;
            // Or the outputs themselves would be infinite.
            q.iter_mut().for_each(|x| *x = x.clamp(-60.0, 60.0));
        }
        for shape in [Shape::new(1, t as u32, 1), Shape::new(6, 4, 1)] {
            let inputs = Inputs::new(&q, &k, &v);
            let exact = reference::recurrent(&config, &shape, inputs)?;
            // The layouts that GPUs and CPU adapters choose.
            let found = [DeviceType::Other, DeviceType::Cpu].map(|device_type| {
                run(gpu, compiled.get(gpu, &config, device_type)?, &shape, inputs)
            });
            let [first, second] = found;
            let found = [first?.o, second?.o].concat();
            let exact = [exact.o.clone(), exact.o].concat();
            for (row, (found, exact)) in found.chunks(4).zip(exact.chunks(4)).enumerate() {
                let largest = exact.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
                for (found, exact) in found.iter().zip(exact) {
                    let error = (f64::from(*found) - exact).abs() / largest;
                    // e^100 loses 100 ulp where 100 is rounded, in any order of operations.
                    if error.is_nan() || error > 1e-4 {
                        let message = format!("{map} {wide}, row {row}: {found} and {exact}");
                        return Err(Failed::from(message));
                    }
                }
            }
        }
    }
    Ok(())
}

/// eps weighs what it weighs however far a query is from 0, and what overflows is the result alone.
fn exp_of_far_queries(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let wide = |first: f32, rest: f32| -> Vec<f32> {
        (0..128).map(|i| if i < 64 { first } else { rest }).collect()
    };
    let mut compiled = Compiled::default();
    // q, k, normalised; v = 1.
    let problems = [
        (vec![-90.0], vec![70.0], true),
        (vec![-100.0], vec![85.0], true),
        (vec![90.0], vec![-10.0], false),
        (vec![-90.0], vec![10.0], false),
        (wide(0.0, 39.0), wide(55.0, 55.0), true),
        (wide(39.0, 0.0), wide(80.0, 80.0), true),
        (wide(-60.0, 3.0), wide(1.0, -1.0), true),
    ];
    for (q, k, normalized) in problems {
        let mut config = Config::new(q.len() as u32, 1);
        config.feature_map = FeatureMap::Exp;
        if !normalized {
            config.normalization = Normalization::None;
        }
        // Three tokens of one row: a step for one layout, and 20 of it for the other stages.
        for t in [3, 20] {
            let (q, k, v) = (q.repeat(t), k.repeat(t), vec![1.0; t]);
            let (shape, inputs) = (Shape::new(1, t as u32, 1), Inputs::new(&q, &k, &v));
            let exact = reference::recurrent(&config, &shape, inputs)?.o;
            for device_type in [DeviceType::Other, DeviceType::Cpu] {
                let attention = compiled.get(gpu, &config, device_type)?;
                let found = run(gpu, attention, &shape, inputs)?.o;
                for (found, exact) in found.iter().zip(&exact) {
                    let error = (f64::from(*found) - exact).abs() / exact.abs();
                    if error.is_nan() || error > 1e-4 {
                        let of = format!("q {}, k {}", q[0], k[0]);
                        return Err(Failed::from(format!("{of}: {found} and {exact}")));
                    }
                }
            }
        }
    }
    Ok(())
}

/// A token later on changes no bit of an output before it, however large it is.
fn no_future(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let (t, cut) = (40, 29);
    let (q, k, v) = (numbers(t * D, 1), numbers(t * D, 2), numbers(t * D, 3));
    let (mut q2, mut k2) = (q.clone(), k.clone());
    q2[cut * D..].fill(20.0);
    k2[cut * D..].fill(20.0);
    let maps =
        ["exp", "softmax", "favor:32", "favor-hyperbolic:32", "hedgehog", "dpfp:2", "taylor"];
    for map in every_other("maps::no_future", maps) {
        let config = config(map);
        let weights = Weights::sample(&config, 4)?;
        let a = LinearAttention::new(&gpu.device, config)?;
        let shape = Shape::new(1, t as u32, 1);
        let of = |q: &[f32], k: &[f32]| {
            run(gpu, &a, &shape, Inputs::new(q, k, &v).with_weights(weights.as_ref()))
        };
        let (before, after) = (of(&q, &k)?, of(&q2, &k2)?);
        if before.o[..cut * D] != after.o[..cut * D] || before.o[cut * D..] == after.o[cut * D..] {
            return Err(Failed::from(format!(
                "{map}: the future was seen, or the present was not"
            )));
        }
    }
    Ok(())
}

/// The state goes on where F is in blocks as well.
fn cut_anywhere(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let t = 40;
    let (q, k, v) = (numbers(t * D, 1), numbers(t * D, 2), numbers(t * D, 3));
    for map in every_other("maps::cut_anywhere", ["taylor", "t2r:300"]) {
        let config = config(map);
        let weights = Weights::sample(&config, 4)?;
        let weights = weights.as_ref();
        let a = LinearAttention::new(&gpu.device, config)?;
        let of = |tokens: std::ops::Range<usize>, state: Option<&Output>| {
            let rows = tokens.start * D..tokens.end * D;
            let inputs = Inputs::new(&q[rows.clone()], &k[rows.clone()], &v[rows]);
            let mut inputs = inputs.with_weights(weights);
            if let Some(state) = state {
                inputs = inputs.with_initial_state(&state.mu, &state.nu);
            }
            run(gpu, &a, &Shape::new(1, tokens.len() as u32, 1), inputs)
        };
        let whole = of(0..t, None)?;
        for cut in [1, 16, 39] {
            let first = of(0..cut, None)?;
            let second = of(cut..t, Some(&first))?;
            close("o", &whole.o, &[first.o, second.o].concat())?;
            close("mu", &whole.mu, &second.mu)?;
            close("nu", &whole.nu, &second.nu)?;
        }
    }
    Ok(())
}

/// Weights written anew take effect with the next call, on the same binding.
fn weights_drawn_again(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let (device, queue) = (&gpu.device, &gpu.queue);
    let config = config("favor:32");
    let draw = |seed| Weights::sample(&config, seed).map(|weights| weights.unwrap_or_default());
    let buffer = WeightsBuffer::new(device, &config, &draw(1)?)?;
    let (q, k, v) = (numbers(8 * D, 1), numbers(8 * D, 2), numbers(8 * D, 3));
    let shape = Shape::new(1, 8, 1);
    let attention = LinearAttention::new(device, config.clone())?;
    let plan = attention.plan(&shape)?;
    let [q_buffer, k_buffer, v_buffer, o] =
        [&q, &k, &v, &vec![f32::NAN; 8 * D]].map(|x| super::binding::tensor(gpu, x));
    let mut tensors = linear_attention::Tensors::new(&q_buffer, &k_buffer, &v_buffer, &o);
    tensors.weights = Some(buffer.binding());
    let scratch =
        super::binding::tensor(gpu, &vec![0.0; (plan.scratch_size() / 4).max(1) as usize]);
    let bound = attention.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
    for seed in [1, 2] {
        buffer.write(queue, &draw(seed)?)?;
        let found = super::binding::submit(gpu, &attention, &bound, &o)?;
        let weights = draw(seed)?;
        let inputs = Inputs::new(&q, &k, &v).with_weights(&weights);
        let exact = reference::recurrent(&config, &shape, inputs)?;
        let exact: Vec<f32> = exact.o.iter().map(|x| *x as f32).collect();
        close(&format!("o of seed {seed}"), &exact, &found[..exact.len()])?;
    }
    // Of other heads than those that are bound.
    let own = Weights::apart(draw(1)?.keys, draw(1)?.keys);
    match buffer.write(queue, &own) {
        Err(WeightsError::Heads { what: "queries", actual: 1, .. }) => Ok(()),
        other => Err(Failed::from(format!("expected other heads to be refused, found {other:?}"))),
    }
}

fn weights_that_do_not_fit(gpu: &Gpu, elu: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::new(1, 4, 2);
    let x = numbers(4 * 2 * D, 1);
    let buffer = super::binding::tensor(gpu, &x);
    let o = super::binding::tensor(gpu, &x);
    let scratch = super::binding::tensor(gpu, &[0.0; 64]);
    let config = config("t2r:8");
    let t2r = LinearAttention::new(&gpu.device, config.clone())?;
    let weights = WeightsBuffer::new(
        &gpu.device,
        &config,
        &Weights::sample(&config, 1)?.unwrap_or_default(),
    )?;
    let bind = |attention: &LinearAttention, weights: Option<WeightsBinding<'_>>| {
        let mut tensors = linear_attention::Tensors::new(&buffer, &buffer, &buffer, &o);
        tensors.weights = weights;
        let plan = attention.plan(&shape)?;
        let scratch = Some(scratch.as_entire_buffer_binding());
        attention.bind(&plan, &tensors, scratch).map_err(Error::from)
    };
    let whole = weights.binding();
    let of =
        |keys, queries| WeightsBinding::new(whole.buffer.clone(), WeightHeads::new(keys, queries));
    let refused = |found: Result<_, Error>| match found {
        Err(Error::Bind(error)) => Ok(error),
        other => Err(Failed::from(format!("expected a refusal, found {:?}", other.is_ok()))),
    };
    let what = "keys";
    let expected = [
        (refused(bind(&t2r, None))?, BindError::Weights(WeightsError::Missing { what })),
        (refused(bind(elu, Some(of(1, 0))))?, BindError::Unexpected { tensor: "weights" }),
        (
            refused(bind(&t2r, Some(of(2, 0))))?,
            // [16 + 1, 8] numbers of each head.
            BindError::TooSmall { tensor: "weights", required: 2 * 17 * 8 * 4, actual: 17 * 8 * 4 },
        ),
        (
            refused(bind(&t2r, Some(of(3, 0))))?,
            BindError::Weights(WeightsError::Heads {
                what,
                required: "1 or 2".to_owned(),
                actual: 3,
            }),
        ),
    ];
    for (found, expected) in expected {
        if found != expected {
            return Err(Failed::from(format!("expected {expected}, found {found}")));
        }
    }
    bind(&t2r, Some(whole)).map(|_| ()).map_err(Failed::from)
}

/// On the device as in tests/feature_maps, with F in 8 blocks.
fn favor_comes_near_softmax(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let t = 48;
    // |q| |k| / K^(1/2) is 1.
    let rows = |salt| -> Vec<f32> {
        let x = numbers(t * D, salt);
        let of_length_2 = |row: &[f32]| -> Vec<f32> {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(|x| 2.0 * x / length).collect()
        };
        x.chunks(D).flat_map(of_length_2).collect()
    };
    let (q, k, v) = (rows(1), rows(2), rows(3));
    let shape = Shape::new(1, t as u32, 1);
    let config = config("favor:1024");
    let weights = Weights::sample(&config, 11)?.unwrap_or_default();
    let inputs = Inputs::new(&q, &k, &v).with_weights(&weights);
    let found = run(gpu, &LinearAttention::new(&gpu.device, config.clone())?, &shape, inputs)?.o;
    let exact = reference::softmax(&config, &shape, inputs)?;
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(&exact).map(|(a, b)| square(f64::from(*a) - b)).sum();
    let error = (error / exact.iter().map(|x| square(*x)).sum::<f64>()).sqrt();
    if error < 0.1 { Ok(()) } else { Err(Failed::from(format!("{error} off softmax"))) }
}

/// The harness on a map of the caller's own: right, and caught where the closure says otherwise.
fn own_map(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let wgsl = "fn phi(row: Row, feature: u32) -> f32 {
        let a = x(row, feature);
        return a * a + 0.125 * y(row, feature / 3u) * y(row, feature / 3u);
    }";
    let map = |factor: f64| {
        CustomMap::new("squares", wgsl, 9, move |x, y, features| {
            for (f, feature) in features.iter_mut().enumerate() {
                *feature = x[f] * x[f] + factor * y[f / 3] * y[f / 3];
            }
        })
        .map(|map| map.with_projections(3).non_negative())
    };
    for (factor, is_right) in [(0.125, true), (0.25, false)] {
        let mut options = Options::default();
        let config = Config::new(9, 7).with_feature_map(FeatureMap::Custom(map(factor)?.into()));
        options.config = Some(config);
        let report = verify::run(&gpu.device, &gpu.queue, &options);
        let compared = report.rows.iter().all(|row| row.message.is_empty());
        if !compared || report.rows.len() < 15 || report.passed() != is_right {
            return Err(Failed::from(format!("factor {factor}: {:?}", report.rows)));
        }
    }
    Ok(())
}
