//! Runs WGSL compute shaders on the host, exactly, and checks every access to memory.
//!
//! A [`Shader`] is a module as naga parses it. [`dispatch`] executes its entry point for a whole
//! grid: integers, control flow, barriers and atomics as WGSL defines them, f32 as the host
//! computes it. The invocations of a workgroup go through a statement together, those that are
//! active, so that a statement is looked at once a workgroup; workgroups run one after the other.
//! No check depends on that order. A [`Fault`] is
//!
//! - an index beyond an array, a vector or the range that is bound;
//! - a read of memory that nothing has written;
//! - an access to an element that another invocation writes, unless a barrier of a workgroup stands
//!   between; in storage, two invocations that write one element at all;
//! - a barrier that not all invocations of a workgroup reach together;
//! - a loop without an end; a division by zero; a shift by 32 bits or more.
//!
//! It knows the part of WGSL that the shaders of `linear-attention` use, and refuses the rest.

mod access;
mod eval;
mod exec;
mod fault;
mod flow;
mod history;
mod mask;
mod math;
mod memory;
mod pointer;
mod shader;

pub use exec::{Statistics, dispatch};
pub use fault::{Fault, FaultKind};
pub use memory::{Buffer, Checks, Memory, View};
pub use shader::Shader;
