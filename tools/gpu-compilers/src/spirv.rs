//! WGSL to the SPIR-V that wgpu would hand to Vulkan.

use std::ffi::CString;

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::Unchecked};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// A module with one entry point, as wgpu makes it of shaders that it may trust: no bounds checks,
/// no counters in loops, no fill of workgroup memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Spirv {
    /// The words.
    pub words: Vec<u32>,
    /// The entry point.
    pub entry: CString,
    /// Invocations of a workgroup.
    pub threads: u32,
    /// The number of each binding, and whether it is a uniform.
    pub bindings: Vec<(u32, bool)>,
    /// True if it has cooperative matrices, which not every chip has.
    pub has_matrices: bool,
}

impl Spirv {
    /// Of a module in WGSL.
    ///
    /// # Errors
    ///
    /// naga's message.
    pub fn new(wgsl: &str) -> Result<Self, String> {
        let module =
            naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(&module)
            .map_err(|error| error.emit_to_string(wgsl))?;
        let entry = module.entry_points.first().ok_or("the module has no entry point")?;
        let options = spv::Options {
            lang_version: (1, 3),
            flags: spv::WriterFlags::empty(),
            bounds_check_policies: BoundsCheckPolicies {
                index: Unchecked,
                buffer: Unchecked,
                image_load: Unchecked,
                binding_array: Unchecked,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            ..Default::default()
        };
        let pipeline = spv::PipelineOptions {
            shader_stage: naga::ShaderStage::Compute,
            entry_point: entry.name.clone(),
        };
        let words = spv::write_vec(&module, &info, &options, Some(&pipeline))
            .map_err(|error| error.to_string())?;
        let bindings = module.global_variables.iter().filter_map(|(_, variable)| {
            let binding = variable.binding?.binding;
            Some((binding, variable.space == naga::AddressSpace::Uniform))
        });
        Ok(Self {
            words,
            entry: CString::new(entry.name.as_str()).map_err(|error| error.to_string())?,
            threads: entry.workgroup_size.iter().product(),
            bindings: bindings.collect(),
            has_matrices: wgsl.contains("enable wgpu_cooperative_matrix;"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_small_module() -> Result<(), String> {
        let wgsl = "@group(0) @binding(3) var<storage, read_write> a: array<f32>;
            @group(0) @binding(0) var<uniform> n: vec4<u32>;
            @compute @workgroup_size(4, 2) fn double(@builtin(local_invocation_index) i: u32) {
                a[i + n.x] *= 2.0;
            }";
        let spirv = Spirv::new(wgsl)?;
        assert_eq!(spirv.entry.to_str(), Ok("double"));
        assert_eq!(spirv.threads, 8);
        assert_eq!(spirv.bindings, [(3, false), (0, true)]);
        assert!(!spirv.has_matrices);
        assert_eq!(spirv.words[0], 0x0723_0203);
        assert!(Spirv::new("fn").is_err());
        Ok(())
    }
}
