//! The module: its projections, its states, its training, its errors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod common;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor, activation};
use common::{Call, error, reference};
use linear_attention_burn::{
    Decays, Error, LinearAttention, LinearAttentionConfig, Map, Rule, linear_attention,
};

fn configs() -> Vec<LinearAttentionConfig> {
    let config = |rule, decays| {
        LinearAttentionConfig::new(24, 4).with_rule(rule).with_decays(decays).with_bias(true)
    };
    vec![
        config(Rule::Linear, Decays::PerHead),
        config(Rule::Linear, Decays::PerHead).with_value_heads(Some(2)).with_key_dim(Some(8)),
        config(Rule::Gated, Decays::Constant),
        config(Rule::Gated, Decays::PerHead).with_map(Some(Map::Elu)).with_normalized(Some(true)),
        config(Rule::Gated, Decays::PerRow),
        config(Rule::Delta, Decays::PerHead).with_key_heads(Some(2)),
        config(Rule::GatedDelta, Decays::PerHead).with_value_heads(Some(8)),
        config(Rule::GatedDelta, Decays::PerRow).with_output_norm(Some(false)),
        config(Rule::Linear, Decays::PerHead).with_map(Some(Map::Hedgehog)),
        config(Rule::Gated, Decays::PerHead)
            .with_map(Some(Map::T2r))
            .with_features(Some(10))
            .with_query_weights(Some(false))
            .with_value_heads(Some(2)),
        config(Rule::Delta, Decays::PerHead).with_map(Some(Map::Product)).with_key_heads(Some(1)),
    ]
}

fn input(dims: [usize; 3], device: &Device) -> Tensor<3> {
    device.seed(3);
    Tensor::random(dims, Distribution::Normal(0.0, 1.0), device)
}

/// The formula of the module's documentation, around the recurrence.
fn expected(
    config: &LinearAttentionConfig,
    attention: &LinearAttention,
    x: &Tensor<3>,
) -> Tensor<3> {
    let core = attention.config();
    let [b, t, _] = x.dims();
    let (key_dim, value_dim) = (core.key_dim as usize, core.value_dim as usize);
    let rows = |x: Tensor<3>, width: usize| {
        let heads = x.dims()[2] / width;
        x.reshape([b, t, heads, width])
    };
    let project = |linear: &burn::nn::Linear| linear.forward(x.clone());
    let v = rows(project(&attention.value), value_dim);
    let e = v.dims()[2];
    let mut decay = (None, None, None);
    if let Some(gate) = &attention.decay {
        let factor = gate.a_log.val().exp().neg();
        match (&gate.projection, &gate.dt_bias) {
            (Some(projection), Some(dt_bias)) => {
                let x = project(projection) + dt_bias.val().unsqueeze();
                let softplus = (x.exp() + 1.0).log();
                let rows = softplus.dims()[2] / e;
                let decays = softplus.reshape([b, t, e, rows]) * factor.reshape([1, 1, e, 1]);
                match config.decays {
                    Decays::PerRow => decay.2 = Some(decays),
                    _ => decay.1 = Some(decays.reshape([b, t, e])),
                }
            }
            _ => decay.0 = Some(factor),
        }
    }
    let call = Call {
        q: rows(project(&attention.query), key_dim),
        k: rows(project(&attention.key), key_dim),
        v,
        decay,
        beta: attention.beta.as_ref().map(|beta| activation::sigmoid(project(beta))),
        initial_state: None,
        key_weights: attention.key_map.as_ref().map(|map| (map.weight.val(), map.bias.val())),
        query_weights: attention.query_map.as_ref().map(|map| (map.weight.val(), map.bias.val())),
    };
    let (o, _) = reference(core, &call);
    let o = match &attention.norm {
        Some(norm) => norm.forward(o),
        None => o,
    };
    let [.., heads, width] = o.dims();
    attention.output.forward(o.reshape([b, t, heads * width]))
}

