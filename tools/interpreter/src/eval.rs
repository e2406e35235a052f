//! Expressions, for the active invocations of a workgroup.

use naga::{
    BinaryOperator, Expression, Handle, MathFunction, RelationalFunction, ScalarKind, TypeInner,
    UnaryOperator,
};

use crate::exec::{Code, Machine};
use crate::fault::Fault;
use crate::mask::Mask;
use crate::math;
use crate::pointer::Base;
use crate::shader::{Shader, Slot, literal_word};

impl<'a> Machine<'a> {
    /// Values that no statement evaluates: constants, and pointers to variables.
    pub(crate) fn prepare(&mut self) -> Result<(), Fault> {
        for index in 0..self.shader.frames.len() {
            let code = self.code(index);
            for (handle, expression) in code.function.expressions.iter() {
                let slot = code.frame.slots[handle.index()];
                let words = match expression {
                    Expression::Literal(literal) => vec![literal_word(*literal)?],
                    Expression::Constant(constant) => {
                        self.shader.constant(self.shader.module.constants[*constant].init)?
                    }
                    Expression::ZeroValue(_) => vec![0; slot.words],
                    Expression::GlobalVariable(global) => {
                        let (base, offset) = self.shader.global(*global)?;
                        self.bases[slot.at] = base;
                        vec![offset as u32]
                    }
                    Expression::LocalVariable(local) => {
                        self.bases[slot.at] = Base::Local;
                        vec![code.frame.locals[local.index()] as u32]
                    }
                    // The initial values of variables are expressions of constants.
                    Expression::Compose { .. } | Expression::Splat { .. } => {
                        self.eval(code, handle, Mask::first(self.lanes))?;
                        continue;
                    }
                    _ => continue,
                };
                for (w, word) in words.into_iter().enumerate() {
                    let at = (slot.at + w) * self.lanes;
                    self.registers[at..at + self.lanes].fill(word);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn inner(&self, code: Code<'a>, handle: Handle<Expression>) -> &'a TypeInner {
        code.info[handle].ty.inner_with(&self.shader.module.types)
    }

    pub(crate) fn eval(
        &mut self,
        code: Code<'a>,
        handle: Handle<Expression>,
        active: Mask,
    ) -> Result<(), Fault> {
        let slots = &code.frame.slots;
        let to = slots[handle.index()];
        match code.function.expressions[handle] {
            Expression::Compose { ref components, .. } => {
                let mut at = to.at;
                for component in components {
                    let from = slots[component.index()];
                    self.copy(from.at, at, from.words, active);
                    at += from.words;
                }
            }
            Expression::Splat { value, .. } => {
                for w in 0..to.words {
                    self.copy(slots[value.index()].at, to.at + w, 1, active);
                }
            }
            Expression::Swizzle { vector, pattern, .. } => {
                let vector = slots[vector.index()].at;
                for (w, component) in pattern.iter().take(to.words).enumerate() {
                    self.copy(vector + *component as usize, to.at + w, 1, active);
                }
            }
            Expression::AccessIndex { base, index } => {
                let inner = self.inner(code, base);
                let (before, words) = self.shader.member(inner, index)?;
                let from = slots[base.index()].at;
                if !Shader::is_pointer(inner) {
                    self.copy(from + before, to.at, words, active);
                    return Ok(());
                }
                self.bases[to.at] = self.bases[from];
                for lane in 0..self.lanes {
                    let offset = self.registers[from * self.lanes + lane];
                    self.registers[to.at * self.lanes + lane] = offset.wrapping_add(before as u32);
                }
            }
            Expression::Access { base, index } => self.access(code, base, index, to, active)?,
            Expression::Load { pointer } => self.load(code, pointer, handle, active)?,
            Expression::Unary { op, expr } => self.unary(op, slots[expr.index()], to)?,
            Expression::Binary { op, left, right } => {
                self.binary(op, slots[left.index()], slots[right.index()], to, active)?;
            }
            Expression::Select { condition, accept, reject } => {
                let from = [condition, accept, reject].map(|handle| slots[handle.index()]);
                self.each(
                    from,
                    to,
                    |[condition, accept, reject]| {
                        if condition != 0 { accept } else { reject }
                    },
                );
            }
            Expression::Relational { fun, argument } => {
                self.relational(fun, slots[argument.index()], to)?;
            }
            Expression::Math { fun, arg, arg1, arg2, .. } => {
                let a = slots[arg.index()];
                let [b, c] = [arg1, arg2].map(|arg| arg.map_or(a, |arg| slots[arg.index()]));
                if fun == MathFunction::Dot {
                    for lane in 0..self.lanes {
                        let word =
                            |slot: Slot, w| self.registers[(slot.at + w) * self.lanes + lane];
                        let pairs = (0..a.words).map(|w| (word(a, w), word(b, w)));
                        self.registers[to.at * self.lanes + lane] = math::dot(a.kind, pairs);
                    }
                } else {
                    self.each([a, b, c], to, math::function(fun, a.kind)?);
                }
            }
            Expression::As { expr, kind, convert } => {
                let from = slots[expr.index()];
                let change = match convert {
                    Some(4 | 1) => math::convert(from.kind, kind)?,
                    None => |a| a,
                    Some(width) => return Err(Fault::unsupported(width)),
                };
                self.each([from; 3], to, |[a, ..]| change(a));
            }
            ref other => return Err(Fault::unsupported(other)),
        }
        Ok(())
    }

    /// `change` for each component of each invocation, active or not: nothing can go wrong.
    /// A scalar is combined with every component.
    fn each(&mut self, from: [Slot; 3], to: Slot, change: impl Fn([u32; 3]) -> u32) {
        let lanes = self.lanes;
        for w in 0..to.words {
            let at = from.map(|slot| (slot.at + if slot.words > 1 { w } else { 0 }) * lanes);
            for lane in 0..lanes {
                let words = at.map(|at| self.registers[at + lane]);
                self.registers[(to.at + w) * lanes + lane] = change(words);
            }
        }
    }

    fn unary(&mut self, op: UnaryOperator, from: Slot, to: Slot) -> Result<(), Fault> {
        let change: fn(u32) -> u32 = match (op, from.kind) {
            (UnaryOperator::Negate, ScalarKind::Float) => |a| a ^ (1 << 31),
            (UnaryOperator::Negate, ScalarKind::Sint) => u32::wrapping_neg,
            (UnaryOperator::BitwiseNot, _) => |a| !a,
            (UnaryOperator::LogicalNot, _) => |a| u32::from(a == 0),
            other => return Err(Fault::unsupported(other)),
        };
        self.each([from; 3], to, |[a, ..]| change(a));
        Ok(())
    }

    fn binary(
        &mut self,
        op: BinaryOperator,
        left: Slot,
        right: Slot,
        to: Slot,
        active: Mask,
    ) -> Result<(), Fault> {
        if math::may_fail(op, left.kind) {
            for w in 0..right.words {
                for lane in active.lanes() {
                    math::check(op, self.registers[(right.at + w) * self.lanes + lane])?;
                }
            }
        }
        let from = [left, right, right];
        // The operations of a tile, which most of the time goes into.
        let f = f32::from_bits;
        match (op, left.kind) {
            (BinaryOperator::Add, ScalarKind::Float) => {
                self.each(from, to, |[a, b, _]| (f(a) + f(b)).to_bits());
            }
            (BinaryOperator::Multiply, ScalarKind::Float) => {
                self.each(from, to, |[a, b, _]| (f(a) * f(b)).to_bits());
            }
            (op, kind) => {
                let change = math::binary(op, kind)?;
                self.each(from, to, |[a, b, _]| change(a, b));
            }
        }
        Ok(())
    }

    fn relational(&mut self, fun: RelationalFunction, from: Slot, to: Slot) -> Result<(), Fault> {
        for lane in 0..self.lanes {
            let word = |w| self.registers[(from.at + w) * self.lanes + lane];
            let mut words = (0..from.words).map(word);
            let holds = match fun {
                RelationalFunction::All => words.all(|x| x != 0),
                RelationalFunction::Any => words.any(|x| x != 0),
                other => return Err(Fault::unsupported(other)),
            };
            self.registers[to.at * self.lanes + lane] = holds.into();
        }
        Ok(())
    }
}
