//! Multiply-adds of single numbers, in loops that become vectors.

/// a b + c, rounded once but for WebAssembly, which has no instruction for that.
#[inline(always)]
pub(super) fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "wasm32") { a * b + c } else { a.mul_add(b, c) }
}
