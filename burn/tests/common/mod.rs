//! The same formula in Burn's own tensor operations, token by token, and cases to compare it on.
#![allow(dead_code, reason = "not every test has use for all of it")]

use burn::tensor::{Device, Tensor, TensorData, activation};
use linear_attention_burn::update_rule::{Beta, Decay, DecayDims, UpdateRule};
use linear_attention_burn::{Config, FeatureMap, Inputs};

/// A config with the sizes of a call.
pub(crate) struct Case {
    pub name: &'static str,
    pub config: Config,
    pub batch: usize,
    pub seq_len: usize,
    /// H, G and E.
    pub heads: [usize; 3],
    pub has_initial_state: bool,
    /// Heads that keys and queries have weights of the map of.
    pub weight_heads: [usize; 2],
}

/// The tensors of a call, in host memory.
#[derive(Clone)]
pub(crate) struct Data {
    pub q: TensorData,
    pub k: TensorData,
    pub v: TensorData,
    pub decay: Option<TensorData>,
    pub beta: Option<TensorData>,
    pub initial_state: Option<TensorData>,
    /// W and b of keys and of queries.
    pub weights: [Option<[TensorData; 2]>; 2],
    /// The factors with which o and the final state are in the loss.
    pub of_o: TensorData,
    pub of_state: TensorData,
}

/// The tensors of a call on a device.
#[derive(Clone)]
pub(crate) struct Call {
    pub q: Tensor<4>,
    pub k: Tensor<4>,
    pub v: Tensor<4>,
    /// `[E]`, `[B,T,E]` and `[B,T,E,F]`, of which there is one.
    pub decay: (Option<Tensor<1>>, Option<Tensor<3>>, Option<Tensor<4>>),
    pub beta: Option<Tensor<3>>,
    pub initial_state: Option<Tensor<2>>,
    pub key_weights: Option<(Tensor<3>, Tensor<2>)>,
    pub query_weights: Option<(Tensor<3>, Tensor<2>)>,
}

pub(crate) fn cases() -> Vec<Case> {
    let per_head = || Decay::per_head();
    let case = |name, config: Config, heads, has_initial_state| {
        let config = config.with_scale(0.3);
        let weight_heads = [0, 0];
        Case { name, config, batch: 2, seq_len: 19, heads, has_initial_state, weight_heads }
    };
    let weights = |name, config: Config, heads, weight_heads| {
        let case = case(name, config, heads, true);
        Case { weight_heads, ..case }
    };
    let map = |config: Config, map| config.with_feature_map(map);
    let hedgehog = || FeatureMap::Hedgehog;
    let of = |rule| Config::of_rule(8, 12, rule);
    let l2 = |config: Config| config.with_l2_norm(true);
    let silu = |config: Config| config.with_feature_map(FeatureMap::Silu);
    vec![
        case("linear", of(UpdateRule::Linear), [2, 2, 2], false),
        case("linear, grouped", of(UpdateRule::Linear), [4, 2, 2], true),
        case("gated, constant", of(UpdateRule::Gated(Decay::constant())), [2, 2, 2], true),
        case("gated, per head", of(UpdateRule::Gated(per_head())), [4, 1, 2], true),
        case("gated, per row", silu(of(UpdateRule::Gated(Decay::per_row()))), [2, 2, 2], false),
        case("delta", l2(of(UpdateRule::Delta(Beta::per_head()))), [2, 2, 2], true),
        case("delta, shared beta", l2(of(UpdateRule::Delta(Beta::shared()))), [2, 1, 4], false),
        case(
            "gated-delta",
            l2(of(UpdateRule::GatedDelta(per_head(), Beta::per_head()))),
            [2, 2, 4],
            true,
        ),
        case(
            "gated-delta, per row",
            l2(of(UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head()))),
            [2, 2, 2],
            false,
        ),
        // Odd widths and numbers of projections, and heads with weights of their own, of groups,
        // and shared.
        weights(
            "t2r",
            map(Config::new(7, 12), FeatureMap::T2r { features: 10 }),
            [4, 2, 2],
            [2, 4],
        ),
        weights("hedgehog", map(of(UpdateRule::Gated(per_head())), hedgehog()), [2, 2, 2], [1, 0]),
        weights(
            "product, delta",
            map(
                l2(Config::of_rule(6, 5, UpdateRule::Delta(Beta::per_head()))),
                FeatureMap::Product { features: 6 },
            ),
            [2, 1, 4],
            [1, 2],
        ),
        // A query that reads value heads of several key heads, and has the weights of each.
        weights("hedgehog, crossed", map(of(UpdateRule::Linear), hedgehog()), [1, 2, 4], [2, 0]),
    ]
}

