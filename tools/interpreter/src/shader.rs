//! A module, and a place for each value of it.

use naga::proc::TypeResolution;
use naga::valid::{Capabilities, FunctionInfo, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, ArraySize, Expression, Function, Handle, Scalar, ScalarKind, Type, TypeInner,
};

use crate::fault::{Fault, FaultKind};
use crate::mask::MAX_LANES;

/// A module with one entry point, ready to be dispatched.
#[derive(Debug)]
pub struct Shader {
    pub(crate) module: naga::Module,
    pub(crate) info: ModuleInfo,
    pub(crate) source: String,
    /// Of each function, and last of the entry point.
    pub(crate) frames: Vec<Frame>,
    /// Words of each type; of a runtime-sized array those of an element.
    pub(crate) words: Vec<usize>,
    /// Words of registers, local and workgroup memory.
    pub(crate) sizes: Sizes,
    /// The first word of each variable of workgroup memory.
    pub(crate) globals: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) registers: usize,
    pub(crate) locals: usize,
    pub(crate) shared: usize,
}

/// The places of a function's values. There is one frame a function, since WGSL has no recursion.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) slots: Vec<Slot>,
    /// The first word of each local variable.
    pub(crate) locals: Vec<usize>,
    /// The registers of the result.
    pub(crate) result: usize,
}

/// The registers of an expression.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) at: usize,
    pub(crate) words: usize,
    /// Of its components, where they are alike.
    pub(crate) kind: ScalarKind,
}

