//! The entries of a call's sequences, in the words that shaders read.

use std::ops::Range;

use crate::problem::shape::{Packing, Shape};

/// The slot of an entry that takes no part.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// The first token of each entry and the end of the last, counted through all sequences. Of packed
/// sequences these are the lengths; entries beyond them have no token.
pub(crate) fn cu_seqlens(shape: &Shape, lengths: &[u32]) -> Vec<u32> {
    let mut words = Vec::with_capacity(shape.entries() as usize + 1);
    words.push(0);
    match &shape.packing {
        Packing::Padded(valid) => {
            // Fewer than 2^32 tokens, as `lens` has checked.
            let of_row = |(n, range): (u32, &Range<u32>)| {
                [range.start, range.end].map(|t| n.wrapping_mul(shape.seq_len).wrapping_add(t))
            };
            words.extend((0..).zip(valid.iter()).flat_map(of_row));
        }
        _ => words.extend(lengths.iter().scan(0u32, |end, len| {
            // At most T, as `lens` or the batch has checked.
            *end = end.saturating_add(*len);
            Some(*end)
        })),
    }
    let end = words.last().copied().unwrap_or(0);
    words.resize(shape.entries() as usize + 1, end);
    words
}

/// Spreads one element of each sequence over the entries, with `fill` for padding and for unused
/// entries.
pub(crate) fn of_entries<T: Clone>(
    shape: &Shape,
    of_sequences: impl IntoIterator<Item = T>,
    fill: &T,
) -> Vec<T> {
    let mut entries = vec![fill.clone(); shape.entries() as usize];
    for (n, of_sequence) in of_sequences.into_iter().enumerate() {
        if let Some(entry) = entries.get_mut(shape.entry(n)) {
            *entry = of_sequence;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_an_entry_of_its_own() {
        let shape = Shape::padded(&[3..7, 0..0, 0..7], 7, 1);
        assert_eq!(cu_seqlens(&shape, &[]), [0, 3, 7, 7, 7, 14, 21]);
        assert_eq!(
            of_entries(&shape, [5, 6], &NO_SLOT),
            [NO_SLOT, 5, NO_SLOT, 6, NO_SLOT, NO_SLOT]
        );
        let packed = Shape::packed(&[2, 0, 1], 1);
        assert_eq!(cu_seqlens(&packed, &[2]), [0, 2, 2, 2]);
        assert_eq!(of_entries(&packed, [5], &NO_SLOT), [5, NO_SLOT, NO_SLOT]);
    }
}
