//! Attention on slices, computed by the CPU.

use pulp::{Arch, Simd, WithSimd};

use crate::cpu::mutation::Mistake;
#[cfg(feature = "mutation")]
use crate::cpu::mutation::Mutation;
use crate::cpu::plan::CpuPlan;
use crate::cpu::strips::Strips;
use crate::cpu::tensors::Tensors;
use crate::cpu::threads;
use crate::error::{ConfigError, Error};
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;

/// Attention of one [`Config`] on the CPU.
///
/// ```
/// use linear_attention::cpu::CpuAttention;
/// use linear_attention::{Config, Inputs, Shape};
///
/// let attention = CpuAttention::new(Config::new(64, 64))?;
/// let [q, k, v] = [0.1, 0.2, 0.3].map(|x| vec![x; 100 * 8 * 64]);
/// let output = attention.run(&Shape::new(1, 100, 8), Inputs::new(&q, &k, &v))?;
/// assert!((output.o[0] - 0.3).abs() < 1e-6);
/// # Ok::<(), linear_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CpuAttention {
    config: Config,
    arch: Arch,
    mistake: Mistake,
}

impl CpuAttention {
    /// For `config`, with the widest vectors that this CPU has.
    ///
    /// # Errors
    ///
    /// A config out of range.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, arch: Arch::new(), mistake: Mistake::default() })
    }

    /// The same with a mistake.
    #[cfg(feature = "mutation")]
    #[must_use]
    pub fn with_mutation(mut self, mutation: Mutation) -> Self {
        self.mistake.mutation = Some(mutation);
        self
    }

    /// One engine for each kind of vectors that this CPU has, after one without any.
    ///
    /// # Errors
    ///
    /// A config out of range.
    #[cfg(feature = "mutation")]
    pub fn of_each_instruction_set(config: &Config) -> Result<Vec<Self>, ConfigError> {
        let of = |arch| Ok(Self { arch, ..Self::new(config.clone())? });
        let mut archs = vec![Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        if archs.iter().all(|arch| arch.dispatch(Lanes) != Arch::new().dispatch(Lanes)) {
            archs.push(Arch::new());
        }
        archs.into_iter().map(of).collect()
    }

    /// The same vectors, and mistakes, for another config.
    pub(super) fn with_config(&self, config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, ..self.clone() })
    }

    pub(super) fn mistake(&self) -> Mistake {
        self.mistake
    }

    /// The config it was made for.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The vectors that it uses: `scalar`, or the name of the instruction set.
    #[must_use]
    pub fn instruction_set(&self) -> &'static str {
        match self.arch.dispatch(Lanes) {
            16.. => "AVX-512",
            8..=15 => "AVX2",
            2..=7 => "128 bits",
            _ => "scalar",
        }
    }

    /// The output and the final state. q, k and v are rounded to the config's dtype first, and o as
    /// it is stored; all else is f32.
    ///
    /// # Errors
    ///
    /// A config, shape or inputs that no call would accept, or a shape with slots or with lengths
    /// that only a call knows.
    pub fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
        inputs.check_by(&self.config, shape, threads::largest_bits)?;
        let mut plan = self.plan(shape)?;
        let mut output = Output::zeros(plan.lens());
        plan.run(Tensors::of(inputs, &mut output))?;
        Ok(output)
    }

    /// A plan for calls of one shape, which has all the memory that they need, for as many threads
    /// as the rayon pool has in which it is made.
    ///
    /// # Errors
    ///
    /// A shape that no call would accept.
    pub fn plan(&self, shape: &Shape) -> Result<CpuPlan, Error> {
        self.plan_with(shape, threads::count())
    }

    /// The same for so many threads.
    pub(super) fn plan_with(&self, shape: &Shape, threads: usize) -> Result<CpuPlan, Error> {
        CpuPlan::new(self.clone(), shape, (self.arch.dispatch(OfArch), threads))
    }

    /// Runs `op` in these vectors.
    pub(super) fn dispatch<Op: WithSimd>(&self, op: Op) -> Op::Output {
        self.arch.dispatch(op)
    }
}

struct OfArch;

impl WithSimd for OfArch {
    type Output = Strips;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Strips {
        Strips::new::<S>()
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}
