//! A device before it is registered, with the CPU engine, and with the shaders: all else is
//! compared in `attention.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
#![cfg(feature = "wgpu")]

mod common;

use burn::tensor::Device;
use common::{cases, error, reference};
use linear_attention_burn::{
    Error, linear_attention, linear_attention_with_state, register, register_host,
};

#[test]
fn a_device_is_served_as_it_is_registered() {
    let (device, setup) = match Device::wgpu_options().init_with_setup() {
        Ok(found) => found,
        Err(error) if std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_none() => {
            eprintln!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let case = cases().into_iter().find(|case| case.name == "gated-delta").unwrap();
    let call = case.data().to(&device, false);
    let refused = linear_attention(&case.config, call.inputs()).unwrap_err();
    assert!(matches!(refused, Error::Unregistered { .. }), "{refused}");

    let (o, state) = reference(&case.config, &case.data().to(&Device::flex(), false));
    let [o, state] = [o.into_data(), state.into_data()];
    let compare = || {
        let (ours, our_state) = linear_attention_with_state(&case.config, call.inputs()).unwrap();
        assert!(error(&ours.into_data(), &o) < 1e-5);
        assert!(error(&our_state.into_data(), &state) < 1e-5);
    };
    register_host(&device).unwrap();
    compare();
    register(&device, &setup).unwrap();
    compare();
}
