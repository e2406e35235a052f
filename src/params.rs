//! The uniform that every stage reads.

use bytemuck::{Pod, Zeroable};

use crate::Plan;

/// Mirror of `Params` in `shaders/common.wgsl`; a test below compares the offsets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) sequences: u32,
    pub(crate) seq_len: u32,
    pub(crate) tokens: u32,
    pub(crate) max_len: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) group: u32,
    pub(crate) head_tile: u32,
    pub(crate) head_blocks: u32,
    pub(crate) value_blocks: u32,
    pub(crate) segments: u32,
    pub(crate) segment_len: u32,
    pub(crate) chunk_len: u32,
    pub(crate) states: u32,
    pub(crate) grid_width: u32,
}

impl Params {
    pub(crate) fn new(plan: &Plan, grid_width: u32) -> Self {
        let shape = plan.shape();
        Self {
            sequences: shape.sequences(),
            seq_len: shape.seq_len,
            // Fewer than 2^32, since q has no more elements.
            tokens: shape.batch * shape.seq_len,
            max_len: shape.max_len(),
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            group: shape.heads / shape.kv_heads,
            head_tile: plan.head_tile(),
            head_blocks: plan.head_blocks(),
            value_blocks: plan.value_blocks(),
            segments: plan.segments(),
            segment_len: plan.segment_len(),
            chunk_len: plan.chunk_len(),
            states: shape.slots.unwrap_or(shape.sequences()),
            grid_width,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::Params;
    use crate::stage::Variant;
    use crate::{Config, Dtype, Layout, Stage, Tuning};

    #[test]
    fn fields_lie_where_the_shaders_read_them() {
        let config = Config::new(64, 64);
        let tuning =
            Tuning::new(&config, &wgpu::Limits::default(), wgpu::DeviceType::Other).unwrap();
        let module =
            naga::front::wgsl::parse_str(&Stage::SegmentOutput.wgsl(&config, tuning.layout))
                .unwrap();
        let (_, ty) =
            module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).unwrap();
        let naga::TypeInner::Struct { members, span } = &ty.inner else { panic!("no struct") };
        assert_eq!(*span as usize, size_of::<Params>());
        let ours = [
            ("sequences", offset_of!(Params, sequences)),
            ("seq_len", offset_of!(Params, seq_len)),
            ("tokens", offset_of!(Params, tokens)),
            ("max_len", offset_of!(Params, max_len)),
            ("heads", offset_of!(Params, heads)),
            ("kv_heads", offset_of!(Params, kv_heads)),
            ("group", offset_of!(Params, group)),
            ("head_tile", offset_of!(Params, head_tile)),
            ("head_blocks", offset_of!(Params, head_blocks)),
            ("value_blocks", offset_of!(Params, value_blocks)),
            ("segments", offset_of!(Params, segments)),
            ("segment_len", offset_of!(Params, segment_len)),
            ("chunk_len", offset_of!(Params, chunk_len)),
            ("states", offset_of!(Params, states)),
            ("grid_width", offset_of!(Params, grid_width)),
        ];
        let theirs: Vec<_> =
            members.iter().filter_map(|m| Some((m.name.as_deref()?, m.offset as usize))).collect();
        assert_eq!(theirs, ours);
    }

    #[test]
    fn bindings_and_overrides_are_those_the_shaders_declare() {
        for (dtype, width) in Dtype::ALL.into_iter().flat_map(|dtype| [(dtype, 64), (dtype, 63)]) {
            let mut config = Config::new(width, width);
            config.dtype = dtype;
            for device_type in [wgpu::DeviceType::Other, wgpu::DeviceType::Cpu] {
                let limits = wgpu::Limits::default();
                let tuning = Tuning::new(&config, &limits, device_type).unwrap();
                for stage in Stage::ALL {
                    check(stage, &config, tuning.layout);
                }
            }
        }
    }

    fn check(stage: Stage, config: &Config, layout: Layout) {
        let name = format!("{} of {:?}", stage.name(), layout);
        let module = naga::front::wgsl::parse_str(&stage.wgsl(config, layout)).unwrap();
        let info = naga::valid::Validator::new(
            naga::valid::ValidationFlags::all(),
            naga::valid::Capabilities::default(),
        )
        .validate(&module)
        .unwrap();
        let uses = info.get_entry_point(0);
        let mut declared: Vec<u32> = module
            .global_variables
            .iter()
            .filter(|(handle, _)| !uses[*handle].is_empty())
            .filter_map(|(_, v)| Some(v.binding?.binding))
            .collect();
        declared.sort_unstable();
        let ours: Vec<u32> = stage.bindings().iter().map(|b| *b as u32).collect();
        assert_eq!(declared, ours, "{name}");
        assert_eq!(module.entry_points[0].name, stage.name());
        let mut overrides: Vec<_> = module
            .overrides
            .iter()
            .filter(|(_, o)| o.init.is_none())
            .filter_map(|(_, o)| o.name.clone())
            .collect();
        let mut set: Vec<_> = stage
            .overrides(config, layout, Variant::default())
            .iter()
            .map(|(n, _)| (*n).to_owned())
            .collect();
        overrides.sort();
        set.sort();
        assert_eq!(overrides, set, "{name}");
    }
}
