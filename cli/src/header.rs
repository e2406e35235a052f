//! The tensor that is wrong in a file that the safetensors crate refuses, whose own errors do not
//! name it.

use safetensors::SafeTensorError;
use serde_json::Value;

/// A line that names the tensor, what was expected and what was found.
pub(crate) fn explain(bytes: &[u8], error: &SafeTensorError) -> String {
    let general = || match error {
        SafeTensorError::HeaderTooSmall => {
            format!("truncated: expected at least 8 bytes, found {}", bytes.len())
        }
        SafeTensorError::InvalidHeaderLength => format!(
            "truncated or no safetensors file: expected a header of {} bytes, found {} bytes after its length",
            header_len(bytes).unwrap_or_default(),
            bytes.len().saturating_sub(8)
        ),
        error => format!("expected a safetensors file, found {error}"),
    };
    by_tensor(bytes).unwrap_or_else(general)
}

/// The first tensor whose header contradicts itself or the file.
fn by_tensor(bytes: &[u8]) -> Option<String> {
    let len = usize::try_from(header_len(bytes)?).ok()?;
    let header: Value = serde_json::from_slice(bytes.get(8..len.checked_add(8)?)?).ok()?;
    let data = bytes.len() as u64 - 8 - len as u64;
    let tensors = header.as_object()?.iter().filter(|(name, _)| *name != "__metadata__");
    let mut last = 0;
    for (name, tensor) in tensors {
        let Some(info) = Info::new(tensor) else {
            return Some(format!(
                "tensor {name}: expected a dtype, shape and data_offsets, found {tensor}"
            ));
        };
        let found = info.end.checked_sub(info.start);
        if let Some(expected) = info.expected
            && found != Some(expected)
        {
            let offsets = format!("{} to {}", info.start, info.end);
            return Some(format!(
                "tensor {name}: its header lies: expected {expected} bytes for its shape and dtype, \
                 found data offsets {offsets}"
            ));
        }
        if info.end > data {
            return Some(format!(
                "tensor {name}: truncated or its header lies: expected data up to byte {}, found {data} bytes",
                info.end
            ));
        }
        last = last.max(info.end);
    }
    (last < data).then(|| format!("expected {last} bytes of tensor data, found {data}"))
}

struct Info {
    start: u64,
    end: u64,
    /// Bytes by shape and dtype, where they are of the kinds this program reads.
    expected: Option<u64>,
}

impl Info {
    fn new(tensor: &Value) -> Option<Self> {
        let numbers = |key: &str| -> Option<Vec<u64>> {
            tensor.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
        };
        let size = match tensor.get("dtype")?.as_str()? {
            "F32" | "I32" => Some(4u64),
            "F16" | "BF16" => Some(2),
            "I64" => Some(8),
            _ => None,
        };
        let shape = numbers("shape")?;
        let expected =
            size.map(|size| shape.iter().fold(size, |product, n| product.saturating_mul(*n)));
        match numbers("data_offsets")?[..] {
            [start, end] => Some(Self { start, end, expected }),
            _ => None,
        }
    }
}

fn header_len(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
}
