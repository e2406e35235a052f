//! The tensors of the parts of a split.

use std::num::NonZeroU64;

use wgpu::BufferBinding;

use crate::bind::tensors::Tensors;
use crate::plan::split::Part;
use crate::problem::tensor::Tensor;

/// The ranges of whole tensors that a part computes.
pub(crate) fn tensors_of<'a>(part: &Part, whole: &Tensors<'a>) -> Tensors<'a> {
    let rows = |tensor: Tensor, binding: &BufferBinding<'a>| {
        let size = tensor.dtype(part.plan.config()).size();
        let skipped = size * part.begin_of(tensor, part.plan.row_size(tensor) / size);
        part_of(binding, skipped, part.plan.bytes(tensor))
    };
    let states = |binding: &BufferBinding<'a>| {
        let skipped = u64::from(part.sequences.start) * part.plan.state_size();
        part_of(binding, skipped, part.plan.bytes(Tensor::FinalState))
    };
    let final_state = whole.final_state.as_ref().map(states);
    let initial_state = if part.continues() {
        final_state.clone()
    } else {
        whole.initial_state.as_ref().map(states)
    };
    Tensors {
        q: rows(Tensor::Q, &whole.q),
        k: rows(Tensor::K, &whole.k),
        v: rows(Tensor::V, &whole.v),
        o: rows(Tensor::O, &whole.o),
        decay: whole.decay.as_ref().map(|decay| match part.plan.config().has_constant_decay() {
            true => decay.clone(),
            false => rows(Tensor::Decay, decay),
        }),
        beta: whole.beta.as_ref().map(|beta| rows(Tensor::Beta, beta)),
        gate_weights: whole.gate_weights.clone(),
        initial_state,
        final_state,
        pool: None,
        sequences: None,
        weights: whole.weights.clone(),
        key_status: None,
    }
}

fn part_of<'a>(whole: &BufferBinding<'a>, skipped: u64, len: u64) -> BufferBinding<'a> {
    // `check` must still refuse a part that ends beyond the caller's own range.
    let end = whole.size.map_or(u64::MAX, |size| whole.offset.saturating_add(size.get()));
    let offset = whole.offset.saturating_add(skipped);
    let size = NonZeroU64::new(len.min(end.saturating_sub(offset)).max(1));
    BufferBinding { buffer: whole.buffer, offset, size }
}
