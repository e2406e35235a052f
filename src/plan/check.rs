//! Refusals of calls that are too large to index or to bind.

use crate::error::PlanError;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::tensor::Tensor;

impl Plan {
    /// Refuses more tokens or words of sequences than an index can pass without wrapping.
    pub(super) fn check_sequences(&self) -> Result<(), PlanError> {
        // The index of a token, chunk or segment beyond the last must not wrap to 0, so that loops
        // with `t += chunk_len` end.
        let (required, actual) = (1 << 31, self.shape.batch.saturating_mul(self.shape.seq_len));
        if actual > required {
            return Err(PlanError::SeqLen { required, actual });
        }
        let words = self.sequences_size() / F32_SIZE;
        if words > u64::from(u32::MAX) {
            let what = Tensor::Sequences.name();
            return Err(PlanError::TooManyElements { what, actual: words });
        }
        Ok(())
    }

    /// Refuses tensors and scratch beyond the limits.
    pub(super) fn check_sizes(&self, limits: &wgpu::Limits) -> Result<(), PlanError> {
        let binding = limits.max_storage_buffer_binding_size;
        let required = binding.min(limits.max_buffer_size);
        let tensors = [
            Tensor::Q,
            Tensor::K,
            Tensor::V,
            Tensor::O,
            Tensor::Decay,
            Tensor::Beta,
            Tensor::GateWeights,
            self.final_state(),
        ];
        let tensors = tensors.map(|tensor| (tensor.name(), self.bytes(tensor), required));
        let sequences = (Tensor::Sequences.name(), self.sequences_size(), required);
        let parts =
            self.scratch.parts().map(|(what, range)| (what, range.end - range.start, required));
        let scratch = ("scratch", self.scratch_size(), limits.max_buffer_size);
        let all = tensors.into_iter().chain(parts).chain([sequences, scratch]);
        for (what, actual, required) in all {
            if actual <= required {
                continue;
            }
            if what == "pool" {
                let largest = required.checked_div(self.state_size()).map(|slots| slots as u32);
                return Err(PlanError::PoolTooLarge { required, actual, largest });
            }
            let one = actual / u64::from(self.shape.batch);
            let largest_batch = match self.shape.is_packed() {
                false => required.checked_div(one).map(|b| b as u32),
                true => None,
            };
            return Err(PlanError::TooLarge { what, required, actual, largest_batch });
        }
        Ok(())
    }
}
