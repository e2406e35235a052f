//! Gradients through maps with projections and products, and by the weights of maps.

use libtest_mimic::Failed;
use linear_attention::error::{BindError, WeightsError};
use linear_attention::feature_map::{
    Projection, WeightHeads, Weights, WeightsBinding, WeightsBuffer,
};
use linear_attention::gradients::{Backward, BackwardTensors, GradientStage};
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::{
    Config, Dtype, FeatureMap, LinearAttention, Normalization, Shape, UpdateRule,
};

use super::mutations::check_caught;
use super::{Sample, check_sample};
use crate::adapters::Gpu;
use crate::binding::tensor;

/// Heads that are grouped, packed and padded, and heads that have weights of their own in each; in
/// the second a query reads value heads of two key heads.
fn shapes() -> [(Shape, [WeightHeads; 2]); 4] {
    let heads = WeightHeads::new;
    [
        (Shape::new(2, 7, 4).with_kv_heads(2), [heads(1, 0), heads(2, 4)]),
        (Shape::new(1, 30, 1).with_key_heads(2).with_value_heads(4), [heads(2, 0), heads(2, 1)]),
        (Shape::packed(&[0, 40, 0, 3], 2), [heads(1, 1), heads(1, 2)]),
        (Shape::padded(&[3..40, 0..0, 0..9], 40, 2), [heads(2, 2), heads(1, 0)]),
    ]
}

/// Inputs with weights of so many heads, no two of which are the same.
pub(super) fn sampled(
    config: &Config,
    shape: &Shape,
    heads: WeightHeads,
) -> Result<Sample, Failed> {
    let waves = |len: u32, by: f32, most: f32| -> Vec<f32> {
        (0..len).map(|i| (i as f32 * by + 0.3).sin() * most).collect()
    };
    let projection = |map: &FeatureMap, heads: u32, by: f32| {
        let (k, rows) = (config.key_dim, map.projections(config.key_dim));
        let weight = waves(heads * rows * k, by, 1.0);
        let bias = waves(heads * rows, 2.0 * by, 0.5);
        let given = heads > 0 && rows > 0;
        given.then(|| Projection::new(heads, rows, k, &weight, Some(&bias))).transpose()
    };
    let keys = projection(config.key_map(), heads.keys, 0.741)?;
    let queries = projection(config.query_map(), heads.queries, 1.313)?;
    let mut sample = Sample::new(config, shape)?;
    sample.weights = config.needs_weights().then(|| Weights::apart(keys, queries));
    Ok(sample)
}

fn check_shapes(gpu: &Gpu, config: Config) -> Result<(), Failed> {
    let backward = Backward::new(&gpu.device, config)?;
    let mut shapes: Vec<_> = shapes().into();
    shapes.push((Shape::new(1, 0, 2), [WeightHeads::new(1, 2); 2]));
    for (shape, heads) in shapes {
        for heads in heads {
            let sample = sampled(backward.config(), &shape, heads)?;
            check_sample(gpu, &backward, &shape, &sample)?;
        }
    }
    Ok(())
}

/// Maps to be trained, with every update rule and dtype, at odd widths and in vec4s.
pub(super) fn trained(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use FeatureMap::{Hedgehog, HedgehogJoint, T2r};
    let (head, row) = (Decay::per_head(), Decay::per_row());
    let (beta, shared) = (Beta::per_head(), Beta::shared());
    let linear = |k, map: FeatureMap| Config::new(k, 8).with_feature_map(map);
    let of = |k, v, rule, map| Config::of_rule(k, v, rule).with_feature_map(map);
    let eps = Normalization::Sum { eps: 0.1 };
    let configs = [
        linear(8, T2r { features: 12 }),
        linear(9, T2r { features: 7 }).with_update_rule(UpdateRule::Gated(row)).with_l2_norm(true),
        of(8, 8, UpdateRule::GatedDelta(head, shared), T2r { features: 8 }),
        linear(8, Hedgehog).with_normalization(eps).with_scale(0.5).with_dtype(Dtype::F16),
        of(7, 9, UpdateRule::Delta(beta), Hedgehog).with_dtype(Dtype::Bf16),
        linear(5, HedgehogJoint).with_update_rule(UpdateRule::Gated(head)),
        of(8, 8, UpdateRule::GatedDelta(row, beta), HedgehogJoint).with_l2_norm(true),
    ];
    configs.into_iter().try_for_each(|config| check_shapes(gpu, config))
}

/// Random maps, whose weights may be trained as well, and products of projections.
pub(super) fn random(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use FeatureMap::{Favor, FavorHyperbolic, Fourier, Product};
    let linear = |k, map: FeatureMap| Config::new(k, 8).with_feature_map(map);
    let signed = |config: Config| config.with_normalization(Normalization::None);
    let gated = |decay: Decay| UpdateRule::Gated(decay);
    let configs = [
        signed(linear(8, Product { features: 6 })),
        linear(8, Favor { features: 10 }).with_l2_norm(true),
        linear(6, FavorHyperbolic { features: 16 }).with_update_rule(gated(Decay::per_head())),
        signed(linear(8, FavorHyperbolic { features: 8 })),
        signed(linear(8, Fourier { features: 16 })).with_update_rule(gated(Decay::per_row())),
    ];
    configs.into_iter().try_for_each(|config| check_shapes(gpu, config))
}

