//! The target of an index of a value or of memory.

use naga::{AddressSpace, ArraySize, Handle, Type, TypeInner};

use crate::fault::Fault;
use crate::shader::Shader;

/// The memory that a pointer points into; its offset is in a register, an offset an invocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Base {
    /// The variables of functions, which every invocation has for itself.
    #[default]
    Local,
    /// Workgroup memory.
    Shared,
    /// A storage buffer or a uniform, by its binding.
    Bound(u32),
}

/// The elements of an indexed value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements {
    /// Words of an element.
    pub(crate) stride: usize,
    /// `None` for as many as are bound.
    pub(crate) count: Option<usize>,
}

impl Shader {
    /// The type itself, or the type that a pointer points to.
    pub(crate) fn pointee<'a>(&'a self, inner: &'a TypeInner) -> &'a TypeInner {
        match inner {
            TypeInner::Pointer { base, .. } => &self.module.types[*base].inner,
            inner => inner,
        }
    }

    /// The elements of an array or a vector, or of the target of a pointer.
    pub(crate) fn elements(&self, inner: &TypeInner) -> Result<Elements, Fault> {
        Ok(match self.pointee(inner) {
            TypeInner::Array { base, size, .. } => {
                let count = match size {
                    ArraySize::Constant(n) => Some(n.get() as usize),
                    ArraySize::Dynamic => None,
                    size @ ArraySize::Pending(_) => return Err(Fault::unsupported(size)),
                };
                Elements { stride: self.words[base.index()], count }
            }
            TypeInner::Vector { size, .. } | TypeInner::ValuePointer { size: Some(size), .. } => {
                Elements { stride: 1, count: Some(*size as usize) }
            }
            other => return Err(Fault::unsupported(other)),
        })
    }

    /// The first word and the words of a member, or of an element whose index is known.
    pub(crate) fn member(&self, inner: &TypeInner, index: u32) -> Result<(usize, usize), Fault> {
        let words = |ty: Handle<Type>| self.words[ty.index()];
        if let TypeInner::Struct { members, .. } = self.pointee(inner) {
            let before = members.iter().take(index as usize).map(|member| words(member.ty)).sum();
            return Ok((before, members.get(index as usize).map_or(0, |member| words(member.ty))));
        }
        let Elements { stride, .. } = self.elements(inner)?;
        Ok((index as usize * stride, stride))
    }

    /// True for a pointer.
    pub(crate) fn is_pointer(inner: &TypeInner) -> bool {
        matches!(inner, TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. })
    }

    /// True for a pointer to an atomic.
    pub(crate) fn is_atomic(&self, inner: &TypeInner) -> bool {
        matches!(self.pointee(inner), TypeInner::Atomic(_))
    }

    /// The memory of a module's variable, and its offset there.
    pub(crate) fn global(
        &self,
        handle: Handle<naga::GlobalVariable>,
    ) -> Result<(Base, usize), Fault> {
        let global = &self.module.global_variables[handle];
        match (global.space, &global.binding) {
            (AddressSpace::WorkGroup, _) => Ok((Base::Shared, self.globals[handle.index()])),
            // A module has private variables in place of bindings that a call does not have, and
            // does not touch them: an access is one to a buffer that is not there.
            (AddressSpace::Private, _) => Ok((Base::Bound(u32::MAX), 0)),
            (_, Some(binding)) if binding.group == 0 => Ok((Base::Bound(binding.binding), 0)),
            (space, _) => Err(Fault::unsupported(space)),
        }
    }
}
