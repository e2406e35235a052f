//! Any text as a feature map: a map or an error.

use linear_attention::feature_map::CustomMap;

/// Makes a map of the text that the bytes are.
pub fn run(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = CustomMap::new("fuzzed", text, 8, |_, _, _| {});
    }
}
