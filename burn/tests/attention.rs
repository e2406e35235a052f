//! Attention and its gradients beside the same formula in Burn's own operations.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Call, Case, cases, error, reference};
use linear_attention_burn::{Config, linear_attention, linear_attention_with_state};

const MAX_ERROR: f64 = 1e-5;
const MAX_GRADIENT_ERROR: f64 = 1e-3;

/// Attention, the final state with it or not.
type Attention<'a> = &'a dyn Fn(&Config, &Call) -> (Tensor<4>, Option<Tensor<2>>);

fn ours(config: &Config, call: &Call) -> (Tensor<4>, Option<Tensor<2>>) {
    let (o, state) = linear_attention_with_state(config, call.inputs()).unwrap();
    (o, Some(state))
}

fn ours_without_state(config: &Config, call: &Call) -> (Tensor<4>, Option<Tensor<2>>) {
    (linear_attention(config, call.inputs()).unwrap(), None)
}

fn burns(config: &Config, call: &Call) -> (Tensor<4>, Option<Tensor<2>>) {
    let (o, state) = reference(config, call);
    (o, Some(state))
}

fn burns_without_state(config: &Config, call: &Call) -> (Tensor<4>, Option<Tensor<2>>) {
    (reference(config, call).0, None)
}

/// The results of a case: o, the final state, and the gradients of a loss by each input.
fn outputs(case: &Case, device: &Device, attention: Attention<'_>) -> Vec<(String, TensorData)> {
    let data = case.data();
    let call = data.to(device, false);
    let (o, state) = attention(&case.config, &call);
    let mut found = vec![("o".to_owned(), o.into_data())];
    found.extend(state.map(|state| ("state".to_owned(), state.into_data())));

    let device = device.clone().autodiff();
    let call = data.to(&device, true);
    let (o, state) = attention(&case.config, &call);
    let mut loss = (o * Tensor::from_data(data.of_o.clone(), &device)).sum();
    if let Some(state) = state {
        loss = loss + (state * Tensor::from_data(data.of_state.clone(), &device)).sum();
    }
    let gradients = loss.backward();
    let mut push = |name: &str, gradient: Option<TensorData>| {
        let gradient = gradient.unwrap_or_else(|| panic!("{}: no gradient by {name}", case.name));
        found.push((format!("gradient by {name}"), gradient));
    };
    push("q", call.q.grad(&gradients).map(Tensor::into_data));
    push("k", call.k.grad(&gradients).map(Tensor::into_data));
    push("v", call.v.grad(&gradients).map(Tensor::into_data));
    let (constant, per_head, per_row) = &call.decay;
    if let Some(x) = constant {
        push("decay", x.grad(&gradients).map(Tensor::into_data));
    }
    if let Some(x) = per_head {
        push("decay", x.grad(&gradients).map(Tensor::into_data));
    }
    if let Some(x) = per_row {
        push("decay", x.grad(&gradients).map(Tensor::into_data));
    }
    if let Some(x) = &call.beta {
        push("beta", x.grad(&gradients).map(Tensor::into_data));
    }
    if let Some(x) = &call.initial_state {
        push("initial state", x.grad(&gradients).map(Tensor::into_data));
    }
    for (of, weights) in [("keys'", &call.key_weights), ("queries'", &call.query_weights)] {
        let Some((weight, bias)) = weights else { continue };
        push(&format!("{of} W"), weight.grad(&gradients).map(Tensor::into_data));
        push(&format!("{of} b"), bias.grad(&gradients).map(Tensor::into_data));
    }
    found
}

fn compare(case: &Case, found: &[(String, TensorData)], expected: &[(String, TensorData)]) {
    assert_eq!(found.len(), expected.len());
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let worst = error(found, expected);
        println!("{}: {name} {worst:.1e}", case.name);
        let most = if name.starts_with("gradient") { MAX_GRADIENT_ERROR } else { MAX_ERROR };
        assert!(worst < most, "{}: {name} is off by {worst:e}", case.name);
    }
}

fn compare_all(device: &Device) {
    let cpu = Device::flex();
    for case in cases() {
        let pairs: [(Attention<'_>, Attention<'_>); 2] =
            [(&ours, &burns), (&ours_without_state, &burns_without_state)];
        for (ours, burns) in pairs {
            let expected = outputs(&case, &cpu, burns);
            compare(&case, &outputs(&case, device, ours), &expected);
        }
    }
}

#[test]
fn flex_agrees_with_burns_own_operations() {
    compare_all(&Device::flex());
}

#[cfg(feature = "ndarray")]
#[test]
#[allow(deprecated, reason = "it is Burn's older backend, which programs still have")]
fn ndarray_agrees_with_burns_own_operations() {
    compare_all(&Device::ndarray());
}

#[cfg(feature = "wgpu")]
#[test]
fn wgpu_agrees_with_burns_own_operations() {
    let Some(device) = common::wgpu() else { return };
    compare_all(&device);
}

