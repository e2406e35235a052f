//! A tensor of a safetensors file: what is expected of it, and its numbers.

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// The tensor of that name.
pub(crate) fn required<'a>(
    tensors: &SafeTensors<'a>,
    name: &str,
) -> Result<TensorView<'a>, String> {
    tensors.tensor(name).map_err(|_| {
        let mut names = tensors.names();
        names.sort_unstable();
        format!("tensor {name}: expected in the file, found only [{}]", names.join(", "))
    })
}

/// Refuses another dtype.
pub(crate) fn expect_dtype(
    name: &str,
    tensor: &TensorView<'_>,
    expected: Dtype,
) -> Result<(), String> {
    let found = tensor.dtype();
    if found == expected {
        return Ok(());
    }
    // The dtype of these is that of q; states and weights are of f32 in any file.
    let as_q = if ["k", "v"].contains(&name) { " as q" } else { "" };
    Err(format!("tensor {name}: expected dtype {expected}{as_q}, found {found}"))
}

/// The four sizes of a tensor, each but T at least 1 and no more than 32 bits hold.
pub(crate) fn sizes(
    name: &str,
    letters: &str,
    tensor: &TensorView<'_>,
) -> Result<[u32; 4], String> {
    let found = tensor.shape();
    let in_range = |(i, n): (usize, &usize)| u32::try_from(*n).ok().filter(|n| *n > 0 || i == 1);
    let sizes: Vec<u32> = found.iter().enumerate().filter_map(in_range).collect();
    match <[u32; 4]>::try_from(sizes) {
        Ok(sizes) if found.len() == 4 => Ok(sizes),
        _ if found.len() != 4 => Err(format!(
            "tensor {name}: expected rank 4 {letters}, found rank {} {found:?}",
            found.len()
        )),
        _ => Err(format!(
            "tensor {name}: expected sizes {letters} from 1 (T from 0) to {}, found {found:?}",
            u32::MAX
        )),
    }
}

/// Refuses another shape.
pub(crate) fn expect_shape(
    name: &str,
    tensor: &TensorView<'_>,
    expected: &[u32],
) -> Result<(), String> {
    let found = tensor.shape();
    let is_expected = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| *found == *expected as usize);
    if is_expected {
        return Ok(());
    }
    Err(format!("tensor {name}: expected shape {expected:?}, found {found:?}"))
}

/// The numbers of a tensor, byte by byte: a file may place its data at any address.
pub(crate) fn to_f32(tensor: &TensorView<'_>) -> Vec<f32> {
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::F16 => {
            data.chunks_exact(2).map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32()).collect()
        }
        Dtype::BF16 => {
            data.chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]]).to_f32()).collect()
        }
        _ => data.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect(),
    }
}

/// The bytes of numbers, rounded to the nearest, ties to even.
pub(crate) fn from_f32(numbers: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::BF16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
