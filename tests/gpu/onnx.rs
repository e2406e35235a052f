//! ONNX's node tests of `LinearAttention` on an adapter.

use libtest_mimic::Failed;
use linear_attention::LinearAttention;

use super::Test;
use crate::adapters::Gpu;

#[path = "../onnx/cases.rs"]
mod cases;

pub(crate) const TESTS: &[(&str, Test)] = &[("onnx::all_pass", all_pass)];

fn all_pass(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let cases = cases::cases();
    for case in &cases {
        let attention = LinearAttention::new(&gpu.device, case.config.clone())?;
        let out = attention.run(&gpu.queue, &case.shape, case.inputs())?;
        if let Some(difference) = case.difference(&out.o, &out.mu) {
            return Err(format!("{}: {difference}", case.name).into());
        }
    }
    if cases.len() == 14 { Ok(()) } else { Err("ONNX has 14 cases".into()) }
}