/// The maps of products, and two maps of which one has weights.
pub(super) fn products(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use FeatureMap::{Dpfp, Elu, T2r, Taylor};
    let linear = |k, map: FeatureMap| Config::new(k, 8).with_feature_map(map);
    let of_rule = |rule| Config::of_rule(5, 7, rule);
    let delta = UpdateRule::Delta(Beta::per_head());
    let check = |config: Config| {
        let backward = Backward::new(&gpu.device, config)?;
        for (shape, _) in shapes().into_iter().take(2) {
            let sample = Sample::new(backward.config(), &shape)?;
            check_sample(gpu, &backward, &shape, &sample)?;
        }
        Ok::<(), Failed>(())
    };
    check(linear(8, Taylor))?;
    check(of_rule(delta).with_feature_map(Taylor).with_l2_norm(true))?;
    check(linear(1, Taylor))?;
    check(linear(6, Dpfp { nu: 2 }).with_l2_norm(true))?;
    check(of_rule(delta).with_feature_map(Dpfp { nu: 3 }).with_dtype(Dtype::F16))?;
    let shape = Shape::new(2, 9, 4).with_kv_heads(2);
    // Taylor has 1 + 4 + 10 features of 4 elements.
    for (keys, queries, width, heads) in [
        (T2r { features: 8 }, Elu, 8, WeightHeads::new(2, 0)),
        (Elu, T2r { features: 8 }, 8, WeightHeads::new(0, 4)),
        (T2r { features: 15 }, Taylor, 4, WeightHeads::new(2, 0)),
    ] {
        let mut config = linear(width, keys).with_query_feature_map(queries).with_l2_norm(true);
        if !config.is_non_negative() {
            config.normalization = Normalization::None;
        }
        let backward = Backward::new(&gpu.device, config)?;
        let sample = sampled(backward.config(), &shape, heads)?;
        check_sample(gpu, &backward, &shape, &sample)?;
    }
    Ok(())
}

/// Tokens of several pieces, the last of which is short; the same bits each time; and weights that
/// are not trained.
pub(super) fn pieces(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(5, 4).with_feature_map(FeatureMap::Hedgehog);
    let backward = Backward::new(&gpu.device, config)?;
    let config = backward.config();
    let shape = Shape::packed(&[300, 1, 299], 1);
    let sample = sampled(config, &shape, WeightHeads::new(1, 0))?;
    check_sample(gpu, &backward, &shape, &sample)?;
    let (inputs, gradients) = (sample.inputs(config), sample.gradients());
    let run = || backward.run(&gpu.queue, &shape, inputs, gradients);
    assert_eq!(run()?.key_weights, run()?.key_weights);

    let plan = backward.plan(&shape)?;
    let inputs = [&sample.q, &sample.k, &sample.v].map(|data| tensor(gpu, data));
    let outputs = [&sample.q, &sample.k, &sample.v].map(|data| tensor(gpu, data));
    let [[q, k, v], [of_q, of_k, of_v]] = [inputs, outputs];
    let of_o = tensor(gpu, &sample.of_o);
    let scratch = tensor(gpu, &vec![0.0; plan.scratch_size() as usize / 4]);
    let weights = sample.weights.as_ref().ok_or("no weights")?;
    let given = WeightsBuffer::new(&gpu.device, config, weights)?;
    let tensors = BackwardTensors::new([&q, &k, &v], &of_o, [&of_q, &of_k, &of_v]);
    let whole = || scratch.as_entire_buffer_binding();
    let refused = backward.bind(&plan, &tensors, whole());
    assert_eq!(refused.err(), Some(BindError::Missing { tensor: "weights" }));
    let bound = |tensors: BackwardTensors<'_>| backward.bind(&plan, &tensors, whole());
    let _ = bound(tensors.clone().with_weights(given.binding(), None))?;
    let short = tensor(gpu, &[0.0; 4]);
    let of_weights = Some(short.as_entire_buffer_binding());
    let refused = bound(tensors.clone().with_weights(given.binding(), of_weights));
    assert!(
        matches!(refused, Err(BindError::TooSmall { tensor: "of_weights", .. })),
        "{refused:?}"
    );
    let buffer = WeightsBinding::new(whole(), WeightHeads::new(3, 0));
    let refused = bound(tensors.with_weights(buffer, None));
    let heads = matches!(refused, Err(BindError::Weights(WeightsError::Heads { .. })));
    assert!(heads, "{refused:?}");
    Ok(())
}

