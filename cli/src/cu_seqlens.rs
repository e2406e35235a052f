//! `cu_seqlens` of a file: the bounds of packed sequences.

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// The lengths of the sequences packed along T, or `None` in a file without `cu_seqlens`.
pub(crate) fn lengths(
    tensors: &SafeTensors<'_>,
    batch: u32,
    tokens: u32,
) -> Result<Option<Vec<u32>>, String> {
    let Ok(tensor) = tensors.tensor("cu_seqlens") else { return Ok(None) };
    let found = tensor.shape();
    if !matches!(found, [entries] if *entries >= 2) {
        return Err(format!(
            "tensor cu_seqlens: expected shape [N+1] with N at least 1, found {found:?}"
        ));
    }
    if batch != 1 {
        return Err(format!("tensor q: expected B = 1 beside cu_seqlens, found {batch}"));
    }
    let entries = entries(&tensor)?;
    let named = |index: usize| format!("tensor cu_seqlens: element {index}");
    if entries[0] != 0 {
        return Err(format!("{}: expected 0, found {}", named(0), entries[0]));
    }
    let mut lengths = Vec::with_capacity(entries.len() - 1);
    for (index, pair) in entries.windows(2).enumerate() {
        let [begin, end] = [pair[0], pair[1]];
        let refuse =
            |expected: &str| Err(format!("{}: expected {expected}, found {end}", named(index + 1)));
        if end < begin {
            return refuse(&format!("at least the one before, {begin}"));
        }
        match u32::try_from(end - begin).ok().filter(|_| end <= i64::from(tokens)) {
            Some(len) => lengths.push(len),
            None => return refuse(&format!("at most T = {tokens}")),
        }
    }
    Ok(Some(lengths))
}

fn entries(tensor: &TensorView<'_>) -> Result<Vec<i64>, String> {
    integers(tensor).ok_or_else(|| {
        let found = tensor.dtype();
        format!("tensor cu_seqlens: expected dtype I32 or I64, found {found}")
    })
}

/// The integers of a tensor of I32 or I64.
pub(crate) fn integers(tensor: &TensorView<'_>) -> Option<Vec<i64>> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::I32 => {
            let (words, _) = data.as_chunks::<4>();
            Some(words.iter().map(|word| i32::from_le_bytes(*word).into()).collect())
        }
        Dtype::I64 => {
            let (words, _) = data.as_chunks::<8>();
            Some(words.iter().map(|word| i64::from_le_bytes(*word)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn of(entries: &[i64], batch: u32, tokens: u32) -> Result<Option<Vec<u32>>, String> {
        let data: Vec<u8> = entries.iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::I64, vec![entries.len()], &data).unwrap();
        let file = safetensors::serialize([("cu_seqlens", view)], None).unwrap();
        lengths(&SafeTensors::deserialize(&file).unwrap(), batch, tokens)
    }

    #[test]
    fn lengths_are_differences() {
        assert_eq!(of(&[0, 3, 3, 10], 1, 10), Ok(Some(vec![3, 0, 7])));
        assert_eq!(of(&[0, 10], 1, 10), Ok(Some(vec![10])));
        // Tokens 9 and 10 belong to no sequence.
        assert_eq!(of(&[0, 5, 8], 1, 10), Ok(Some(vec![5, 3])));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (entries, batch, tokens, said) in [
            (&[1, 10][..], 1, 10, "element 0: expected 0, found 1"),
            (&[0, 5, 4, 10], 1, 10, "element 2: expected at least the one before, 5, found 4"),
            (&[0, 5, 11, 10], 1, 10, "element 2: expected at most T = 10, found 11"),
            (&[0, i64::MAX], 1, 10, "element 1: expected at most T = 10"),
            (&[0, i64::MIN], 1, 10, "element 1: expected at least the one before, 0"),
            (&[0], 1, 10, "expected shape [N+1] with N at least 1, found [1]"),
            (&[], 1, 10, "expected shape [N+1] with N at least 1, found [0]"),
            (&[0, 10], 2, 10, "expected B = 1 beside cu_seqlens, found 2"),
        ] {
            let error = of(entries, batch, tokens).unwrap_err();
            assert!(error.contains(said), "{said} in {error}");
        }
    }
}