impl Case {
    fn output_heads(&self) -> usize {
        self.heads[0].max(self.heads[2])
    }

    pub(crate) fn state_len(&self) -> usize {
        let width = self.config.value_dim as usize + usize::from(self.config.is_normalized());
        self.heads[2] * self.config.features() as usize * width
    }

    pub(crate) fn data(&self) -> Data {
        let [h, g, e] = self.heads;
        let (b, t) = (self.batch, self.seq_len);
        let (key_dim, value_dim) = (self.config.key_dim as usize, self.config.value_dim as usize);
        let rule = self.config.update_rule;
        let waves = |dims: &[usize], step: f32, of: fn(f32) -> f32| {
            let len: usize = dims.iter().product();
            let x: Vec<f32> = (0..len).map(|i| of((i as f32 * step + step).sin())).collect();
            TensorData::new(x, dims.to_vec())
        };
        let decay = rule.decay().map(|decay| match decay.dims {
            DecayDims::Constant => vec![e],
            DecayDims::PerRow => vec![b, t, e, self.config.features() as usize],
            _ => vec![b, t, e],
        });
        let affine = |map: &FeatureMap, heads: usize, step: f32| {
            let rows = map.projections(self.config.key_dim) as usize;
            let weight = waves(&[heads, rows, key_dim], step, |x| 0.7 * x);
            (heads > 0).then(|| [weight, waves(&[heads, rows], 1.3 * step, |x| 0.3 * x)])
        };
        let [of_keys, of_queries] = self.weight_heads;
        let weights = [
            affine(self.config.key_map(), of_keys, 0.91),
            affine(self.config.query_map(), of_queries, 1.17),
        ];
        let beta = rule.beta().map(|beta| if beta == Beta::shared() { 1 } else { e });
        Data {
            q: waves(&[b, t, h, key_dim], 0.37, |x| x),
            k: waves(&[b, t, g, key_dim], 0.61, |x| x),
            v: waves(&[b, t, e, value_dim], 0.23, |x| x),
            decay: decay.map(|dims| waves(&dims, 0.41, |x| -0.3 - 0.25 * x)),
            beta: beta.map(|heads| waves(&[b, t, heads], 0.83, |x| 0.5 + 0.4 * x)),
            initial_state: self
                .has_initial_state
                .then(|| waves(&[b, self.state_len()], 0.71, |x| 0.6 + 0.5 * x)),
            weights,
            of_o: waves(&[b, t, self.output_heads(), value_dim], 0.53, |x| x),
            of_state: waves(&[b, self.state_len()], 0.47, |x| 0.1 * x),
        }
    }
}

impl Data {
    pub(crate) fn to(&self, device: &Device, requires_grad: bool) -> Call {
        fn tensor<const D: usize>(x: &TensorData, device: &Device, requires: bool) -> Tensor<D> {
            let tensor = Tensor::from_data(x.clone(), device);
            if requires { tensor.require_grad() } else { tensor }
        }
        let weights = |weights: &Option<[TensorData; 2]>| {
            let [weight, bias] = weights.as_ref()?;
            Some((tensor(weight, device, requires_grad), tensor(bias, device, requires_grad)))
        };
        let rank = self.decay.as_ref().map(TensorData::rank);
        let decay = self.decay.as_ref();
        Call {
            q: tensor(&self.q, device, requires_grad),
            k: tensor(&self.k, device, requires_grad),
            v: tensor(&self.v, device, requires_grad),
            decay: (
                decay.filter(|_| rank == Some(1)).map(|x| tensor(x, device, requires_grad)),
                decay.filter(|_| rank == Some(3)).map(|x| tensor(x, device, requires_grad)),
                decay.filter(|_| rank == Some(4)).map(|x| tensor(x, device, requires_grad)),
            ),
            beta: self.beta.as_ref().map(|x| tensor(x, device, requires_grad)),
            initial_state: self.initial_state.as_ref().map(|x| tensor(x, device, requires_grad)),
            key_weights: weights(&self.weights[0]),
            query_weights: weights(&self.weights[1]),
        }
    }
}

