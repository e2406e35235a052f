//! A small language model of linear attention that writes text byte by byte.
//!
//! [`Model`] is the one that `burn/examples/language_model` trains: a gated-delta and a linear layer.
//! [`Engine`] runs it on a wgpu device or on the CPU engine; both write the same text. A
//! [`Conversation`] has a slot in the pool of states of each layer: the same bytes after ten tokens
//! and after a million. It can be forked, paused to bytes, and resumed by either engine.
//!
//! `examples/generate` is the program, and `web` a page; both are this crate's callers.

mod conversation;
mod cpu;
mod engine;
mod error;
mod gpu;
mod model;

pub use conversation::{Conversation, Sampling, advance};
pub use engine::{Engine, MAX_CONVERSATIONS, MAX_STEP_TOKENS, Piece, States};
pub use error::Error;
pub use model::Model;
