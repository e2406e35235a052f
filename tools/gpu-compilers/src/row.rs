//! The results of a compiled module: a line of `docs/gpu-compilers.csv`.

use crate::{Chip, Code, Compiled, Module, Spirv};

/// The columns of the file, after the module's name.
const COLUMNS: [&str; 13] = [
    "wave",
    "threads",
    "sgprs",
    "vgprs",
    "spilled_sgprs",
    "spilled_vgprs",
    "scratch",
    "memory",
    "waves",
    "instructions",
    "token_loop",
    "token_loop_fma",
    "loads_16",
];

/// The compiler's judgement of a module on a chip.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// The chip.
    pub chip: Chip,
    /// The module's name: config, KiB of workgroup memory that the device has, stage.
    pub module: String,
    /// Lanes of a wave.
    pub wave: u64,
    /// Invocations of a workgroup.
    pub threads: u64,
    /// Scalar registers.
    pub sgprs: u64,
    /// Vector registers of a lane.
    pub vgprs: u64,
    /// Scalar registers that are kept elsewhere.
    pub spilled_sgprs: u64,
    /// Vector registers that are kept in memory.
    pub spilled_vgprs: u64,
    /// Bytes of memory of an invocation, for arrays that are not in registers.
    pub scratch: u64,
    /// Bytes of workgroup memory.
    pub memory: u64,
    /// Occupancy: waves that a SIMD runs at a time, as the driver counts them, in waves of 32 lanes: 32 at
    /// most where a wave has 64, else 16.
    pub waves: u64,
    /// Instructions of the whole kernel.
    pub instructions: u64,
    /// Instructions of the token loop with the loops in it.
    pub token_loop: u64,
    /// Multiply-adds of them.
    pub token_loop_fma: u64,
    /// Loads of 16 bytes an invocation, and all loads of vectors.
    pub loads: [u64; 2],
}

impl Row {
    /// Of a module as it was compiled.
    #[must_use]
    pub fn new(chip: Chip, module: &Module, spirv: &Spirv, compiled: &Compiled) -> Self {
        let of = |name: &str| compiled.statistics.get(name).copied().unwrap_or(0);
        let code = Code::new(&compiled.assembly);
        let [token_loop, token_loop_fma] = code.token_loop();
        Self {
            chip,
            module: module.name.clone(),
            wave: compiled.wave.into(),
            threads: spirv.threads.into(),
            sgprs: of("sgprs"),
            vgprs: of("vgprs"),
            spilled_sgprs: of("spilled sgprs"),
            spilled_vgprs: of("spilled vgprs"),
            scratch: of("scratch size"),
            memory: of("lds size"),
            waves: of("subgroups per simd"),
            instructions: of("instructions"),
            token_loop,
            token_loop_fma,
            loads: code.loads(),
        }
    }

    /// Config, KiB and stage.
    #[must_use]
    pub fn parts(&self) -> [&str; 3] {
        let mut parts = self.module.splitn(3, '/');
        [(); 3].map(|()| parts.next().unwrap_or_default())
    }

    /// The first line of the file.
    #[must_use]
    pub fn header() -> String {
        format!("chip;module;{};loads", COLUMNS.join(";"))
    }

    /// Its line.
    #[must_use]
    pub fn line(&self) -> String {
        let numbers = self.numbers().map(|number| number.to_string());
        format!("{};{};{};{}", self.chip.name(), self.module, numbers.join(";"), self.loads[1])
    }

    fn numbers(&self) -> [u64; COLUMNS.len()] {
        [
            self.wave,
            self.threads,
            self.sgprs,
            self.vgprs,
            self.spilled_sgprs,
            self.spilled_vgprs,
            self.scratch,
            self.memory,
            self.waves,
            self.instructions,
            self.token_loop,
            self.token_loop_fma,
            self.loads[0],
        ]
    }

    /// The row of a line.
    ///
    /// # Errors
    ///
    /// A message that cites the line and the columns expected.
    pub fn read(line: &str) -> Result<Self, String> {
        let wrong = || format!("expected a line of {}, found {line}", Self::header());
        let [chip, module, numbers @ ..] = &line.split(';').collect::<Vec<_>>()[..] else {
            return Err(wrong());
        };
        let numbers: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
        let numbers = numbers.map_err(|_| wrong())?;
        let [
            wave,
            threads,
            sgprs,
            vgprs,
            spilled_sgprs,
            spilled_vgprs,
            scratch,
            memory,
            waves,
            instructions,
            token_loop,
            token_loop_fma,
            loads_16,
            loads,
        ] = numbers[..]
        else {
            return Err(wrong());
        };
        Ok(Self {
            chip: Chip::from_name(chip).ok_or_else(wrong)?,
            module: (*module).to_owned(),
            wave,
            threads,
            sgprs,
            vgprs,
            spilled_sgprs,
            spilled_vgprs,
            scratch,
            memory,
            waves,
            instructions,
            token_loop,
            token_loop_fma,
            loads: [loads_16, loads],
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row whose numbers are all different.
    pub(crate) fn row(module: &str) -> Row {
        Row {
            chip: Chip::Navi31,
            module: module.to_owned(),
            wave: 64,
            threads: 128,
            sgprs: 106,
            vgprs: 96,
            spilled_sgprs: 0,
            spilled_vgprs: 0,
            scratch: 0,
            memory: 7168,
            waves: 12,
            instructions: 1022,
            token_loop: 250,
            token_loop_fma: 130,
            loads: [21, 23],
        }
    }

    #[test]
    fn a_line_is_read_back() {
        let row = row("linear 64/16/segment_output, S = 1");
        assert_eq!(Row::read(&row.line()), Ok(row.clone()));
        assert_eq!(row.parts(), ["linear 64", "16", "segment_output, S = 1"]);
        assert_eq!(Row::header().split(';').count(), row.line().split(';').count());
        for line in ["", "navi31;a;1", "navi99;a;1;1;1;1;1;1;1;1;1;1;1;1;1;1"] {
            assert!(Row::read(line).is_err(), "{line}");
        }
    }
}
