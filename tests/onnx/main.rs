//! ONNX's node tests of `LinearAttention`, on the references; tests/gpu has them on adapters.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod cases;

use linear_attention::reference::{mirror, naive, recurrent};

#[test]
fn all_pass() {
    let cases = cases::cases();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let (config, shape, inputs) = (&case.config, &case.shape, case.inputs());
        for out in [naive(config, shape, inputs), recurrent(config, shape, inputs)] {
            let out = out.unwrap();
            assert_eq!(case.difference(&out.o, &out.mu), None, "{}", case.name);
        }
        let out = mirror(config, shape, inputs).unwrap();
        assert_eq!(case.difference(&out.o, &out.mu), None, "{}: mirror", case.name);
    }
}
