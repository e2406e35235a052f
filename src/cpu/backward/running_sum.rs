//! The sum of the rows of all tokens so far.

use crate::cpu::backward::vectors::DecayFactor;
use crate::cpu::fused::mul_add;

/// Rows of a block of tokens are added up by themselves, and their sum is added with Kahan's
/// compensation, so that the error does not grow with the number of tokens.
#[derive(Clone)]
pub(super) struct RunningSum {
    /// Of the blocks before.
    sum: Vec<f32>,
    lost: Vec<f32>,
    of_block: Vec<f32>,
}

impl RunningSum {
    pub(super) fn new(len: usize) -> Self {
        Self { sum: vec![0.0; len], lost: vec![0.0; len], of_block: vec![0.0; len] }
    }

    pub(super) fn clear(&mut self) {
        for sum in [&mut self.sum, &mut self.lost, &mut self.of_block] {
            sum.fill(0.0);
        }
    }

    /// Becomes a sum, which may be shorter.
    pub(super) fn load(&mut self, sum: &[f32]) {
        self.sum[..sum.len()].copy_from_slice(sum);
    }

    /// Becomes another one of the same length.
    pub(super) fn copy(&mut self, from: &Self) {
        self.sum.copy_from_slice(&from.sum);
        self.lost.copy_from_slice(&from.lost);
        self.of_block.copy_from_slice(&from.of_block);
    }

    /// The sum at the end of a block.
    pub(super) fn sum(&self) -> &[f32] {
        &self.sum
    }

    /// Adds `factor row`.
    #[inline(always)]
    pub(super) fn add(&mut self, factor: f32, row: &[f32]) {
        for (of_block, x) in self.of_block.iter_mut().zip(row) {
            *of_block = mul_add(factor, *x, *of_block);
        }
    }

    /// The same, and writes the sum up to here.
    #[inline(always)]
    pub(super) fn add_to(&mut self, factor: f32, row: &[f32], to: &mut [f32]) {
        let rows = self.of_block.iter_mut().zip(row).zip(&self.sum).zip(to);
        for (((of_block, x), sum), to) in rows {
            *of_block = mul_add(factor, *x, *of_block);
            *to = *sum + *of_block;
        }
    }

    /// Adds the sum of a block, of which the blocks before decay.
    #[inline(always)]
    pub(super) fn end_block(&mut self, decay: DecayFactor) {
        let sums = self.sum.iter_mut().zip(&mut self.lost).zip(&mut self.of_block);
        for ((sum, lost), of_block) in sums {
            let whole = decay.whole() * *sum;
            let added = mul_add(decay.rest(), *sum, *of_block) - decay.times(*lost);
            let next = whole + added;
            *lost = (next - whole) - added;
            *sum = next;
            *of_block = 0.0;
        }
    }
}