impl Call {
    pub(crate) fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::new(self.q.clone(), self.k.clone(), self.v.clone());
        let (constant, per_head, per_row) = self.decay.clone();
        if let Some(decay) = constant {
            inputs = inputs.with_decay(decay);
        }
        if let Some(decay) = per_head {
            inputs = inputs.with_decay(decay);
        }
        if let Some(decay) = per_row {
            inputs = inputs.with_decay(decay);
        }
        if let Some(beta) = self.beta.clone() {
            inputs = inputs.with_beta(beta);
        }
        if let Some(state) = self.initial_state.clone() {
            inputs = inputs.with_initial_state(state);
        }
        if let Some((weight, bias)) = self.key_weights.clone() {
            inputs = inputs.with_key_weights(weight, Some(bias));
        }
        if let Some((weight, bias)) = self.query_weights.clone() {
            inputs = inputs.with_query_weights(weight, Some(bias));
        }
        inputs
    }
}

/// φ of rows `[B,T,heads,K]`, as far as the cases have it, with the weights of these heads or of
/// all.
fn phi(config: &Config, x: Tensor<4>, weights: Option<&(Tensor<3>, Tensor<2>)>) -> Tensor<4> {
    let x = match config.l2_norm {
        true => x.clone() / (x.square().sum_dim(3) + 1e-6).sqrt(),
        false => x,
    };
    match config.feature_map {
        FeatureMap::Elu => x.clone().clamp_max(0.0).exp() + x.clamp_min(0.0),
        FeatureMap::Silu => x.clone() * activation::sigmoid(x),
        FeatureMap::Identity => x,
        FeatureMap::T2r { .. } => activation::relu(project(x, weights)),
        FeatureMap::Hedgehog => {
            let y = project(x, weights);
            Tensor::cat(vec![activation::softmax(y.clone(), 3), activation::softmax(-y, 3)], 3)
        }
        FeatureMap::Product { features } => {
            let (y, f) = (project(x, weights), features as usize);
            let [b, t, heads, rows] = y.dims();
            let half = |rows: std::ops::Range<usize>| y.clone().slice([0..b, 0..t, 0..heads, rows]);
            half(0..f) * half(f..rows)
        }
        _ => unreachable!("no case has it"),
    }
}

/// y = W x + b.
fn project(x: Tensor<4>, weights: Option<&(Tensor<3>, Tensor<2>)>) -> Tensor<4> {
    let (weight, bias) = weights.unwrap();
    let [of, rows, width] = weight.dims();
    let [b, t, heads, _] = x.dims();
    let weight = weight.clone().reshape([1, 1, of, rows, width]);
    let x = x.reshape([b, t, heads, 1, width]);
    let y = (x * weight).sum_dim(4).reshape([b, t, heads, rows]);
    y + bias.clone().reshape([1, 1, of, rows])
}

/// Each head `n` times.
fn repeat(x: Tensor<4>, n: usize) -> Tensor<4> {
    let [b, t, heads, width] = x.dims();
    x.unsqueeze_dim::<5>(3).repeat_dim(3, n).reshape([b, t, heads * n, width])
}

