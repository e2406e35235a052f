//! Accesses to memory: elements, loads, stores and atomics.

use naga::{AtomicFunction, Expression, Handle};

use crate::exec::{Code, Machine};
use crate::fault::{Fault, FaultKind};
use crate::mask::Mask;
use crate::memory::View;
use crate::pointer::Base;
use crate::shader::{Shader, Slot};

impl<'a> Machine<'a> {
    /// An element whose index is a value.
    pub(crate) fn access(
        &mut self,
        code: Code<'a>,
        base: Handle<Expression>,
        index: Handle<Expression>,
        to: Slot,
        active: Mask,
    ) -> Result<(), Fault> {
        let inner = self.inner(code, base);
        let elements = self.shader.elements(inner)?;
        let (base, index) = (code.frame.slots[base.index()], code.frame.slots[index.index()]);
        let is_pointer = Shader::is_pointer(inner);
        let view = match (self.bases[base.at], elements.count) {
            (Base::Bound(binding), None) => Some(self.view(binding)?),
            _ => None,
        };
        if is_pointer {
            self.bases[to.at] = self.bases[base.at];
        }
        for lane in active.lanes() {
            let index = self.registers[index.at * self.lanes + lane] as usize;
            let offset = self.registers[base.at * self.lanes + lane] as usize;
            let bound = view.map_or(0, |view| view.len.saturating_sub(offset) / elements.stride);
            let count = elements.count.unwrap_or(bound);
            if index >= count {
                let message = format!("index {index} of {count} elements");
                return Err(Fault::new(FaultKind::OutOfBounds, message));
            }
            if is_pointer {
                self.registers[to.at * self.lanes + lane] =
                    (offset + index * elements.stride) as u32;
                continue;
            }
            for w in 0..to.words {
                let from = base.at + index * elements.stride + w;
                self.registers[(to.at + w) * self.lanes + lane] =
                    self.registers[from * self.lanes + lane];
            }
        }
        Ok(())
    }

    /// Reads what a pointer points to into the registers of an expression.
    pub(crate) fn load(
        &mut self,
        code: Code<'a>,
        pointer: Handle<Expression>,
        to: Handle<Expression>,
        active: Mask,
    ) -> Result<(), Fault> {
        let is_atomic = self.shader.is_atomic(self.inner(code, pointer));
        let [from, to] = [pointer, to].map(|handle| code.frame.slots[handle.index()]);
        let base = self.bases[from.at];
        if base != Base::Local {
            self.statistics.accesses += (active.lanes().count() * to.words) as u64;
        }
        for lane in active.lanes() {
            let offset = self.registers[from.at * self.lanes + lane] as usize;
            for w in 0..to.words {
                let (at, i) = (offset + w, lane as u32);
                let word = match base {
                    Base::Local => self.locals[at * self.lanes + lane],
                    Base::Shared if is_atomic => self.shared.atomic(at, i, false, |a| a)?,
                    Base::Shared => self.shared.load(at, i)?,
                    Base::Bound(binding) if is_atomic => {
                        let view = self.view(binding)?;
                        self.storage.atomic(view, at, i, |a| a)?
                    }
                    Base::Bound(binding) => {
                        let view = self.view(binding)?;
                        self.storage.load(view, at, i)?
                    }
                };
                self.registers[(to.at + w) * self.lanes + lane] = word;
            }
        }
        Ok(())
    }

    /// Writes a value to what a pointer points to.
    pub(crate) fn store(
        &mut self,
        code: Code<'a>,
        pointer: Handle<Expression>,
        value: Handle<Expression>,
        active: Mask,
    ) -> Result<(), Fault> {
        let is_atomic = self.shader.is_atomic(self.inner(code, pointer));
        let [to, from] = [pointer, value].map(|handle| code.frame.slots[handle.index()]);
        let base = self.bases[to.at];
        if base != Base::Local {
            self.statistics.accesses += (active.lanes().count() * from.words) as u64;
        }
        for lane in active.lanes() {
            let offset = self.registers[to.at * self.lanes + lane] as usize;
            for w in 0..from.words {
                let word = self.registers[(from.at + w) * self.lanes + lane];
                let (at, i) = (offset + w, lane as u32);
                match base {
                    Base::Local => self.locals[at * self.lanes + lane] = word,
                    Base::Shared if is_atomic => {
                        self.shared.atomic(at, i, true, |_| word)?;
                    }
                    Base::Shared => self.shared.store(at, i, word)?,
                    Base::Bound(binding) => {
                        let view = self.view(binding)?;
                        if is_atomic {
                            self.storage.atomic(view, at, i, |_| word)?;
                        } else {
                            self.storage.store(view, at, i, word)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn atomic(
        &mut self,
        code: Code<'a>,
        (pointer, fun, value): (Handle<Expression>, &AtomicFunction, Handle<Expression>),
        result: Option<Handle<Expression>>,
        active: Mask,
    ) -> Result<(), Fault> {
        let slots = &code.frame.slots;
        let [at, value] = [pointer, value].map(|handle| slots[handle.index()]);
        if value.kind != naga::ScalarKind::Uint {
            return Err(Fault::unsupported(fun));
        }
        self.statistics.accesses += active.lanes().count() as u64;
        for lane in active.lanes() {
            let offset = self.registers[at.at * self.lanes + lane] as usize;
            let operand = self.registers[value.at * self.lanes + lane];
            let change: fn(u32, u32) -> u32 = match fun {
                AtomicFunction::Add => u32::wrapping_add,
                AtomicFunction::Subtract => u32::wrapping_sub,
                AtomicFunction::And => |a, b| a & b,
                AtomicFunction::InclusiveOr => |a, b| a | b,
                AtomicFunction::ExclusiveOr => |a, b| a ^ b,
                AtomicFunction::Min => u32::min,
                AtomicFunction::Max => u32::max,
                AtomicFunction::Exchange { compare: None } => |_, b| b,
                AtomicFunction::Exchange { .. } => return Err(Fault::unsupported(fun)),
            };
            let is_write = matches!(fun, AtomicFunction::Exchange { .. });
            let before = match self.bases[at.at] {
                Base::Bound(binding) => {
                    let view = self.view(binding)?;
                    let invocation = self.index * self.lanes as u32 + lane as u32;
                    let changed = match fun {
                        AtomicFunction::And => !operand,
                        AtomicFunction::InclusiveOr => operand,
                        _ => 0,
                    };
                    self.storage.own_halves(view, offset, invocation, changed)?;
                    self.storage.atomic(view, offset, lane as u32, |a| change(a, operand))?
                }
                Base::Shared => {
                    self.shared.atomic(offset, lane as u32, is_write, |a| change(a, operand))?
                }
                Base::Local => return Err(Fault::unsupported("an atomic of a function")),
            };
            if let Some(result) = result {
                self.registers[slots[result.index()].at * self.lanes + lane] = before;
            }
        }
        Ok(())
    }

    /// The range that is bound.
    fn view(&self, binding: u32) -> Result<View, Fault> {
        let view = self.views.iter().find(|view| view.binding == binding);
        view.copied().ok_or_else(|| {
            let message = format!("nothing is bound to binding {binding}");
            Fault::new(FaultKind::OutOfBounds, message)
        })
    }
}
