//! Statements: a workgroup goes through them together.

use naga::valid::FunctionInfo;
use naga::{Barrier, Block, BuiltIn, Expression, Function, GatherMode, Handle, Span, Statement};

use crate::fault::{Fault, FaultKind};
use crate::flow::Left;
use crate::history::Clock;
use crate::mask::Mask;
use crate::memory::{Checks, Memory, Shared, Storage, View};
use crate::pointer::Base;
use crate::shader::{Frame, Shader};

/// The amount of work that was executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a literal names each, and there are no more")]
pub struct Statistics {
    /// Invocations of all workgroups.
    pub invocations: u64,
    /// Words of storage and of workgroup memory that were read or written.
    pub accesses: u64,
}

/// Executes the entry point for `workgroups` workgroups along x, y and z.
///
/// # Errors
///
/// The first fault.
pub fn dispatch(
    shader: &Shader,
    views: &[View],
    memory: &mut Memory,
    workgroups: [u32; 3],
    checks: Checks,
) -> Result<Statistics, Fault> {
    let mut storage = Storage { memory, clock: Clock::default(), checks };
    storage.begin_dispatch();
    let lanes = shader.lanes();
    let mut machine = Machine {
        shader,
        lanes,
        registers: vec![0; shader.sizes.registers * lanes],
        bases: vec![Base::default(); shader.sizes.registers],
        locals: vec![0; shader.sizes.locals * lanes],
        shared: Shared::new(shader.sizes.shared, checks),
        storage,
        views,
        workgroup: [0; 3],
        index: 0,
        statistics: Statistics::default(),
    };
    machine.prepare()?;
    let [x, y, z] = workgroups;
    for z in 0..z {
        for y in 0..y {
            for x in 0..x {
                machine.run([x, y, z], workgroups)?;
            }
        }
    }
    Ok(machine.statistics)
}

pub(crate) struct Machine<'a> {
    pub(crate) shader: &'a Shader,
    /// Invocations of a workgroup.
    pub(crate) lanes: usize,
    /// `[register, invocation]`.
    pub(crate) registers: Vec<u32>,
    /// Of each register that holds the offset of a pointer.
    pub(crate) bases: Vec<Base>,
    /// `[word, invocation]`.
    pub(crate) locals: Vec<u32>,
    pub(crate) shared: Shared,
    pub(crate) storage: Storage<'a>,
    pub(crate) views: &'a [View],
    workgroup: [u32; 3],
    /// Of the workgroup, among all.
    pub(crate) index: u32,
    pub(crate) statistics: Statistics,
}

/// A function that is executed.
#[derive(Clone, Copy)]
pub(crate) struct Code<'a> {
    pub(crate) function: &'a Function,
    pub(crate) info: &'a FunctionInfo,
    pub(crate) frame: &'a Frame,
}

