//! The CPU engine: the same attention where there is no GPU, on all cores.
//!
//! It takes what [`LinearAttention::run`](crate::LinearAttention::run) takes, every update rule and
//! feature map, and computes in f32 with the widest vectors that the CPU has, chosen at run time.
//!
//! Tokens go through in blocks of 32. With `S` the state before a block of n tokens, `P_t` the
//! decays up to token t and `A_tj` those after token j up to t,
//!
//! ```text
//! r_t = (k'_t P_t) S                                  delta rules
//! u_t = v_t, or beta_t (v_t - r_t - Σ_{j<t} (k'_t A_tj . k'_j) u_j)
//! o_t = s ((q'_t P_t) S + Σ_{j<=t} (q'_t A_tj . k'_j) u_j) / denominator
//! S   = P_n S + Σ_j (k'_j A_nj)^T u_j
//! ```
//!
//! so that a block passes twice over the state, and not once for each token; no exponential of a
//! sum of decays is formed. Where nothing is corrected and one query reads a value head, the tokens
//! of a block go through the state one by one instead, four of them for each load of a row, decays
//! being put into their keys and queries. A single token, a step of decoding, passes once over its
//! state, in the place where it is.
//!
//! From the caller to the vectors:
//!
//! | file | contents |
//! | --- | --- |
//! | `engine`, `tensors`, `slices` | the public types |
//! | `plan`, `cut`, `task` | a call cut into tasks: heads, slices of V, segments of tokens |
//! | `call`, `outputs`, `states`, `pool` | the data that the threads of a call share |
//! | `run`, `scratch`, `head`, `ahead` | a task's tokens, block by block |
//! | `rows`, `features`, `gates`, `decays` | features and decays of a block |
//! | `block`, `pairs` | the products of a block's tokens with one another |
//! | `one_by_one`, `spans`, `shares`, `nu` | tokens that go through the state without them |
//! | `passes`, `step` | a block on a strip of a state, and a single token on a state |
//! | `strips`, `tiles`, `transpose` | columns as they lie in vectors, and products of them |
//! | `backward` | gradients |
//! | `summary` | the summary of a piece of a sequence |
//!
//! With the feature `rayon` a call's threads are those of the pool that it is made in
//! ([`ThreadPool::install`](https://docs.rs/rayon/latest/rayon/struct.ThreadPool.html#method.install)).
//! Decode from such a thread: a call from outside first waits for one to wake. Without the feature
//! a call computes on its own thread.
//!
//! No code here is unsafe. pulp chooses the instruction set, and the prefetch instruction,
//! which cannot fault, is that of `prefetch-index`.

mod ahead;
mod aligned;
mod backward;
mod block;
mod call;
mod cut;
mod decays;
mod engine;
mod exp;
mod features;
mod fused;
mod gates;
mod head;
mod in_pool;
mod mutation;
mod nu;
mod one_by_one;
mod outputs;
mod pairs;
mod passes;
mod plan;
mod pool;
mod rows;
mod run;
mod scratch;
mod shared;
mod shares;
mod slices;
mod spans;
mod states;
mod step;
mod strips;
mod summary;
mod task;
mod tensors;
mod threads;
mod tiles;
mod transpose;

pub use half::{bf16, f16};

pub use engine::CpuAttention;
#[cfg(feature = "mutation")]
pub use mutation::Mutation;
pub use plan::CpuPlan;
pub use pool::StatePool;
pub use slices::{Slice, SliceMut};
pub use tensors::Tensors;
