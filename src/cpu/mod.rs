//! The CPU engine: the same attention where there is no GPU, on all cores.
//!
//! It takes what [`LinearAttention::run`](crate::LinearAttention::run) takes, every update rule and
//! feature map, and computes in f32 with the widest vectors that the CPU has, chosen at run time.
//!
//! Tokens go through in blocks of eight. With `S` the state before a block, `P_t` the decays up to
//! token t and `A_tj` those after token j up to t,
//!
//! ```text
//! r_t = (k'_t P_t) S                                  delta rules
//! u_t = v_t, or beta_t (v_t - r_t - Σ_{j<t} (k'_t A_tj . k'_j) u_j)
//! o_t = s ((q'_t P_t) S + Σ_{j<=t} (q'_t A_tj . k'_j) u_j) / denominator
//! S   = P_8 S + Σ_j (k'_j A_8j)^T u_j
//! ```
//!
//! so that a block passes twice over the state, and not once for each token; no exponential of a sum of
//! decays is formed. Threads share heads and, where these are few, slices of V. With the feature
//! `rayon` they are those of the pool that a call runs in
//! ([`ThreadPool::install`](https://docs.rs/rayon/latest/rayon/struct.ThreadPool.html#method.install));
//! without it a call computes on its own thread.

mod block;
mod engine;
mod exp;
mod features;
mod passes;
mod task;

pub use engine::{CpuAttention, CpuPlan};
