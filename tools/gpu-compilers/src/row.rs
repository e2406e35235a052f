//! The results of a compiled module: a line of `docs/gpu-compilers.csv`.

use crate::{Chip, Code, Compiled, Module, Spirv};

/// A column of the file: its name, and its number in a row.
type Column = (&'static str, fn(&mut Row) -> &mut u64);

/// The columns of the file, after the chip and the module's name.
const COLUMNS: [Column; 15] = [
    ("wave", |row| &mut row.wave),
    ("threads", |row| &mut row.threads),
    ("sgprs", |row| &mut row.sgprs),
    ("vgprs", |row| &mut row.vgprs),
    ("spilled_sgprs", |row| &mut row.spilled_sgprs),
    ("spilled_vgprs", |row| &mut row.spilled_vgprs),
    ("scratch", |row| &mut row.scratch),
    ("memory", |row| &mut row.memory),
    ("waves", |row| &mut row.waves),
    ("instructions", |row| &mut row.instructions),
    ("token_loop", |row| &mut row.token_loop),
    ("token_loop_fma", |row| &mut row.token_loop_fma),
    ("chunk_loop", |row| &mut row.chunk_loop),
    ("loads_16", |row| &mut row.loads[0]),
    ("loads", |row| &mut row.loads[1]),
];

/// The compiler's judgement of a module on a chip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Occupancy: waves that a SIMD runs at a time, as the driver counts them, in waves of 32
    /// lanes: 32 at most where a wave has 64, else 16.
    pub waves: u64,
    /// Instructions of the whole kernel.
    pub instructions: u64,
    /// Instructions of the token loop with the loops in it.
    pub token_loop: u64,
    /// Multiply-adds of them.
    pub token_loop_fma: u64,
    /// Instructions of the loop around it.
    pub chunk_loop: u64,
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
            chunk_loop: code.chunk_loop(),
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
        format!("chip;module;{}", COLUMNS.map(|(name, _)| name).join(";"))
    }

    /// Its line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut row = self.clone();
        let numbers = COLUMNS.map(|(_, number)| number(&mut row).to_string());
        format!("{};{};{}", self.chip.name(), self.module, numbers.join(";"))
    }

    /// The row of a line.
    ///
    /// # Errors
    ///
    /// A message that cites the line and the columns expected.
    pub fn read(line: &str) -> Result<Self, String> {
        let wrong = || format!("expected a line of {}, found {line}", Self::header());
        let mut words = line.split(';');
        let mut next = || words.next().ok_or_else(wrong);
        let chip = Chip::from_name(next()?).ok_or_else(wrong)?;
        let mut row = Self { chip, module: next()?.to_owned(), ..Self::default() };
        for (_, number) in COLUMNS {
            *number(&mut row) = next()?.parse().map_err(|_| wrong())?;
        }
        match words.next() {
            None => Ok(row),
            Some(_) => Err(wrong()),
        }
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
            chunk_loop: 500,
            loads: [21, 23],
        }
    }

    #[test]
    fn a_line_is_read_back() {
        let row = row("linear 64/16/segment_output, S = 1");
        assert_eq!(Row::read(&row.line()), Ok(row.clone()));
        assert_eq!(row.parts(), ["linear 64", "16", "segment_output, S = 1"]);
        assert_eq!(Row::header().split(';').count(), row.line().split(';').count());
        let longer = row.line() + ";1";
        for line in ["", "navi31;a;1", "navi99;a;1;1;1;1;1;1;1;1;1;1;1;1;1;1", &longer] {
            assert!(Row::read(line).is_err(), "{line}");
        }
    }
}
