//! A Vulkan driver that compiles for a GPU which is not there.

use std::collections::BTreeMap;
use std::error::Error;

use ash::khr::pipeline_executable_properties::Device as Executables;
use ash::vk;

use crate::{Chip, Spirv};

/// A device of null hardware.
pub struct Driver {
    // The library stays loaded for as long as what it made.
    _vulkan: ash::Entry,
    instance: ash::Instance,
    device: ash::Device,
    executables: Executables,
}

/// A pipeline's statistics and code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compiled {
    /// Lanes of a wave.
    pub wave: u32,
    /// The driver's statistics, by their names in lower case.
    pub statistics: BTreeMap<String, u64>,
    /// The code in the chip's instructions.
    pub assembly: String,
}

impl Driver {
    /// Of a chip. The driver reads its name in the environment, so that a program which opens one
    /// may have no other thread.
    ///
    /// # Errors
    ///
    /// No Vulkan driver, or one whose device is another: it has no null hardware.
    pub fn open(chip: Chip) -> Result<Self, Box<dyn Error>> {
        chip.choose();
        // SAFETY: the loader that the system has; all objects are destroyed in `drop`, in order.
        unsafe {
            let vulkan = ash::Entry::load()?;
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let create = vk::InstanceCreateInfo::default().application_info(&app);
            let instance = vulkan.create_instance(&create, None)?;
            let found = Self::create_device(&instance, chip);
            match found {
                Ok(device) => {
                    let executables = Executables::new(&instance, &device);
                    Ok(Self { _vulkan: vulkan, instance, device, executables })
                }
                Err(error) => {
                    instance.destroy_instance(None);
                    Err(error)
                }
            }
        }
    }

    /// # Safety
    ///
    /// The instance is alive.
    unsafe fn create_device(
        instance: &ash::Instance,
        chip: Chip,
    ) -> Result<ash::Device, Box<dyn Error>> {
        // SAFETY: the caller's instance is alive.
        let gpus = unsafe { instance.enumerate_physical_devices()? };
        let named = gpus.into_iter().map(|gpu| {
            // SAFETY: the device was just enumerated.
            let properties = unsafe { instance.get_physical_device_properties(gpu) };
            let name = properties.device_name_as_c_str().unwrap_or_default();
            (gpu, name.to_string_lossy().into_owned())
        });
        let named: Vec<_> = named.collect();
        let Some((gpu, _)) = named.iter().find(|(_, name)| chip.is_named(name)) else {
            let names: Vec<_> = named.iter().map(|(_, name)| name).collect();
            let message = format!("expected a device named {}, found {names:?}", chip.name());
            return Err(message.into());
        };
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(0)
            .queue_priorities(&priorities)];
        let mut extensions = vec![vk::KHR_PIPELINE_EXECUTABLE_PROPERTIES_NAME.as_ptr()];
        let mut matrices =
            vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
        let mut statistics = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
            .pipeline_executable_info(true);
        let mut memory_model = vk::PhysicalDeviceVulkan12Features::default()
            .vulkan_memory_model(true)
            .vulkan_memory_model_device_scope(true)
            .shader_float16(true);
        if chip.has_matrices() {
            extensions.push(vk::KHR_COOPERATIVE_MATRIX_NAME.as_ptr());
        }
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut statistics)
            .push_next(&mut memory_model);
        if chip.has_matrices() {
            create = create.push_next(&mut matrices);
        }
        // SAFETY: all that `create` points to is alive.
        Ok(unsafe { instance.create_device(*gpu, &create, None)? })
    }

    /// Compiles a module.
    ///
    /// # Errors
    ///
    /// The driver's error.
    pub fn compile(&self, spirv: &Spirv) -> Result<Compiled, Box<dyn Error>> {
        let device = &self.device;
        let bindings = spirv.bindings.iter().map(|(binding, is_uniform)| {
            let kind = match is_uniform {
                true => vk::DescriptorType::UNIFORM_BUFFER,
                false => vk::DescriptorType::STORAGE_BUFFER,
            };
            vk::DescriptorSetLayoutBinding::default()
                .binding(*binding)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        });
        let bindings: Vec<_> = bindings.collect();
        // SAFETY: one thread uses the device, and what is made here is destroyed here, but where an
        // object after it is refused: then the process ends.
        unsafe {
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [device.create_descriptor_set_layout(&set, None)?];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&layout, None)?;
            let shader = vk::ShaderModuleCreateInfo::default().code(&spirv.words);
            let shader = device.create_shader_module(&shader, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(&spirv.entry);
            let create =
                vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(
                    vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                        | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                );
            let pipeline = device
                .create_compute_pipelines(vk::PipelineCache::null(), &[create], None)
                .map_err(|(_, error)| error)?[0];
            let compiled = self.properties(pipeline)?;
            device.destroy_pipeline(pipeline, None);
            device.destroy_shader_module(shader, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(sets[0], None);
            Ok(compiled)
        }
    }

    /// # Safety
    ///
    /// The pipeline is alive.
    unsafe fn properties(&self, pipeline: vk::Pipeline) -> Result<Compiled, Box<dyn Error>> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // A compute pipeline has one executable.
        let at = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
        // SAFETY: the caller's pipeline is alive and was made with both flags.
        let (properties, statistics) = unsafe {
            let properties = self.executables.get_pipeline_executable_properties(&info)?;
            (properties, self.executables.get_pipeline_executable_statistics(&at)?)
        };
        let mut found = Compiled {
            wave: properties.first().ok_or("the pipeline has no executable")?.subgroup_size,
            ..Compiled::default()
        };
        for statistic in statistics {
            let name = statistic.name_as_c_str()?.to_string_lossy().to_lowercase();
            // SAFETY: RADV gives integers of 64 bits alone.
            found.statistics.insert(name, unsafe { statistic.value.u64 });
        }
        // SAFETY: as above.
        found.assembly = unsafe { self.assembly(&at)? };
        Ok(found)
    }

    /// # Safety
    ///
    /// The pipeline of `at` is alive.
    unsafe fn assembly(
        &self,
        at: &vk::PipelineExecutableInfoKHR<'_>,
    ) -> Result<String, Box<dyn Error>> {
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        // SAFETY: the first call gives the sizes of the texts, the second fills as many bytes.
        unsafe {
            let mut parts =
                self.executables.get_pipeline_executable_internal_representations(at)?;
            let mut texts: Vec<Vec<u8>> =
                parts.iter().map(|part| vec![0; part.data_size]).collect();
            for (part, text) in parts.iter_mut().zip(&mut texts) {
                part.p_data = text.as_mut_ptr().cast();
            }
            let mut count = parts.len() as u32;
            get(self.device.handle(), at, &mut count, parts.as_mut_ptr()).result()?;
            for (part, text) in parts.iter().zip(&texts) {
                if part.name_as_c_str()?.to_string_lossy() == "Assembly" {
                    return Ok(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
                }
            }
        }
        Err("the driver gives no assembly".into())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // SAFETY: every pipeline is destroyed, and nobody else has the handles.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}
