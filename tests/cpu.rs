//! The CPU engine against the reference.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use linear_attention::cpu::CpuAttention;
use linear_attention::verify;

/// Every case of the harness whose sequences the host knows, within the bound that holds for GPUs.
#[test]
fn cases_of_the_harness() {
    let mut count = 0;
    for case in verify::cases() {
        let engine = CpuAttention::new(case.config.clone()).unwrap();
        for row in verify::check_host(&case, 0x5EED, &|shape, inputs| engine.run(shape, inputs)) {
            assert!(row.passed, "{}: {row:?}", case.name);
            count += 1;
        }
    }
    assert!(count > 300, "{count} comparisons");
}
