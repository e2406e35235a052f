//! The grids of the stages of a backward pass.

use std::ops::Range;

use crate::backward::plan::BackwardPlan;
use crate::backward::plan::rows::pass_vec4s;
use crate::backward::plan::scratch::MapRows;
use crate::error::PlanError;
use crate::kernel::gradient::{CorrectionSizes, GradientStage};
use crate::kernel::layout::SCAN_THREADS;

impl BackwardPlan {
    /// Tokens behind the last of packed sequences, which passes in reversed time do not have.
    pub(crate) fn tokens_behind(&self) -> Range<u64> {
        let used = self.ranges.last().map_or(0, |range| range.end as u64);
        let tokens = u64::from(self.shape().batch) * u64::from(self.shape().seq_len);
        if self.shape().is_packed() { used..tokens } else { tokens..tokens }
    }

    pub(super) fn grid(
        &self,
        stage: GradientStage,
        limits: &wgpu::Limits,
    ) -> Result<[u32; 3], PlanError> {
        let (config, shape) = (self.forward.config(), self.shape());
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let [q, k, e, h] =
            [shape.heads, shape.key_heads, shape.value_heads, shape.output_heads()].map(u64::from);
        let (lens, rows) = (self.lens(), MapRows::new(config));
        let [pass_keys, pass_values] = pass_vec4s(config);
        let has_beta = config.update_rule.beta().is_some();
        let threads = match stage {
            GradientStage::TokenGates => tokens * e * u64::from(config.gate_row()),
            GradientStage::Projections => tokens * (e + h) * rows.projection_vec4s(),
            GradientStage::Features => tokens * (e + h) + lens.state,
            GradientStage::PassDecays => {
                let has_decay = config.update_rule.decay().is_some();
                tokens * (if has_decay { e + h } else { 0 } + if has_beta { e } else { 0 })
            }
            GradientStage::Corrections | GradientStage::CorrectionsReversed => {
                let blocks = CorrectionSizes::new(config).blocks(config);
                u64::from(shape.sequences()) * e * u64::from(blocks) * u64::from(SCAN_THREADS)
            }
            GradientStage::CorrectionRows => tokens * e,
            GradientStage::Decays => self.decays.blocks.len() as u64 * e * u64::from(SCAN_THREADS),
            GradientStage::PassInputs => {
                let zeros = if has_beta { e } else { 0 };
                let heads = u64::from(shape.sequences()) * (e + h + zeros);
                let of_token = match has_beta {
                    true => (h + e) * pass_keys,
                    false => h * (pass_values + pass_keys),
                };
                let behind = self.tokens_behind();
                let behind = (behind.end - behind.start) * of_token;
                tokens * e * pass_values + heads * 16 * pass_keys * pass_values + behind
            }
            GradientStage::OutputRows => tokens * h,
            GradientStage::GroupSums => tokens * e * pass_keys,
            GradientStage::PassOutputs => {
                tokens * e * u64::from(config.value_dim.div_ceil(4)) + lens.state
            }
            GradientStage::Maps => tokens * (e + h),
            GradientStage::Rows => tokens * (q + k) + lens.state,
            GradientStage::Gates => lens.decay + lens.beta + lens.gate_weights,
            GradientStage::Recurrence => {
                let items =
                    u64::from(shape.sequences()) * e * u64::from(self.recurrence.value_blocks);
                items * u64::from(SCAN_THREADS)
            }
            GradientStage::ColumnSums => {
                let features = u64::from(config.features());
                let gates = if config.gates().is_some() { config.gate_row() } else { 0 };
                let rows = (e + h) * features.div_ceil(4) + e * u64::from(gates);
                tokens * rows + lens.nu
            }
            // A thread has four rows of the weights of a head, or b.
            GradientStage::Weights => {
                let tiles = e * rows.weights[0] + h * rows.weights[1];
                let pieces = tokens.div_ceil(self.piece.into());
                pieces * tiles * (rows.elements + 1)
            }
            // As many heads as may have weights of their own.
            GradientStage::WeightSums => k * rows.head_vec4s(0) + q * rows.head_vec4s(1),
        };
        let workgroups = threads.div_ceil(SCAN_THREADS.into()).max(1);
        let widest = u64::from(limits.max_compute_workgroups_per_dimension).max(1);
        let x = workgroups.min(widest);
        let y = workgroups.div_ceil(x);
        let required = (widest * widest).min(u64::from(u32::MAX) / u64::from(SCAN_THREADS));
        if x * y > required {
            let (stage, actual) = (stage.name(), workgroups);
            return Err(PlanError::TooManyWorkgroups { stage, required, actual });
        }
        Ok([x as u32, y as u32, 1])
    }
}