impl Shader {
    /// Parses and validates a module.
    ///
    /// # Errors
    ///
    /// [`FaultKind::Unsupported`] where naga refuses it, or where it uses what the interpreter does
    /// not know.
    pub fn parse(wgsl: &str) -> Result<Self, Fault> {
        let refuse = |message: String| Fault::new(FaultKind::Unsupported, message);
        let module = naga::front::wgsl::parse_str(wgsl)
            .map_err(|error| refuse(error.emit_to_string(wgsl)))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP)
            .validate(&module)
            .map_err(|error| refuse(error.emit_to_string(wgsl)))?;
        let mut words = Vec::with_capacity(module.types.len());
        for (_, ty) in module.types.iter() {
            // A type comes after those that it is made of.
            let size = words_of(&ty.inner, &words)?;
            words.push(size);
        }
        let mut shader = Self {
            module,
            info,
            source: wgsl.to_owned(),
            frames: Vec::new(),
            words,
            sizes: Sizes::default(),
            globals: Vec::new(),
        };
        shader.place()?;
        Ok(shader)
    }

    /// Bytes of workgroup memory, without gaps between its variables.
    #[must_use]
    pub fn workgroup_memory(&self) -> u64 {
        4 * self.sizes.shared as u64
    }

    fn place(&mut self) -> Result<(), Fault> {
        for (_, global) in self.module.global_variables.iter() {
            self.globals.push(self.sizes.shared);
            match global.space {
                AddressSpace::WorkGroup => self.sizes.shared += self.words[global.ty.index()],
                AddressSpace::Storage { .. } | AddressSpace::Uniform => {
                    self.check_contiguous(global.ty)?;
                }
                // Stands for what is not bound: see `global`.
                AddressSpace::Private => {}
                space => return Err(Fault::unsupported(space)),
            }
        }
        let mut sizes = self.sizes;
        let functions = self.module.functions.iter().map(|(handle, f)| (f, &self.info[handle]));
        let [entry] = &self.module.entry_points[..] else {
            return Err(Fault::unsupported("a module with one entry point"));
        };
        if lanes(entry) > MAX_LANES {
            return Err(Fault::unsupported(format!("{:?} invocations", entry.workgroup_size)));
        }
        let all = functions.chain([(&entry.function, self.info.get_entry_point(0))]);
        let frames = all.map(|(function, info)| self.frame(function, info, &mut sizes));
        self.frames = frames.collect::<Result<_, _>>()?;
        self.sizes = sizes;
        Ok(())
    }

    fn frame(
        &self,
        function: &Function,
        info: &FunctionInfo,
        sizes: &mut Sizes,
    ) -> Result<Frame, Fault> {
        let mut frame = Frame::default();
        for (handle, _) in function.expressions.iter() {
            let inner = info[handle].ty.inner_with(&self.module.types);
            let words = match info[handle].ty {
                TypeResolution::Handle(ty) => self.words[ty.index()],
                TypeResolution::Value(ref inner) => words_of(inner, &self.words)?,
            };
            let kind = scalar_of(inner).map_or(ScalarKind::Uint, |scalar| scalar.kind);
            frame.slots.push(Slot { at: sizes.registers, words, kind });
            sizes.registers += words;
        }
        for (_, local) in function.local_variables.iter() {
            frame.locals.push(sizes.locals);
            sizes.locals += self.words[local.ty.index()];
        }
        frame.result = sizes.registers;
        sizes.registers += function.result.as_ref().map_or(0, |r| self.words[r.ty.index()]);
        Ok(frame)
    }

    /// Refuses a type of a buffer that has gaps between its words.
    fn check_contiguous(&self, ty: Handle<Type>) -> Result<(), Fault> {
        let gap = || Err(Fault::unsupported(format!("gaps in {:?}", self.module.types[ty].name)));
        match &self.module.types[ty].inner {
            TypeInner::Array { base, stride, .. } => {
                if *stride as usize != 4 * self.words[base.index()] {
                    return gap();
                }
                self.check_contiguous(*base)
            }
            TypeInner::Struct { members, .. } => {
                let mut end = 0;
                for member in members {
                    if member.offset as usize != 4 * end {
                        return gap();
                    }
                    end += self.words[member.ty.index()];
                    self.check_contiguous(member.ty)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Invocations of a workgroup.
    pub(crate) fn lanes(&self) -> usize {
        self.module.entry_points.first().map_or(0, lanes)
    }

    pub(crate) fn entry(&self) -> usize {
        self.frames.len() - 1
    }

    pub(crate) fn function(&self, index: usize) -> (&Function, &FunctionInfo) {
        match self.module.functions.iter().nth(index) {
            Some((handle, function)) => (function, &self.info[handle]),
            None => (&self.module.entry_points[0].function, self.info.get_entry_point(0)),
        }
    }

    /// The line of a span.
    pub(crate) fn line(&self, span: naga::Span) -> u32 {
        if span.is_defined() { span.location(&self.source).line_number } else { 0 }
    }

    /// The components of a constant expression of the module.
    pub(crate) fn constant(&self, handle: Handle<Expression>) -> Result<Vec<u32>, Fault> {
        match &self.module.global_expressions[handle] {
            Expression::Literal(literal) => literal_word(*literal).map(|word| vec![word]),
            Expression::Constant(constant) => self.constant(self.module.constants[*constant].init),
            Expression::ZeroValue(ty) => Ok(vec![0; self.words[ty.index()]]),
            Expression::Compose { components, .. } => {
                let mut all = Vec::new();
                for component in components {
                    all.extend(self.constant(*component)?);
                }
                Ok(all)
            }
            Expression::Splat { size, value } => {
                Ok(vec![self.constant(*value)?[0]; *size as usize])
            }
            other => Err(Fault::unsupported(other)),
        }
    }
}

fn lanes(entry: &naga::EntryPoint) -> usize {
    entry.workgroup_size.iter().map(|n| *n as usize).product()
}

/// The word of a literal.
pub(crate) fn literal_word(literal: naga::Literal) -> Result<u32, Fault> {
    Ok(match literal {
        naga::Literal::U32(x) => x,
        naga::Literal::I32(x) => x.cast_unsigned(),
        naga::Literal::F32(x) => x.to_bits(),
        naga::Literal::Bool(x) => x.into(),
        other => return Err(Fault::unsupported(other)),
    })
}

/// The scalar of a value whose components are alike, or of a pointer's target.
pub(crate) fn scalar_of(inner: &TypeInner) -> Option<Scalar> {
    match inner {
        TypeInner::Scalar(scalar)
        | TypeInner::Vector { scalar, .. }
        | TypeInner::Atomic(scalar) => Some(*scalar),
        _ => None,
    }
}

fn words_of(inner: &TypeInner, of_types: &[usize]) -> Result<usize, Fault> {
    let of = |ty: Handle<Type>| of_types[ty.index()];
    Ok(match inner {
        TypeInner::Scalar(scalar) | TypeInner::Atomic(scalar) if scalar.width <= 4 => 1,
        TypeInner::Vector { size, scalar } if scalar.width <= 4 => *size as usize,
        TypeInner::Array { base, size: ArraySize::Constant(n), .. } => n.get() as usize * of(*base),
        TypeInner::Array { base, size: ArraySize::Dynamic, .. } => of(*base),
        TypeInner::Struct { members, .. } => members.iter().map(|member| of(member.ty)).sum(),
        // An offset.
        TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. } => 1,
        other => return Err(Fault::unsupported(other)),
    })
}
