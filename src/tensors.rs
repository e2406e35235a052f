//! What is bound: the caller's buffers, checked before wgpu sees them.

use wgpu::{BufferBinding, BufferUsages};

use crate::plan::F32_SIZE;
use crate::{BindError, Plan};

/// A state (mu `[N,G,F,V]`, nu `[N,G,F]`), both f32.
#[derive(Clone, Debug)]
pub struct StateBinding<'a> {
    /// The accumulated key-value state.
    pub mu: BufferBinding<'a>,
    /// The accumulated key state.
    pub nu: BufferBinding<'a>,
}

/// The tensors of one call, each a range of a buffer with usage `STORAGE`. All may be
/// ranges of one buffer; none may overlap `out` or the final state, except that the
/// initial state may be the very binding of the final one, which updates it in place where
/// [`Plan::updates_in_place`] says so.
#[derive(Clone, Debug)]
pub struct Tensors<'a> {
    /// q `[B,T,H,K]`.
    pub q: BufferBinding<'a>,
    /// k `[B,T,G,K]`.
    pub k: BufferBinding<'a>,
    /// v `[B,T,G,V]`.
    pub v: BufferBinding<'a>,
    /// o `[B,T,H,V]`, written.
    pub out: BufferBinding<'a>,
    /// The state before the first token; `None` is zero.
    pub initial: Option<StateBinding<'a>>,
    /// Where the state after the last token goes; `None` drops it.
    pub final_: Option<StateBinding<'a>>,
}

impl<'a> Tensors<'a> {
    /// Whole buffers, from no state and to none.
    #[must_use]
    pub fn new(
        q: &'a wgpu::Buffer,
        k: &'a wgpu::Buffer,
        v: &'a wgpu::Buffer,
        out: &'a wgpu::Buffer,
    ) -> Self {
        Self {
            q: q.as_entire_buffer_binding(),
            k: k.as_entire_buffer_binding(),
            v: v.as_entire_buffer_binding(),
            out: out.as_entire_buffer_binding(),
            initial: None,
            final_: None,
        }
    }

    /// Whether the initial state is the final state's own binding.
    pub(crate) fn is_in_place(&self) -> bool {
        match (&self.initial, &self.final_) {
            (Some(initial), Some(final_)) => {
                same_start(&initial.mu, &final_.mu) && same_start(&initial.nu, &final_.nu)
            }
            _ => false,
        }
    }
}

/// A binding cut to exactly the bytes of its tensor.
#[derive(Clone, Debug)]
pub(crate) struct Range<'a> {
    pub(crate) tensor: &'static str,
    pub(crate) binding: BufferBinding<'a>,
    pub(crate) len: u64,
    written: bool,
}

impl Range<'_> {
    fn end(&self) -> u64 {
        self.binding.offset + self.len
    }
}

/// Every tensor of a call, checked: names, ranges and who writes.
pub(crate) struct Checked<'a> {
    pub(crate) q: Range<'a>,
    pub(crate) k: Range<'a>,
    pub(crate) v: Range<'a>,
    pub(crate) out: Range<'a>,
    pub(crate) initial: Option<[Range<'a>; 2]>,
    pub(crate) final_: Option<[Range<'a>; 2]>,
    pub(crate) scratch: Option<Range<'a>>,
    pub(crate) in_place: bool,
}

pub(crate) fn check<'a>(
    plan: &Plan,
    tensors: &Tensors<'a>,
    scratch: &BufferBinding<'a>,
    limits: &wgpu::Limits,
) -> Result<Checked<'a>, BindError> {
    let align = u64::from(limits.min_storage_buffer_offset_alignment);
    let size = plan.config().dtype.size();
    let lens = plan.lens();
    let range = |tensor, binding: &BufferBinding<'a>, len, written| {
        check_one(Range { tensor, binding: binding.clone(), len, written }, align)
    };
    let state = |names: [&'static str; 2], state: &Option<StateBinding<'a>>, written| {
        let pair = |state: &StateBinding<'a>| {
            Ok([
                range(names[0], &state.mu, lens.mu * F32_SIZE, written)?,
                range(names[1], &state.nu, lens.nu * F32_SIZE, written)?,
            ])
        };
        state.as_ref().map(pair).transpose()
    };
    let checked = Checked {
        q: range("q", &tensors.q, lens.q * size, false)?,
        k: range("k", &tensors.k, lens.k * size, false)?,
        v: range("v", &tensors.v, lens.v * size, false)?,
        out: range("out", &tensors.out, lens.o * size, true)?,
        initial: state(["initial mu", "initial nu"], &tensors.initial, false)?,
        final_: state(["final mu", "final nu"], &tensors.final_, true)?,
        scratch: match plan.scratch_size() {
            0 => None,
            len => Some(range("scratch", scratch, len, true)?),
        },
        in_place: tensors.is_in_place(),
    };
    if checked.in_place && !plan.updates_in_place() {
        return Err(BindError::InPlace { actual: plan.places_per_state() });
    }
    checked.check_overlaps()?;
    Ok(checked)
}

impl<'a> Checked<'a> {
    fn check_overlaps(&self) -> Result<(), BindError> {
        let mut all: Vec<&Range<'a>> = vec![&self.q, &self.k, &self.v, &self.out];
        all.extend(self.final_.iter().flatten());
        all.extend(&self.scratch);
        if !self.in_place {
            all.extend(self.initial.iter().flatten());
        }
        for (i, first) in all.iter().enumerate() {
            for second in &all[i + 1..] {
                if !(first.written || second.written)
                    || first.binding.buffer != second.binding.buffer
                {
                    continue;
                }
                let begin = first.binding.offset.max(second.binding.offset);
                let bytes = first.end().min(second.end()).saturating_sub(begin);
                if bytes > 0 {
                    return Err(BindError::Overlap {
                        first: first.tensor,
                        second: second.tensor,
                        bytes,
                    });
                }
            }
        }
        Ok(())
    }
}

fn check_one(range: Range<'_>, align: u64) -> Result<Range<'_>, BindError> {
    let Range { tensor, binding, len, .. } = &range;
    let (tensor, buffer) = (*tensor, binding.buffer);
    if !buffer.usage().contains(BufferUsages::STORAGE) {
        return Err(BindError::Usage { tensor, actual: format!("{:?}", buffer.usage()) });
    }
    if !binding.offset.is_multiple_of(align) {
        return Err(BindError::Misaligned { tensor, required: align, actual: binding.offset });
    }
    let bound = binding.size.map(u64::from);
    let end = binding.offset.saturating_add(bound.unwrap_or(0));
    if end > buffer.size() {
        return Err(BindError::BeyondBuffer { tensor, required: buffer.size(), actual: end });
    }
    let actual = bound.unwrap_or(buffer.size() - binding.offset);
    if actual < *len {
        return Err(BindError::TooSmall { tensor, required: *len, actual });
    }
    Ok(range)
}

fn same_start(a: &BufferBinding<'_>, b: &BufferBinding<'_>) -> bool {
    a.buffer == b.buffer && a.offset == b.offset
}
