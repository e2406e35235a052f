//! The summary of a piece of a sequence, on the CPU.

use crate::cpu::engine::CpuAttention;
use crate::cpu::tensors::Tensors;
use crate::cpu::threads;
use crate::error::Error;
use crate::pieces::columns::{Columns, with_columns, without_average};
use crate::pieces::{Summary, check};
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;

impl CpuAttention {
    /// The summary of the tokens of a call, for any states before them: see [`Summary`].
    /// No output is computed: with F = V = 128 the rules with a sum take 0.6 times as long as
    /// [`CpuAttention::run`], and delta rules, which go through V + F columns, 1.6 times.
    ///
    /// # Errors
    ///
    /// As [`CpuAttention::run`], but for keys that vanish; [`Error::RuleTensor`] for an initial
    /// state; for a delta rule V + F beyond [`MAX_VALUE_DIM`](crate::shape::MAX_VALUE_DIM).
    pub fn summarize(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Summary, Error> {
        let config = self.config();
        check(config, shape, inputs)?;
        let own = without_average(config);
        inputs.check_by(&own, shape, threads::largest_bits)?;
        let engine = self.with_config(with_columns(&own))?;
        let output = if config.update_rule.beta().is_some() {
            let columns = Columns::new(config, shape, inputs)?;
            engine.final_state(&columns.shape, columns.inputs(inputs))?
        } else {
            engine.final_state(shape, inputs)?
        };
        Summary::of_output(config, shape, inputs, &output)
    }

    /// The final state alone; o is all zero.
    fn final_state(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
        let mut plan = self.plan(shape)?;
        // Pages of zeros take no memory until somebody writes to them.
        let mut output = Output::zeros(plan.lens());
        plan.run_without_outputs(Tensors::of(inputs, &mut output))?;
        Ok(output)
    }
}
