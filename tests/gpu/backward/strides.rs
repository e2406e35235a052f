//! Gradients of rows that are not contiguous.

use libtest_mimic::Failed;
use linear_attention::error::BindError;
use linear_attention::feature_map::WeightHeads;
use linear_attention::gradients::{Backward, BackwardTensors, GradientStage, OutputGradients};
use linear_attention::shape::{Strides, TensorStrides};
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::wgpu::BufferBinding;
use linear_attention::{
    Config, Dtype, FeatureMap, Inputs, LinearAttention, Normalization, Readback, Shape, UpdateRule,
    reference,
};

use super::maps::sampled;
use super::mutations::check_caught;
use super::{BOUND, Sample, check_sample};
use crate::adapters::Gpu;
use crate::binding::tensor;

/// Gaps between rows, heads and sequences, and an offset that suits no vec4.
fn with_gaps(config: &Config, shape: &Shape) -> TensorStrides {
    let TensorStrides { q, k, v, o } = TensorStrides::heads_first(config, shape);
    let gaps = |of: Strides| Strides {
        offset: 3,
        batch: 2 * of.batch + 1,
        token: of.token + 2,
        head: 2 * of.head + 5,
    };
    let [q, k, v, o] = [q, k, v, o].map(gaps);
    let batch = |of: Strides, heads: u32| Strides { batch: heads * of.head + 7, ..of };
    TensorStrides {
        q: batch(q, shape.heads),
        k: batch(k, shape.key_heads),
        v: batch(v, shape.value_heads),
        o: batch(o, shape.output_heads()),
    }
}

/// Heads before tokens, views of a fused row, gaps and offsets, in f32 and sixteen bits; each
/// gradient where its tensor has its rows.
pub(super) fn layouts(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let hedgehog = Config::new(8, 12).with_feature_map(FeatureMap::Hedgehog).with_l2_norm(true);
    for config in [
        Config::new(8, 12),
        Config::of_rule(7, 9, rule),
        Config::of_rule(8, 8, rule).with_dtype(Dtype::F16),
        hedgehog,
    ] {
        let backward = Backward::new(&gpu.device, config)?;
        let config = backward.config();
        let equal = Shape::new(2, 11, 4).with_kv_heads(2);
        let padded = Shape::padded(&[3..20, 0..9], 20, 2);
        for shape in [equal, padded] {
            for strides in [
                TensorStrides::heads_first(config, &shape),
                TensorStrides::fused(config, &shape),
                with_gaps(config, &shape),
            ] {
                let shape = shape.clone().with_strides(strides);
                let sample = sampled(config, &shape, WeightHeads::new(1, 0))?;
                check_sample(gpu, &backward, &shape, &sample)?;
            }
        }
    }
    Ok(())
}

/// q, k and v in one buffer, and gradients with the same strides in a buffer each.
pub(super) fn views(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(8, 8).with_normalization(Normalization::None);
    let backward = Backward::new(&gpu.device, config)?;
    let config = backward.config();
    let shape = Shape::new(2, 5, 2);
    let shape = shape.clone().with_strides(TensorStrides::fused(config, &shape));
    let plan = backward.plan(&shape)?;
    let mut sample = Sample::new(config, &shape)?;
    // All three are views of the buffer of v, which needs the most elements.
    sample.q.clone_from(&sample.v[..sample.q.len()].to_vec());
    sample.k.clone_from(&sample.v[..sample.k.len()].to_vec());
    let inputs = Inputs::new(&sample.q, &sample.k, &sample.v);
    let given = OutputGradients::new(&sample.of_o);
    let expected = reference::backward(config, &shape, inputs, given)?;
    let fused = tensor(gpu, &sample.v);
    let of_o = tensor(gpu, &sample.of_o);
    let zeros = [&sample.q, &sample.k, &sample.v].map(|data| tensor(gpu, &vec![0.0; data.len()]));
    let scratch = tensor(gpu, &vec![0.0; plan.scratch_size() as usize / 4]);
    let tensors = |[of_q, of_k, of_v]: [BufferBinding<'_>; 3]| {
        let whole = || fused.as_entire_buffer_binding();
        let rows = [whole(), whole(), whole()];
        let of_o = of_o.as_entire_buffer_binding();
        let tensors = BackwardTensors::from_bindings(rows, of_o, [of_q, of_k, of_v]);
        backward.bind(&plan, &tensors, scratch.as_entire_buffer_binding())
    };
    let whole = || zeros.each_ref().map(|buffer| buffer.as_entire_buffer_binding());
    let bound = tensors(whole())?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    backward.record(&mut encoder, &bound);
    let readback = Readback::record(&gpu.device, &mut encoder, &zeros.each_ref())?;
    gpu.queue.submit([encoder.finish()]);
    let found: Vec<Vec<f32>> = readback.wait()?;
    for (found, expected) in found.iter().zip([&expected.q, &expected.k, &expected.v]) {
        let largest = expected.iter().fold(1e-6f64, |most, x| most.max(x.abs()));
        for (found, expected) in found.iter().zip(expected) {
            let far = (f64::from(*found) - expected).abs() / largest;
            if far.is_nan() || far > BOUND {
                return Err(format!("{found} is not {expected}").into());
            }
        }
    }
    let [.., of_v] = whole();
    let refused = tensors([of_v.clone(), of_v.clone(), of_v]);
    assert!(matches!(refused, Err(BindError::Overlap { .. })), "{refused:?}");
    Ok(())
}

/// A shader that takes rows for contiguous is further off than the bound.
pub(super) fn mutations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use GradientStage::{Recurrence, Rows};
    let config = Config::new(8, 8);
    // One sequence has the pipelines of contiguous rows.
    let shape = Shape::new(1, 9, 4).with_kv_heads(2);
    let shape = shape.clone().with_strides(TensorStrides::heads_first(&config, &shape));
    let sample = Sample::new(&config, &shape)?;
    for (stage, from, to) in [
        (Recurrence, "output_begin(t, h) * ACCESS_ELEMENTS", "output_row(t, h) * VALUE_DIM"),
        (
            Recurrence,
            "let value = value_begin(t, item.head) * ACCESS_ELEMENTS",
            "let value = gate_row(t, item.head) * VALUE_DIM",
        ),
        (Rows, "row.x.begin * ACCESS_ELEMENTS", "row.x.begin"),
    ] {
        check_caught(gpu, (&config, &shape), &sample, (stage, from, to))?;
    }
    Ok(())
}
