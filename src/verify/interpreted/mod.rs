//! Every shader, interpreted over small shapes: each access to memory is in bounds and has no race,
//! barriers are uniform, loops end, and the results are those of the reference. See
//! `docs/design.md`, "Unchecked shaders".

mod call;
mod entries;
mod families;
mod mutations;
mod run;
mod space;
mod tests;
mod truth;
