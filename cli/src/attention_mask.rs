//! `attention_mask` of a file: the padding of each row of the batch.

use std::ops::Range;

use safetensors::{Dtype, SafeTensors};

use crate::cu_seqlens::integers;
use crate::tensors::expect_shape;

const NAME: &str = "attention_mask";

/// The valid tokens of each row, or `None` in a file without `attention_mask`.
pub(crate) fn valid(
    tensors: &SafeTensors<'_>,
    [batch, tokens]: [u32; 2],
) -> Result<Option<Vec<Range<u32>>>, String> {
    let Ok(tensor) = tensors.tensor(NAME) else { return Ok(None) };
    expect_shape(NAME, &tensor, &[batch, tokens])?;
    let found = tensor.dtype();
    let mask = match found {
        Dtype::U8 | Dtype::BOOL => Some(tensor.data().iter().map(|x| i64::from(*x)).collect()),
        _ => integers(&tensor),
    };
    let mask = mask.ok_or_else(|| {
        format!("tensor {NAME}: expected dtype I64, I32, U8 or BOOL, found {found}")
    })?;
    if tokens == 0 {
        return Ok(Some(vec![0..0; batch as usize]));
    }
    let rows = mask.chunks(tokens as usize).enumerate();
    rows.map(|(row, mask)| of_row(row, mask)).collect::<Result<_, _>>().map(Some)
}

/// The range of the ones of a row, which zeros surround.
fn of_row(row: usize, mask: &[i64]) -> Result<Range<u32>, String> {
    let named = |t: usize| format!("tensor {NAME}: row {row}, token {t}");
    if let Some(t) = mask.iter().position(|x| !matches!(x, 0 | 1)) {
        return Err(format!("{}: expected 0 or 1, found {}", named(t), mask[t]));
    }
    let Some(begin) = mask.iter().position(|x| *x == 1) else { return Ok(0..0) };
    let len = mask[begin..].iter().take_while(|x| **x == 1).count();
    let end = begin + len;
    if let Some(t) = mask[end..].iter().position(|x| *x == 1) {
        return Err(format!(
            "{}: expected padding at either end of a row alone, found a 0 between ones",
            named(end + t - 1)
        ));
    }
    // A row has no more tokens than 32 bits count.
    Ok(begin as u32..end as u32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn of(mask: &[u8], shape: [usize; 2], dtype: Dtype) -> Result<Option<Vec<Range<u32>>>, String> {
        let data: Vec<u8> = match dtype {
            Dtype::I64 => mask.iter().flat_map(|x| i64::from(*x).to_le_bytes()).collect(),
            Dtype::I32 => mask.iter().flat_map(|x| i32::from(*x).to_le_bytes()).collect(),
            Dtype::F32 => mask.iter().flat_map(|x| f32::from(*x).to_le_bytes()).collect(),
            _ => mask.to_vec(),
        };
        let view = TensorView::new(dtype, shape.to_vec(), &data).unwrap();
        let file = safetensors::serialize([(NAME, view)], None).unwrap();
        valid(&SafeTensors::deserialize(&file).unwrap(), [2, 4])
    }

    #[test]
    fn ones_are_ranges() {
        for dtype in [Dtype::I64, Dtype::I32, Dtype::U8, Dtype::BOOL] {
            let found = of(&[0, 0, 1, 1, 1, 1, 1, 0], [2, 4], dtype);
            assert_eq!(found, Ok(Some(vec![2..4, 0..3])));
        }
        assert_eq!(of(&[0, 0, 0, 0, 1, 1, 1, 1], [2, 4], Dtype::U8), Ok(Some(vec![0..0, 0..4])));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (mask, shape, dtype, said) in [
            ([1, 1, 1, 1, 1, 0, 1, 1], [2, 4], Dtype::U8, "row 1, token 1: expected padding"),
            (
                [1, 1, 1, 1, 1, 1, 2, 1],
                [2, 4],
                Dtype::I64,
                "row 1, token 2: expected 0 or 1, found 2",
            ),
            ([1; 8], [4, 2], Dtype::U8, "expected shape [2, 4], found [4, 2]"),
            ([1; 8], [2, 4], Dtype::F32, "expected dtype I64, I32, U8 or BOOL, found F32"),
        ] {
            let error = of(&mask, shape, dtype).unwrap_err();
            assert!(error.contains(said), "{said} in {error}");
        }
    }
}
