//! Branches, loops and barriers: which invocations go on.

use naga::{Barrier, Block, Expression, Handle, SwitchCase, SwitchValue};

use crate::exec::{Code, Machine};
use crate::fault::{Fault, FaultKind};
use crate::mask::Mask;

/// Iterations of one loop after which it is said to have no end.
const MAX_ITERATIONS: u32 = 1 << 14;

/// The invocations that have left a loop's iteration, the loop, or the function.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) continued: Mask,
    pub(crate) broken: Mask,
    pub(crate) returned: Mask,
}

impl<'a> Machine<'a> {
    pub(crate) fn switch(
        &mut self,
        code: Code<'a>,
        selector: Handle<Expression>,
        cases: &'a [SwitchCase],
        active: Mask,
        left: &mut Left,
    ) -> Result<Mask, Fault> {
        let at = code.frame.slots[selector.index()].at * self.lanes;
        let of = |value: u32| active.filter(|lane| self.registers[at + lane] == value);
        let mut rest = active;
        let mut chosen = Vec::with_capacity(cases.len());
        for case in cases {
            let mask = match case.value {
                SwitchValue::U32(value) => of(value),
                SwitchValue::I32(value) => of(value.cast_unsigned()),
                SwitchValue::Default => Mask::default(),
            };
            rest = rest & !mask;
            chosen.push(mask);
        }
        let mut within = Left::default();
        let (mut falling, mut after) = (Mask::default(), Mask::default());
        for (case, mask) in cases.iter().zip(chosen) {
            let is_default = matches!(case.value, SwitchValue::Default);
            let mask = mask | falling | if is_default { rest } else { Mask::default() };
            let ended = self.block(code, &case.body, mask, &mut within)?;
            (falling, after) =
                if case.fall_through { (ended, after) } else { (Mask::default(), after | ended) };
        }
        left.continued |= within.continued;
        left.returned |= within.returned;
        Ok(after | falling | within.broken)
    }

    pub(crate) fn repeat(
        &mut self,
        code: Code<'a>,
        (body, continuing, break_if): (&'a Block, &'a Block, Option<Handle<Expression>>),
        mut active: Mask,
        left: &mut Left,
    ) -> Result<Mask, Fault> {
        let mut after = Mask::default();
        for _ in 0..MAX_ITERATIONS {
            if active.is_empty() {
                return Ok(after);
            }
            let mut within = Left::default();
            let ended = self.block(code, body, active, &mut within)?;
            left.returned |= within.returned;
            after |= within.broken;
            active =
                self.block(code, continuing, ended | within.continued, &mut Left::default())?;
            if let Some(condition) = break_if {
                let at = code.frame.slots[condition.index()].at * self.lanes;
                let done = active.filter(|lane| self.registers[at + lane] != 0);
                after |= done;
                active = active & !done;
            }
        }
        Err(Fault::new(FaultKind::Endless, format!("a loop of {MAX_ITERATIONS} iterations")))
    }

    pub(crate) fn check_uniform(&self, active: Mask) -> Result<(), Fault> {
        if active == Mask::first(self.lanes) {
            return Ok(());
        }
        let count = active.lanes().count();
        let message = format!("{count} of {} invocations reach a barrier or a shuffle", self.lanes);
        Err(Fault::new(FaultKind::Barrier, message))
    }

    pub(crate) fn pass_barrier(&mut self, barrier: Barrier) -> Result<(), Fault> {
        if barrier.contains(Barrier::WORK_GROUP) {
            self.shared.tick();
        }
        if barrier.contains(Barrier::STORAGE) {
            self.storage.tick();
        }
        let known = Barrier::WORK_GROUP | Barrier::STORAGE;
        if known.contains(barrier) { Ok(()) } else { Err(Fault::unsupported(barrier)) }
    }
}