/// A mistake in the shaders' text is further off than the bound.
pub(super) fn mutations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use GradientStage::{Features, Maps, Projections, Rows, WeightSums, Weights};
    let linear = |k, map: FeatureMap| Config::new(k, 8).with_feature_map(map);
    let t2r = linear(6, FeatureMap::T2r { features: 10 }).with_l2_norm(true);
    let hedgehog = linear(6, FeatureMap::Hedgehog);
    let joint = linear(6, FeatureMap::HedgehogJoint);
    let product = linear(6, FeatureMap::Product { features: 10 });
    let product = product.with_normalization(Normalization::None);
    let favor = linear(6, FeatureMap::FavorHyperbolic { features: 16 });
    let favor = favor.with_normalization(Normalization::Sum { eps: 0.1 });
    let fourier = linear(6, FeatureMap::Fourier { features: 16 });
    let fourier = fourier.with_normalization(Normalization::None);
    let taylor = linear(6, FeatureMap::Taylor);
    let dpfp = linear(6, FeatureMap::Dpfp { nu: 2 });
    let mistakes = [
        (
            &t2r,
            Projections,
            "var sum = weights[at + 4u * ROW_VEC4 * stride];",
            "var sum = weights[at];",
        ),
        (&t2r, Maps, "vec4<f32>(row.gain), x > zero", "vec4<f32>(row.gain), x < zero"),
        (&t2r, Rows, "head < row.heads", "head < 1u"),
        (&t2r, Rows, "+ head * params.query_weights", ""),
        (&t2r, Rows, "head = key_head(row.head / params.group)", "head = row.head / params.group"),
        (&t2r, Weights, "elements_of(row, row_norms(row).x)", "elements_of(row, 1.0)"),
        (
            &t2r,
            Weights,
            "t < min(first + params.chunk_len",
            "t + 1u < min(first + params.chunk_len",
        ),
        (&t2r, Weights, "vec4<f32>(1.0, 0.0, 0.0, 0.0)", "vec4<f32>(0.0)"),
        (&t2r, Weights, "all(dy == vec4<f32>(0.0))", "false"),
        (&t2r, WeightSums, "piece < pieces()", "piece < 1u"),
        (&t2r, WeightSums, "return begin + params.value_heads * KEY_HEAD_VEC4", "return begin"),
        (&hedgehog, Features, "sum_of(row, -1.0, low)", "sum_of(row, -1.0, high)"),
        (&hedgehog, Maps, "i + KEY_DIM, by.sums.y", "i + KEY_DIM, by.sums.x"),
        (&hedgehog, Maps, "(positive - negative)", "(positive + negative)"),
        (&joint, Maps, "select(1.0, 2.0, row.map == HEDGEHOG_JOINT) * (pos", "(pos"),
        (&joint, Maps, "sums = vec2<f32>(sums.x + sums.y)", "sums = sums"),
        (&product, Maps, "select(a4 - FEATURE_VEC4, a4 + FEATURE_VEC4, a4 < FEATURE_VEC4)", "a4"),
        (&favor, Maps, "* by.sums.x;", "* 0.0;"),
        (&favor, Projections, "0.5 * squared_norm(x)", "squared_norm(x)"),
        (
            &favor,
            Maps,
            "of_features(row, by, a4) - negative)",
            "of_features(row, by, a4) + negative)",
        ),
        (&fourier, Maps, "of_sine - sine *", "of_sine + sine *"),
        (&taylor, Rows, "if (j == i) { continue; }", ""),
        (&taylor, Rows, "1.41421356 * one", "0.70710678 * one"),
        (&dpfp, Rows, "return -by_rectified(row", "return by_rectified(row"),
        (&dpfp, Rows, "let next = (r + distance) % d;", "let next = r;"),
    ];
    // Queries that share a state.
    let of_groups = [
        (Rows, "head = key_head(row.head / params.group)", "head = key_head(row.head)"),
        (WeightSums, "head * heads * params.group, heads * params.group", "head * heads, heads"),
    ];
    // Two pieces, padding, and a query that reads value heads of two key heads.
    let padded = |heads| Shape::padded(&[3..150, 0..130], 150, heads);
    let crossed = padded(1).with_key_heads(2).with_value_heads(4);
    let grouped = padded(4).with_kv_heads(2);
    let mistakes = mistakes.map(|(config, stage, from, to)| (config, &crossed, stage, from, to));
    let of_groups = of_groups.map(|(stage, from, to)| (&t2r, &grouped, stage, from, to));
    let mut missed = Vec::new();
    for (config, shape, stage, from, to) in mistakes.into_iter().chain(of_groups) {
        let mut sample = sampled(config, shape, WeightHeads::new(2, 0))?;
        // Padding may hold anything.
        for data in [&mut sample.q, &mut sample.k] {
            let token = data.len() / 300;
            data[..3 * token].fill(f32::NAN);
            data[280 * token..].fill(f32::INFINITY);
        }
        if let Err(error) = check_caught(gpu, (config, shape), &sample, (stage, from, to)) {
            missed.push(error.message().unwrap_or_default().to_owned());
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}
