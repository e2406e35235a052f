//! The tensors of the parts of a split.

use std::num::NonZeroU64;

use wgpu::BufferBinding;

use crate::bind::tensors::Tensors;
use crate::plan::F32_SIZE;
use crate::plan::split::{Part, Split};

/// What a part has of tensors that are whole.
pub(crate) fn tensors_of<'a>(split: &Split, part: &Part, whole: &Tensors<'a>) -> Tensors<'a> {
    let (config, shape) = (part.plan.config(), split.shape());
    let row = split.first_row(part);
    let rows = |binding: &BufferBinding<'a>, heads: u32, width: u32, len: u64| {
        let skipped = row * u64::from(heads) * u64::from(width) * config.dtype.size();
        part_of(binding, skipped, config.dtype.bytes(len))
    };
    let state_size = part.plan.state_size();
    let states = |binding: &BufferBinding<'a>| {
        part_of(
            binding,
            u64::from(part.batch.start) * state_size,
            part.plan.lens().state * F32_SIZE,
        )
    };
    let (lens, heads) = (part.plan.lens(), shape.heads);
    let final_state = whole.final_state.as_ref().map(states);
    let initial_state = if part.continues() {
        final_state.clone()
    } else {
        whole.initial_state.as_ref().map(states)
    };
    Tensors {
        q: rows(&whole.q, heads, config.key_dim, lens.q),
        k: rows(&whole.k, shape.key_heads, config.key_dim, lens.k),
        v: rows(&whole.v, shape.value_heads, config.value_dim, lens.v),
        o: rows(&whole.o, heads, config.value_dim, lens.o),
        initial_state,
        final_state,
        pool: None,
        sequences: None,
        weights: whole.weights.clone(),
    }
}

fn part_of<'a>(whole: &BufferBinding<'a>, skipped: u64, len: u64) -> BufferBinding<'a> {
    // What reaches beyond the caller's own range must still be refused.
    let end = whole.size.map_or(u64::MAX, |size| whole.offset.saturating_add(size.get()));
    let offset = whole.offset.saturating_add(skipped);
    let size = NonZeroU64::new(len.min(end.saturating_sub(offset)).max(1));
    BufferBinding { buffer: whole.buffer, offset, size }
}
