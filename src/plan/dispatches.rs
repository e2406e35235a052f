//! The dispatches of a plan and their grids.

use crate::error::PlanError;
use crate::kernel::layout::{BLOCK_ENTRIES, SCAN_THREADS};
use crate::kernel::stage::Stage;
use crate::plan::{Dispatch, Plan};

impl Plan {
    pub(super) fn add_dispatches(&mut self, limits: &wgpu::Limits) -> Result<(), PlanError> {
        let items = self.tuning.layout.items();
        let sequences = u64::from(self.shape.entries());
        // The tokens after the last sequence are one more entry.
        let entries = sequences + u64::from(self.has_entries());
        let heads = u64::from(self.shape.value_heads);
        if self.reads_sequences() {
            for stage in [Stage::SequenceClaims, Stage::SequenceConflicts] {
                self.checks.push(fold(stage, sequences + 1, BLOCK_ENTRIES, limits)?);
            }
        }
        if self.config.gates().is_some() {
            let elements =
                (self.total_tokens() * heads).saturating_mul(self.config.gate_row().into());
            self.dispatches.push(fold(Stage::TokenGates, elements, SCAN_THREADS, limits)?);
        }
        if let Some(decode) = self.decode {
            self.dispatches.push(fold(Stage::DecodeStep, entries * heads, decode.items, limits)?);
            return Ok(());
        }
        if self.has_table() {
            self.dispatches.push(fold(Stage::SequenceTable, entries, SCAN_THREADS, limits)?);
        }
        let per_segment = heads * u64::from(self.value_blocks()) * u64::from(self.feature_blocks());
        if self.segmentation.max_segments > 1 {
            // With equal lengths, the last segment of each sequence has no work item here.
            let adding = self.segmentation.capacity - if self.has_table() { 0 } else { sequences };
            let work = adding.saturating_mul(per_segment);
            self.dispatches.push(fold(Stage::SegmentState, work, items, limits)?);
            if self.has_transitions() {
                let work = adding * heads * u64::from(self.transition_blocks());
                self.dispatches.push(fold(Stage::SegmentTransition, work, items, limits)?);
            }
        }
        if self.has_transitions() {
            let width = if self.config.is_vec4() { 4 } else { 1 };
            let columns = sequences * heads * u64::from(self.config.value_dim / width);
            self.dispatches.push(fold(Stage::TransitionScan, columns, 1, limits)?);
        } else if self.has_segment_states() {
            let elements =
                sequences * u64::from(self.state_len) / if self.config.is_vec4() { 4 } else { 1 };
            self.dispatches.push(fold(Stage::StateScan, elements, SCAN_THREADS, limits)?);
        }
        let blocks = u64::from(self.head_blocks());
        let outputs = self.segmentation.capacity.saturating_mul(per_segment).saturating_mul(blocks);
        self.dispatches.push(fold(Stage::SegmentOutput, outputs, items, limits)?);
        if self.feature_blocks() > 1 && self.o_rows() > 0 {
            let vec4s = self.o_rows() * u64::from(self.config.value_dim.div_ceil(4));
            self.dispatches.push(fold(Stage::OutputSum, vec4s, SCAN_THREADS, limits)?);
        }
        Ok(())
    }
}

/// A dispatch over `items` work items, `per_workgroup` to a workgroup. Workgroups beyond the
/// limit of x continue along y.
fn fold(
    stage: Stage,
    items: u64,
    per_workgroup: u32,
    limits: &wgpu::Limits,
) -> Result<Dispatch, PlanError> {
    let workgroups = items.div_ceil(per_workgroup.into()).max(1);
    let widest = u64::from(limits.max_compute_workgroups_per_dimension).max(1);
    let x = workgroups.min(widest);
    let y = workgroups.div_ceil(x);
    let required = (widest * widest).min(u64::from(u32::MAX) / u64::from(per_workgroup));
    if y > widest || x * y > required {
        return Err(PlanError::TooManyWorkgroups {
            stage: stage.name(),
            required,
            actual: workgroups,
        });
    }
    Ok(Dispatch { stage, workgroups: [x as u32, y as u32, 1] })
}
