//! Linear causal attention for [Burn](https://burn.dev): a module that takes the place of softmax
//! attention, [`LinearAttention`], and functions on tensors, [`linear_attention()`] and
//! [`linear_attention_with_state`], both with gradients.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use linear_attention_burn::{LinearAttentionConfig, Rule};
//!
//! let device = Device::flex();
//! let attention = LinearAttentionConfig::new(64, 4).with_rule(Rule::GatedDelta).init(&device)?;
//! let x = Tensor::<3>::ones([2, 10, 64], &device); // [B,T,d_model]
//! assert_eq!(attention.forward(x)?.dims(), [2, 10, 64]);
//! # Ok::<(), linear_attention_burn::Error>(())
//! ```
//!
//! On Burn's wgpu backend the core crate's shaders read and write Burn's own buffers; the device
//! must be registered once: `init` or `register`. On Flex and NdArray the core crate's CPU engine
//! computes, in the backward pass, too; on wgpu it computes gradients only where the device has no
//! room for them. In the repository, `docs/burn.md` says what is copied and compiled.
//!
//! # Features
//!
//! `wgpu`, `fusion`, `autodiff` and `flex` are on by default, `ndarray` is not. Each turns on
//! Burn's feature of the same name, and must be on where a program has that of Burn: with Burn's
//! `fusion` and without the crate's, say, the crate does not compile.
//!
//! # From the caller to the device
//!
//! `config` has the sizes of a `module`, which has the projections, `inputs` and `call` check the
//! tensors, `weights` packs those of feature maps, `backend` finds the backend that they are on. Of
//! the backends, `cube` records the shaders, `fusion` has that done when Burn's recorded operations
//! run, `host` calls the CPU engine, and `autodiff` makes a node of Burn's graph of whichever it
//! is.

#![cfg_attr(
    not(all(feature = "autodiff", any(feature = "flex", feature = "ndarray", feature = "wgpu"))),
    allow(dead_code, reason = "gradients are a graph's, and tensors a backend's")
)]

mod backend;
mod cache;
mod call;
mod config;
mod error;
mod host;
mod inputs;
mod module;
mod weights;

#[cfg(feature = "autodiff")]
mod autodiff;
#[cfg(feature = "wgpu")]
mod cube;
#[cfg(all(feature = "wgpu", feature = "fusion"))]
mod fusion;

pub use config::{Decays, LinearAttentionConfig, Map, Rule};
pub use error::Error;
pub use inputs::Inputs;
pub use linear_attention::{Config, FeatureMap, Normalization, update_rule};
pub use module::{DecayGate, LinearAttention, MapWeights};

#[cfg(feature = "wgpu")]
pub use cube::{init, register, register_host};

use burn::tensor::Tensor;

use crate::call::Call;

/// Attention: o `[B,T,max(H,E),V]`, of the type of q.
///
/// # Errors
///
/// Tensors whose dimensions, types or devices do not go together, or that the rule has no use for;
/// a config that the core crate refuses, or decays with an activation.
pub fn linear_attention(config: &Config, inputs: Inputs) -> Result<Tensor<4>, Error> {
    let (tensors, heads) = inputs.into_parts(config)?;
    let call = Call::new(config, &tensors, heads, false)?;
    let outputs = backend::dispatch(tensors, &call)?;
    Ok(Tensor::from_dispatch(outputs.o))
}

/// The same with the final states `[B,state]`, from which a later call goes on.
///
/// # Errors
///
/// As [`linear_attention()`].
pub fn linear_attention_with_state(
    config: &Config,
    inputs: Inputs,
) -> Result<(Tensor<4>, Tensor<2>), Error> {
    let (tensors, heads) = inputs.into_parts(config)?;
    let call = Call::new(config, &tensors, heads, true)?;
    let outputs = backend::dispatch(tensors, &call)?;
    let what = "return a state";
    let state = outputs.state.ok_or_else(|| Error::burn(what, &"the backend made none"))?;
    Ok((Tensor::from_dispatch(outputs.o), Tensor::from_dispatch(state)))
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/burn.md")]
struct InABurnModel;
