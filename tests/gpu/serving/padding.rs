//! Padded rows whose states are in a pool.

use libtest_mimic::Failed;
use linear_attention::error::PoolError;
use linear_attention::serve::Entry;
use linear_attention::{Inputs, LinearAttention, Shape, reference};

use super::super::properties::{close, numbers};
use super::{Caller, D, filled_pool, is, state, state_of, states};
use crate::adapters::Gpu;

/// Each row gives what its valid tokens give alone, rows of padding are zero, whatever they hold,
/// and a row without an entry touches no state; prompts and steps.
pub(super) fn padded_rows(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    for (t, valid) in [(40, [7..40, 0..21, 5..6]), (4, [1..4, 0..2, 3..3])] {
        let (pool, slots) = filled_pool(gpu, a, 4)?;
        let shape = Shape::padded(&valid, t as u32, 1).with_slots(4);
        let caller = Caller::new(gpu, a, &pool, &shape, true)?;
        let batch = caller.batch.as_ref().ok_or("the host tells")?;
        let mut x = [1, 2, 3].map(|salt| numbers(3 * t * D, salt));
        for (x, row) in x.iter_mut().flat_map(|x| x.chunks_mut(D).enumerate().map(|(t, x)| (x, t)))
        {
            if !valid[row / t].contains(&((row % t) as u32)) {
                x.fill(f32::NAN);
            }
        }
        let entries = [Entry::new(slots[2], valid[0].len() as u32), Entry::new(slots[0], t as u32)];
        let refused = batch.write(&gpu.queue, &pool, &entries);
        is(matches!(refused, Err(PoolError::Entries { .. })), "padding as tokens")?;
        let entries = [entries[0], Entry::new(slots[0], valid[1].len() as u32)];
        batch.write(&gpu.queue, &pool, &entries)?;
        let (o, _) = caller.run(gpu, a, [&x[0], &x[1], &x[2]])?;
        let found = states(gpu, &pool)?;
        for (n, slot) in [(0, slots[2]), (1, slots[0])] {
            let range = n * t + valid[n].start as usize..n * t + valid[n].end as usize;
            let of = |x: &[f32]| x[range.start * D..range.end * D].to_vec();
            let [q, k, v] = [of(&x[0]), of(&x[1]), of(&x[2])];
            let before = state_of(slot.index());
            let (mu, nu) = before.split_at(D * D);
            let inputs = Inputs::new(&q, &k, &v).with_initial_state(mu, nu);
            let shape = Shape::new(1, range.len() as u32, 1);
            let truth = reference::recurrent(a.config(), &shape, inputs)?;
            let to_f32 = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<f32>>();
            close("o", &to_f32(&truth.o), &of(&o))?;
            let expected = to_f32(&[truth.mu, truth.nu].concat());
            close("a state", &expected, state(&found, slot))?;
            let is_zero = |row: usize| o[row * D..(row + 1) * D].iter().all(|x| *x == 0.0);
            let mut padding = (n * t..(n + 1) * t).filter(|row| !range.contains(row));
            is(padding.all(is_zero), "padding is zero")?;
        }
        is(o[2 * t * D..].iter().all(|x| *x == 0.0), "a row without an entry is zero")?;
        for slot in [slots[1], slots[3]] {
            is(state(&found, slot) == state_of(slot.index()), "a slot of no row")?;
        }
    }
    Ok(())
}