impl<'a> Machine<'a> {
    pub(crate) fn code(&self, index: usize) -> Code<'a> {
        let (function, info) = self.shader.function(index);
        Code { function, info, frame: &self.shader.frames[index] }
    }

    fn run(&mut self, workgroup: [u32; 3], workgroups: [u32; 3]) -> Result<(), Fault> {
        self.storage.begin_workgroup();
        self.shared.begin_workgroup();
        self.workgroup = workgroup;
        let code = self.code(self.shader.entry());
        self.fill_builtins(code, workgroups)?;
        let all = Mask::first(self.lanes);
        self.call(code, all)?;
        self.index += 1;
        self.statistics.invocations += self.lanes as u64;
        Ok(())
    }

    /// The arguments of the entry point.
    fn fill_builtins(&mut self, code: Code<'a>, workgroups: [u32; 3]) -> Result<(), Fault> {
        let size = self.shader.module.entry_points[0].workgroup_size;
        for (handle, expression) in code.function.expressions.iter() {
            let Expression::FunctionArgument(argument) = expression else { continue };
            let binding = &code.function.arguments[*argument as usize].binding;
            let Some(naga::Binding::BuiltIn(builtin)) = binding else {
                return Err(Fault::unsupported(binding));
            };
            let slot = code.frame.slots[handle.index()];
            for lane in 0..self.lanes {
                let i = lane as u32;
                let local = [i % size[0], i / size[0] % size[1], i / (size[0] * size[1])];
                let words = match builtin {
                    BuiltIn::WorkGroupId => self.workgroup,
                    BuiltIn::NumWorkGroups => workgroups,
                    BuiltIn::LocalInvocationIndex => [i; 3],
                    BuiltIn::LocalInvocationId => local,
                    BuiltIn::GlobalInvocationId => {
                        std::array::from_fn(|d| self.workgroup[d] * size[d] + local[d])
                    }
                    builtin => return Err(Fault::unsupported(builtin)),
                };
                for (w, word) in words.into_iter().take(slot.words).enumerate() {
                    self.registers[(slot.at + w) * self.lanes + lane] = word;
                }
            }
        }
        Ok(())
    }

    /// Executes a function whose arguments are in its registers.
    fn call(&mut self, code: Code<'a>, active: Mask) -> Result<(), Fault> {
        for (handle, local) in code.function.local_variables.iter() {
            let at = code.frame.locals[handle.index()];
            for w in 0..self.shader.words[local.ty.index()] {
                let init = local.init.map(|init| code.frame.slots[init.index()].at + w);
                for lane in active.lanes() {
                    let word = init.map_or(0, |init| self.registers[init * self.lanes + lane]);
                    self.locals[(at + w) * self.lanes + lane] = word;
                }
            }
        }
        self.block(code, &code.function.body, active, &mut Left::default()).map(|_| ())
    }

    /// Returns the invocations that reach the end of the block.
    pub(crate) fn block(
        &mut self,
        code: Code<'a>,
        block: &'a Block,
        mut active: Mask,
        left: &mut Left,
    ) -> Result<Mask, Fault> {
        for (statement, span) in block.span_iter() {
            if active.is_empty() {
                break;
            }
            active = self
                .statement(code, statement, active, left)
                .map_err(|fault| fault.at(|| self.line(code, statement, span)))?;
        }
        Ok(active)
    }

    fn line(&self, code: Code<'a>, statement: &Statement, span: &Span) -> u32 {
        // A store without a span has the span of its value.
        let of_value = match statement {
            Statement::Store { pointer, .. } => code.function.expressions.get_span(*pointer),
            _ => Span::UNDEFINED,
        };
        [*span, of_value]
            .into_iter()
            .map(|span| self.shader.line(span))
            .find(|l| *l > 0)
            .unwrap_or(0)
    }

    fn statement(
        &mut self,
        code: Code<'a>,
        statement: &'a Statement,
        active: Mask,
        left: &mut Left,
    ) -> Result<Mask, Fault> {
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    self.eval(code, handle, active).map_err(|fault| {
                        let span = code.function.expressions.get_span(handle);
                        fault.at(|| self.shader.line(span))
                    })?;
                }
            }
            Statement::Block(block) => return self.block(code, block, active, left),
            Statement::If { condition, accept, reject } => {
                let at = code.frame.slots[condition.index()].at * self.lanes;
                let taken = active.filter(|lane| self.registers[at + lane] != 0);
                let other = active & !taken;
                return Ok(self.block(code, accept, taken, left)?
                    | self.block(code, reject, other, left)?);
            }
            Statement::Switch { selector, cases } => {
                return self.switch(code, *selector, cases, active, left);
            }
            Statement::Loop { body, continuing, break_if } => {
                return self.repeat(code, (body, continuing, *break_if), active, left);
            }
            Statement::Break => {
                left.broken |= active;
                return Ok(Mask::default());
            }
            Statement::Continue => {
                left.continued |= active;
                return Ok(Mask::default());
            }
            Statement::Return { value } => {
                if let Some(value) = value {
                    let slot = code.frame.slots[value.index()];
                    self.copy(slot.at, code.frame.result, slot.words, active);
                }
                left.returned |= active;
                return Ok(Mask::default());
            }
            Statement::ControlBarrier(barrier) => {
                self.check_uniform(active)?;
                self.pass_barrier(*barrier)?;
            }
            Statement::Store { pointer, value } => self.store(code, *pointer, *value, active)?,
            Statement::Atomic { pointer, fun, value, result } => {
                self.atomic(code, (*pointer, fun, *value), *result, active)?;
            }
            Statement::WorkGroupUniformLoad { pointer, result } => {
                self.check_uniform(active)?;
                self.pass_barrier(Barrier::WORK_GROUP)?;
                self.load(code, *pointer, *result, active)?;
                self.pass_barrier(Barrier::WORK_GROUP)?;
            }
            Statement::SubgroupGather { mode: GatherMode::ShuffleXor(mask), argument, result } => {
                self.shuffle_xor(code, (*mask, *argument), *result, active)?;
            }
            Statement::Call { function, arguments, result } => {
                let callee = Code {
                    function: &self.shader.module.functions[*function],
                    info: &self.shader.info[*function],
                    frame: &self.shader.frames[function.index()],
                };
                self.pass_arguments(code, callee, arguments, active);
                self.call(callee, active)?;
                if let Some(result) = result {
                    let slot = code.frame.slots[result.index()];
                    self.copy(callee.frame.result, slot.at, slot.words, active);
                }
            }
            other => return Err(Fault::unsupported(other)),
        }
        Ok(active)
    }

    /// The argument of the invocation whose number differs in the bits of the mask. Subgroups have
    /// invocations in order, and so many that each of those is in one.
    fn shuffle_xor(
        &mut self,
        code: Code<'a>,
        (mask, argument): (Handle<Expression>, Handle<Expression>),
        result: Handle<Expression>,
        active: Mask,
    ) -> Result<(), Fault> {
        self.check_uniform(active)?;
        let [mask, from, to] =
            [mask, argument, result].map(|handle| code.frame.slots[handle.index()]);
        for lane in active.lanes() {
            let other = lane ^ self.registers[mask.at * self.lanes + lane] as usize;
            if other >= self.lanes {
                return Err(Fault::new(FaultKind::OutOfBounds, format!("invocation {other}")));
            }
            for w in 0..from.words {
                self.registers[(to.at + w) * self.lanes + lane] =
                    self.registers[(from.at + w) * self.lanes + other];
            }
        }
        Ok(())
    }

    fn pass_arguments(
        &mut self,
        code: Code<'a>,
        callee: Code<'a>,
        arguments: &[Handle<Expression>],
        active: Mask,
    ) {
        for (handle, expression) in callee.function.expressions.iter() {
            let Expression::FunctionArgument(argument) = expression else { continue };
            let from = code.frame.slots[arguments[*argument as usize].index()];
            let to = callee.frame.slots[handle.index()];
            self.bases[to.at] = self.bases[from.at];
            self.copy(from.at, to.at, from.words, active);
        }
    }

    /// Copies registers of the active invocations.
    pub(crate) fn copy(&mut self, from: usize, to: usize, words: usize, active: Mask) {
        if active == Mask::first(self.lanes) {
            let from = from * self.lanes..(from + words) * self.lanes;
            self.registers.copy_within(from, to * self.lanes);
            return;
        }
        for w in 0..words {
            for lane in active.lanes() {
                self.registers[(to + w) * self.lanes + lane] =
                    self.registers[(from + w) * self.lanes + lane];
            }
        }
    }
}