#[test]
fn it_computes_what_its_documentation_says() {
    let device = Device::flex();
    for config in configs() {
        let attention = config.init(&device).unwrap();
        let x = input([2, 17, 24], &device);
        let found = attention.forward(x.clone()).unwrap();
        let worst = error(&found.into_data(), &expected(&config, &attention, &x).into_data());
        assert!(worst < 1e-5, "{worst:e} with {config}");
    }
}

#[test]
fn a_sequence_goes_on_from_its_state() {
    let mut devices = vec![Device::flex()];
    #[cfg(feature = "wgpu")]
    devices.extend(common::wgpu());
    for device in devices {
        for config in configs() {
            let attention = config.init(&device).unwrap();
            let x = input([2, 17, 24], &device);
            let whole = attention.forward(x.clone()).unwrap();
            let mut state = None;
            let mut parts = Vec::new();
            for tokens in [0..9, 9..16, 16..17] {
                let part = x.clone().slice([0..2, tokens, 0..24]);
                let (y, next) = attention.forward_with_state(part, state).unwrap();
                parts.push(y);
                state = Some(next);
            }
            let parts = Tensor::cat(parts, 1);
            let worst = error(&parts.into_data(), &whole.into_data());
            assert!(worst < 1e-5, "{worst:e} with {config} on {device:?}");
        }
    }
}

#[test]
fn it_learns() {
    let device = Device::flex().autodiff();
    for config in configs() {
        device.seed(5);
        let mut attention = config.init(&device).unwrap();
        let mut optimizer = AdamConfig::new().init();
        // The token of four tokens ago.
        let x = input([4, 4, 24], &device).repeat_dim(1, 4);
        let mut losses = Vec::new();
        for _ in 0..40 {
            let loss = (attention.forward(x.clone()).unwrap() - x.clone()).square().mean();
            losses.push(loss.clone().into_scalar::<f32>());
            let gradients = GradientsParams::from_grads(loss.backward(), &attention);
            assert_eq!(gradients.len(), parameters(&attention), "{config}");
            attention = optimizer.step(1e-2, attention, gradients);
        }
        assert!(losses[39] < 0.7 * losses[0], "{losses:?} with {config}");
    }
}

/// Tensors that have gradients.
fn parameters(attention: &LinearAttention) -> usize {
    struct Count(usize);
    impl burn::module::ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, _: &burn::module::Param<Tensor<D>>) {
            self.0 += 1;
        }
    }
    let mut count = Count(0);
    attention.visit(&mut count);
    count.0
}

#[test]
fn a_config_that_cannot_be_is_refused() {
    let device = Device::flex();
    let config = || LinearAttentionConfig::new(24, 4);
    let refused = [
        config().with_key_dim(Some(0)),
        config().with_key_dim(Some(2000)),
        config().with_value_heads(Some(3)),
        config().with_key_heads(Some(3)),
        config().with_rule(Rule::Delta).with_normalized(Some(true)),
    ];
    for config in refused {
        let error = config.init(&device).unwrap_err();
        assert!(matches!(error, Error::Core(_)), "{error}");
    }
    let attention = config().init(&device).unwrap();
    let error = attention.forward(input([1, 2, 23], &device)).unwrap_err();
    assert_eq!(error.to_string(), "x must be [1, 2, 24], found [1, 2, 23]");
    let error = attention
        .forward_with_state(input([1, 2, 24], &device), Some(Tensor::zeros([1, 5], &device)))
        .unwrap_err();
    assert_eq!(error.to_string(), "initial_state must be [1, 168], found [1, 5]");
}