/// o and the final state, by the recurrence.
pub(crate) fn reference(config: &Config, call: &Call) -> (Tensor<4>, Tensor<2>) {
    let device = call.q.device();
    let [b, t, h, _] = call.q.dims();
    let [_, _, e, v_dim] = call.v.dims();
    let (g, o_heads) = (call.k.dims()[2], h.max(e));
    let k = repeat(phi(config, call.k.clone(), call.key_weights.as_ref()), e / g);
    let q = match (&call.query_weights, &call.key_weights) {
        // The weights of the key head that a query reads through its value head.
        (None, Some((weight, bias))) => {
            let heads = weight.dims()[0];
            let of = |o: usize| if heads == 1 { 0 } else { o * e / o_heads / (e / g) };
            let of: Vec<usize> = (0..o_heads).map(of).collect();
            let pick = |x: Tensor<3>| {
                let [_, rows, width] = x.dims();
                Tensor::cat(
                    of.iter().map(|n| x.clone().slice([*n..n + 1, 0..rows, 0..width])).collect(),
                    0,
                )
            };
            let picked = (pick(weight.clone()), pick(bias.clone().unsqueeze_dim(2)).squeeze_dim(2));
            phi(config, repeat(call.q.clone(), o_heads / h), Some(&picked))
        }
        (weights, _) => repeat(phi(config, call.q.clone(), weights.as_ref()), o_heads / h),
    };
    let f = k.dims()[3];
    let (mut mu, mut nu) = match &call.initial_state {
        Some(state) => {
            let mu_len = e * f * v_dim;
            let mu = state.clone().slice([0..b, 0..mu_len]).reshape([b, e, f, v_dim]);
            let nu = config.is_normalized().then(|| {
                let len = state.dims()[1];
                state.clone().slice([0..b, mu_len..len]).reshape([b, e, f, 1])
            });
            (mu, nu)
        }
        None => {
            let nu = config.is_normalized().then(|| Tensor::zeros([b, e, f, 1], &device));
            (Tensor::zeros([b, e, f, v_dim], &device), nu)
        }
    };
    // `[B,T,E,1]` or `[B,T,E,F]`.
    let decays: Option<Tensor<4>> = match call.decay.clone() {
        (Some(constant), ..) => Some(constant.reshape([1, 1, e, 1]).expand([b, t, e, 1])),
        (_, Some(per_head), _) => Some(per_head.reshape([b, t, e, 1])),
        (.., per_row) => per_row,
    };
    let betas = call.beta.clone().map(|beta| {
        let heads = beta.dims()[2];
        beta.reshape([b, t, heads, 1]).expand([b, t, e, 1])
    });
    let mut outputs = Vec::new();
    for i in 0..t {
        fn token(x: &Tensor<4>, i: usize) -> Tensor<4> {
            let [b, _, heads, width] = x.dims();
            x.clone().slice([0..b, i..i + 1, 0..heads, 0..width]).reshape([b, heads, width, 1])
        }
        if let Some(decays) = &decays {
            let a = token(decays, i).exp();
            mu = mu * a.clone();
            nu = nu.map(|nu| nu * a);
        }
        let key = token(&k, i);
        let mut value = token(&call.v, i).swap_dims(2, 3);
        if let Some(betas) = &betas {
            let recalled = (mu.clone() * key.clone()).sum_dim(2);
            value = (value - recalled) * token(betas, i);
        }
        mu = mu + key.clone() * value;
        nu = nu.map(|nu| nu + key);
        let query = token(&q, i) * config.scale;
        let mut o = (repeat_states(&mu, o_heads / e) * query.clone()).sum_dim(2);
        if let Some(nu) = &nu {
            o = o / (repeat_states(nu, o_heads / e) * query).sum_dim(2);
        }
        outputs.push(o.reshape([b, 1, o_heads, v_dim]));
    }
    let mut state = mu.reshape([b, e * f * v_dim]);
    if let Some(nu) = nu {
        state = Tensor::cat(vec![state, nu.reshape([b, e * f])], 1);
    }
    (Tensor::cat(outputs, 1), state)
}

fn repeat_states(x: &Tensor<4>, n: usize) -> Tensor<4> {
    let [b, heads, rows, width] = x.dims();
    x.clone().unsqueeze_dim::<5>(2).repeat_dim(2, n).reshape([b, heads * n, rows, width])
}

/// The largest difference, as a part of the largest expected element.
pub(crate) fn error(found: &TensorData, expected: &TensorData) -> f64 {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (found.clone().convert::<f32>(), expected.clone().convert::<f32>());
    let (found, expected) = (found.as_slice::<f32>().unwrap(), expected.as_slice::<f32>().unwrap());
    let largest = expected.iter().fold(0.0, |max: f64, x| max.max(f64::from(x.abs())));
    let difference = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).abs();
    let worst = found.iter().zip(expected).map(difference).fold(0.0, |max: f64, x| {
        // A NaN would be lost in a maximum.
        if x.is_nan() { f64::MAX } else { max.max(x) }
    });
    worst / largest
}

/// A wgpu device that is registered, one for all tests; `None` where the machine has no adapter,
/// unless LINEAR_ATTENTION_REQUIRE_GPU is set.
#[cfg(feature = "wgpu")]
pub(crate) fn wgpu() -> Option<Device> {
    static DEVICE: std::sync::OnceLock<Option<Device>> = std::sync::OnceLock::new();
    let init = || match linear_attention_burn::init(Device::wgpu_options()) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    DEVICE.get_or_init(init).clone()
}