/// The devices that there are.
fn devices() -> Vec<Device> {
    let mut devices = vec![Device::flex()];
    #[cfg(feature = "wgpu")]
    devices.extend(common::wgpu());
    devices
}

/// Heads before tokens, as softmax attention has them, and a part of a larger tensor.
#[test]
fn tensors_may_be_views() {
    for device in devices() {
        for case in cases() {
            let call = case.data().to(&device, false);
            let expected = linear_attention(&case.config, call.inputs()).unwrap();
            let heads_first = |x: &Tensor<4>| {
                let copied = x.clone().swap_dims(1, 2) * 1.0;
                copied.swap_dims(1, 2)
            };
            let part = |x: &Tensor<4>| {
                let [b, t, heads, width] = x.dims();
                let larger = Tensor::cat(vec![x.clone() * 2.0, x.clone(), x.clone() * 3.0], 1);
                larger.slice([0..b, t..2 * t, 0..heads, 0..width])
            };
            let views =
                Call { q: heads_first(&call.q), k: part(&call.k), v: part(&call.v), ..call };
            let found = linear_attention(&case.config, views.inputs()).unwrap();
            let worst = error(&found.into_data(), &expected.into_data());
            assert!(worst < 1e-6, "{}: {worst:e} on {device:?}", case.name);
        }
    }
}

/// So many tokens that the shaders cut the sequence, for which they need scratch.
#[test]
fn long_sequences_agree_on_all_devices() {
    for mut case in cases() {
        (case.batch, case.seq_len) = (1, 3000);
        let of = |device: &Device| {
            let (o, state) = ours(&case.config, &case.data().to(device, false));
            [Some(o.into_data()), state.map(Tensor::into_data)]
        };
        let expected = of(&Device::flex());
        for device in devices() {
            for (found, expected) in of(&device).iter().flatten().zip(expected.iter().flatten()) {
                let worst = error(found, expected);
                assert!(worst < MAX_ERROR, "{}: {worst:e} on {device:?}", case.name);
            }
        }
    }
}

/// Two layers of one shape, of which the second reads what the first wrote, on two threads.
#[test]
fn calls_of_several_threads_do_not_disturb_each_other() {
    for device in devices() {
        let case = &cases()[0];
        let layers = |factor: f32| {
            let call = case.data().to(&device, false);
            let mut v = call.v.clone() * factor;
            for _ in 0..8 {
                let v_next = Call { v, ..call.clone() };
                v = linear_attention(&case.config, v_next.inputs()).unwrap() + call.v.clone();
            }
            v.into_data()
        };
        let expected = [1.0, 2.0].map(layers);
        std::thread::scope(|scope| {
            let threads = [1.0, 2.0].map(|factor| scope.spawn(move || layers(factor)));
            for (thread, expected) in threads.into_iter().zip(&expected) {
                assert!(error(&thread.join().unwrap(), expected) < 1e-6);
            }
        });
    }
}

/// A tensor that another thread made, and that it may not have submitted yet.
#[test]
fn a_tensor_of_another_thread_is_waited_for() {
    for device in devices() {
        for case in cases() {
            let expected = linear_attention(&case.config, case.data().to(&device, false).inputs());
            let made = || {
                let call = case.data().to(&device, false);
                Call { q: call.q.clone() * 2.0, v: call.v.clone() * 3.0, ..call }
            };
            let call = std::thread::scope(|scope| scope.spawn(made).join().unwrap());
            let halved = Call { q: call.q.clone() / 2.0, v: call.v.clone() / 3.0, ..call };
            let found = linear_attention(&case.config, halved.inputs()).unwrap();
            let worst = error(&found.into_data(), &expected.unwrap().into_data());
            assert!(worst < MAX_ERROR, "{}: {worst:e} on {device:?}", case.name);
        }
    }
}

/// Sixteen bits, which are for storing: the inputs are as exact as f16 has them, and o is rounded
/// once.
#[test]
fn f16_is_computed_in_f32() {
    use burn::tensor::DType;
    for device in devices() {
        if !device.supports_dtype(DType::F16) {
            eprintln!("skipped: {device:?} has no f16");
            continue;
        }
        for case in cases() {
            let call = case.data().to(&device, false);
            let half = |x: &Tensor<4>| x.clone().cast(DType::F16);
            let [q, k, v] = [&call.q, &call.k, &call.v].map(half);
            let single = |x: &Tensor<4>| x.clone().cast(DType::F32);
            let exact = Call { q: single(&q), k: single(&k), v: single(&v), ..call.clone() };
            let expected = linear_attention(&case.config, exact.inputs()).unwrap();
            let o = linear_attention(&case.config, Call { q, k, v, ..call }.inputs()).unwrap();
            assert_eq!(o.dtype(), DType::F16);
            let worst = error(&o.into_data(), &expected.into_data());
            assert!(worst < 6e-4, "{}: {worst:e} on {device:?}", case.name);
        }
    }
}
