//! Attention and its gradients beside the same formula in Burn's own operations.

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

/// What comes out of a case: o, the final state, and the gradients of a loss by each input.
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
