//! The uniform that every stage reads.

use bytemuck::{Pod, Zeroable};

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
    pub(crate) key_weights: u32,
    pub(crate) query_begin: u32,
    pub(crate) query_weights: u32,
    pub(crate) query_group: u32,
    pub(crate) grid_width: u32,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::Params;
    use crate::kernel::layout::Layout;
    use crate::kernel::stage::Stage;
    use crate::kernel::stage::Variant;
    use crate::plan::tuning::Tuning;
    use crate::problem::config::Config;
    use crate::problem::dtype::Dtype;
    use crate::problem::feature_map::FeatureMap;
    use crate::problem::feature_map::custom::CustomMap;

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
            ("key_weights", offset_of!(Params, key_weights)),
            ("query_begin", offset_of!(Params, query_begin)),
            ("query_weights", offset_of!(Params, query_weights)),
            ("query_group", offset_of!(Params, query_group)),
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

    #[test]
    fn so_they_are_where_rows_are_mapped() {
        let limits = wgpu::Limits::default();
        for (map, width) in [
            (FeatureMap::Softmax, 64),
            (FeatureMap::Exp, 63),
            (FeatureMap::Hedgehog, 8),
            (FeatureMap::Favor { features: 1000 }, 64),
            (FeatureMap::Taylor, 64),
        ] {
            let mut config = Config::new(width, width);
            config.feature_map = map;
            for dtype in Dtype::ALL {
                config.dtype = dtype;
                let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::Other).unwrap();
                let stages = Stage::ALL.into_iter();
                // What F in blocks has no use for.
                let is_used =
                    |stage: &Stage| *stage != Stage::DecodeStep || config.features() <= 256;
                stages.filter(is_used).for_each(|stage| check(stage, &config, tuning.layout));
            }
        }
    }

    /// Metal and Direct3D get what naga makes of the shaders: that it can is shown here, on any
    /// machine, for the numbers that a device with the default limits would be given.
    #[test]
    fn every_module_translates_to_msl_and_hlsl() {
        let limits = wgpu::Limits::default();
        let maps = [
            FeatureMap::Elu,
            FeatureMap::Exp,
            FeatureMap::Softmax,
            FeatureMap::Hedgehog,
            FeatureMap::Favor { features: 1000 },
            FeatureMap::Taylor,
        ];
        for (map, width) in maps.iter().flat_map(|map| [(map, 64), (map, 63)]) {
            for dtype in [Dtype::F32, Dtype::F16] {
                for device_type in [wgpu::DeviceType::Other, wgpu::DeviceType::Cpu] {
                    let mut config = Config::new(width, width);
                    (config.feature_map, config.dtype) = (map.clone(), dtype);
                    let tuning = Tuning::new(&config, &limits, device_type).unwrap();
                    for stage in Stage::ALL {
                        translate(stage, &config, tuning.layout);
                    }
                }
            }
        }
    }

    fn translate(stage: Stage, config: &Config, layout: Layout) {
        let name = format!("{} of {:?}, {config:?}", stage.name(), layout);
        let module = naga::front::wgsl::parse_str(&stage.wgsl(config, layout)).unwrap();
        let validate = |module: &naga::Module| {
            let flags = naga::valid::ValidationFlags::all();
            naga::valid::Validator::new(flags, naga::valid::Capabilities::default())
                .validate(module)
                .unwrap()
        };
        let info = validate(&module);
        let variant = Variant {
            start: crate::kernel::stage::Start::Given,
            write_end: true,
            lengths_given: true,
            slots_given: true,
            may_clash: true,
            run: true,
            ..Variant::default()
        };
        let constants = stage
            .overrides(config, layout, variant)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let entry = Some((naga::ShaderStage::Compute, stage.name()));
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        let options =
            naga::back::msl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = naga::back::msl::PipelineOptions::default();
        naga::back::msl::write_string(&module, &info, &options, &pipeline)
            .unwrap_or_else(|error| panic!("{name} in MSL: {error}"));
        let options =
            naga::back::hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        let mut text = String::new();
        naga::back::hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|error| panic!("{name} in HLSL: {error}"));
    }

    #[test]
    fn feature_maps_have_the_numbers_the_shaders_give_them() {
        let config = Config::new(64, 64);
        let layout = Layout::Thread { value_quads: 1, threads: 8 };
        let wgsl = Stage::SegmentOutput.wgsl(&config, layout);
        let module = naga::front::wgsl::parse_str(&wgsl).unwrap();
        let maps = FeatureMap::ELEMENT_WISE.into_iter().chain([
            FeatureMap::Softmax,
            FeatureMap::T2r { features: 1 },
            FeatureMap::Hedgehog,
            FeatureMap::HedgehogJoint,
            FeatureMap::Product { features: 1 },
            FeatureMap::Favor { features: 1 },
            FeatureMap::FavorHyperbolic { features: 8 },
            FeatureMap::Fourier { features: 8 },
            FeatureMap::Taylor,
            FeatureMap::Dpfp { nu: 1 },
        ]);
        let code = |name: String| {
            let constant = module.constants.iter().find(|(_, c)| c.name.as_deref() == Some(&name));
            let init = constant.map(|(_, c)| &module.global_expressions[c.init]);
            match init {
                Some(naga::Expression::Literal(naga::Literal::U32(code))) => *code,
                _ => panic!("no constant {name}"),
            }
        };
        for map in maps {
            assert_eq!(code(map.name().to_uppercase().replace('-', "_")), map.code(), "{map}");
        }
        let custom = CustomMap::new("custom", PHI, 1, |_, _, _| {}).unwrap();
        assert_eq!(code("CUSTOM".to_owned()), FeatureMap::Custom(custom.into()).code());
    }

    const PHI: &str = "fn phi(row: Row, feature: u32) -> f32 { return x(row, feature); }";

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
        let ours: Vec<u32> = stage.bindings(config, layout).iter().map(|b| *b as u32).collect();
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