#[test]
fn a_tensor_that_does_not_fit_is_named() {
    use linear_attention_burn::update_rule::{Beta, Decay, DecayActivation, UpdateRule};
    use linear_attention_burn::{Config, FeatureMap, Inputs};
    let device = Device::flex();
    let rows = |heads: usize, width: usize| Tensor::<4>::ones([1, 5, heads, width], &device);
    let inputs = || Inputs::new(rows(2, 4), rows(2, 4), rows(2, 6));
    let of = |rule| Config::of_rule(4, 6, rule);
    let gates = Tensor::<3>::zeros([1, 5, 2], &device);
    let linear = of(UpdateRule::Linear);
    let gated = of(UpdateRule::Gated(Decay::per_head()));
    let delta = of(UpdateRule::Delta(Beta::per_head()));
    let activated = Decay::per_head().with_activation(DecayActivation::Softplus);
    let half = |x: Tensor<4>| x.cast(burn::tensor::DType::F16);
    let weight = |dims: [usize; 3]| Tensor::<3>::ones(dims, &device);
    let t2r = linear.clone().with_feature_map(FeatureMap::T2r { features: 8 });
    let cases = [
        (
            linear.clone(),
            Inputs::new(rows(2, 5), rows(2, 4), rows(2, 6)),
            "q must be [1, 5, 2, 4], found [1, 5, 2, 5]",
        ),
        (
            linear.clone(),
            Inputs::new(rows(2, 4), rows(2, 4).slice([0..1, 0..4]), rows(2, 6)),
            "k must be [1, 5, 2, 4], found [1, 4, 2, 4]",
        ),
        (
            linear.clone(),
            Inputs::new(rows(2, 4), half(rows(2, 4)), rows(2, 6)),
            "k must be F32, found F16",
        ),
        (
            linear.clone(),
            inputs().with_beta(gates.clone()),
            "beta must be absent with the rule linear, found some",
        ),
        (gated.clone(), inputs(), "decay must be given with the rule gated, found none"),
        (
            gated,
            inputs().with_decay(Tensor::<1>::zeros([2], &device)),
            "decay must be [1, 5, 2], found [2]",
        ),
        (
            delta,
            inputs().with_beta(Tensor::zeros([1, 5, 1], &device)),
            "beta must be [1, 5, 2], found [1, 5, 1]",
        ),
        (
            of(UpdateRule::Gated(activated)),
            inputs().with_decay(gates),
            "an activation of decays must be left out, found ",
        ),
        (t2r.clone(), inputs(), "the feature map of keys needs weights, found none"),
        (
            t2r.clone(),
            inputs().with_key_weights(weight([2, 8, 5]), None),
            "key_weight must be [2, 8, 4], found [2, 8, 5]",
        ),
        (
            t2r.clone(),
            inputs().with_key_weights(weight([1, 8, 4]), Some(Tensor::zeros([2, 8], &device))),
            "key_bias must be [1, 8], found [2, 8]",
        ),
        (
            t2r.clone(),
            inputs().with_key_weights(weight([1, 8, 4]).cast(burn::tensor::DType::F16), None),
            "key_weight must be F32, found F16",
        ),
        (
            t2r,
            inputs()
                .with_key_weights(weight([1, 8, 4]), None)
                .with_query_weights(weight([3, 8, 4]), None),
            "weights of queries must be of 1 or 2 heads, found 3",
        ),
        (
            linear,
            inputs().with_key_weights(weight([1, 8, 4]), None),
            "the feature map of keys has no weights, found some",
        ),
    ];
    for (config, inputs, message) in cases {
        let error = linear_attention(&config, inputs).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn a_device_must_be_registered() {
    use linear_attention_burn::{Config, Inputs, register_host};
    let error = register_host(&Device::flex()).unwrap_err();
    assert!(matches!(error, Error::Registration { .. }), "{error}");
    let Some(device) = common::wgpu() else { return };
    let rows = |device: &Device| Tensor::<4>::ones([1, 3, 1, 4], device);
    let mixed = Inputs::new(rows(&device), rows(&Device::flex()), rows(&device));
    let error = linear_attention(&Config::new(4, 4), mixed).unwrap_err();
    assert_eq!(error, Error::OtherDevice { tensor: "k" });
}
