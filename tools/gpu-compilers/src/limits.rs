//! Limits on the compiler's results: a regression fails a test.

use crate::{Chip, Row};

/// Least waves of 32 lanes that a SIMD of navi31 runs of a forward kernel with K = V up to [`MAX_WIDTH`].
pub const MIN_WAVES: u64 = 8;

/// Greatest K = V with that least.
pub const MAX_WIDTH: u32 = 128;

/// Maps whose kernels may have fewer: a row's projections are 2 K F operations for every 2 V of a
/// feature's in the state, so that they are bound by multiply-adds, and the compiler fills the
/// registers with weights.
pub const PROJECTIONS: [&str; 2] = ["hedgehog", "favor"];

/// Every way in which rows are worse than the table, or than they may be: a register that is spilled, an
/// array in memory, fewer waves than the table has, a forward kernel below [`MIN_WAVES`], and modules that
/// only one of both has. A kernel of the backward pass may spill as much as the table says.
#[must_use]
pub fn faults(rows: &[Row], table: &[Row]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |row: &Row, what: String| {
        faults.push(format!("{}: {}: {what}", row.chip.name(), row.module));
    };
    for row in rows {
        let known = table.iter().find(|known| known.chip == row.chip && known.module == row.module);
        let [spilled, scratch] = known.filter(|_| is_backward(row)).map_or([0; 2], memory_of);
        let [required, actual] = [spilled, memory_of(row)[0]];
        if actual > required {
            fault(row, format!("expected {required} spilled registers, found {actual}"));
        }
        if row.scratch > scratch {
            let actual = row.scratch;
            fault(row, format!("expected {scratch} bytes of arrays in memory, found {actual}"));
        }
        match known {
            Some(known) if row.waves < known.waves => {
                fault(row, format!("expected {} waves, found {}", known.waves, row.waves));
            }
            Some(_) => {}
            None => fault(row, "expected a row in docs/gpu-compilers.csv, found none".to_owned()),
        }
        if is_limited(row) && row.waves < MIN_WAVES {
            fault(row, format!("expected {MIN_WAVES} waves, found {}", row.waves));
        }
    }
    for known in table {
        if rows.iter().all(|row| row.chip != known.chip || row.module != known.module) {
            fault(known, "expected no row in docs/gpu-compilers.csv: no such module".to_owned());
        }
    }
    faults
}

/// Registers that are spilled, and bytes of arrays.
fn memory_of(row: &Row) -> [u64; 2] {
    [row.spilled_sgprs + row.spilled_vgprs, row.scratch]
}

fn is_backward(row: &Row) -> bool {
    row.parts()[2].starts_with("gradient")
}

/// True for a forward kernel on the chip that limits are made for.
fn is_limited(row: &Row) -> bool {
    let [config, ..] = row.parts();
    let width = config.rsplit(' ').next().and_then(|width| width.parse::<u32>().ok());
    row.chip == Chip::Navi31
        && width.is_some_and(|width| width <= MAX_WIDTH)
        && !PROJECTIONS.iter().any(|map| config.contains(map))
        && !is_backward(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn the_table_itself_has_no_fault() {
        let rows = [row("linear 64/16/segment_output")];
        assert_eq!(faults(&rows, &rows), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_named() {
        let name = "linear 64/16/segment_output";
        let table = [row(name)];
        let check = |change: &dyn Fn(&mut Row), part: &str| {
            let mut rows = table.clone();
            change(&mut rows[0]);
            let found = faults(&rows, &table);
            assert!(found.iter().any(|fault| fault.contains(part)), "{part} in {found:?}");
        };
        check(&|row| row.spilled_vgprs = 3, "expected 0 spilled registers, found 3");
        check(&|row| row.spilled_sgprs = 1, "expected 0 spilled registers, found 1");
        check(&|row| row.scratch = 64, "arrays in memory, found 64");
        check(&|row| row.waves = 11, "expected 12 waves, found 11");
        check(&|row| row.waves = 7, "expected 8 waves, found 7");
        check(&|row| row.module = "linear 64/16/other".to_owned(), "expected a row");
        check(&|row| row.module = "linear 64/16/other".to_owned(), "no such module");
    }

    #[test]
    fn a_backward_kernel_may_spill_what_the_table_says() {
        let table = [Row { spilled_vgprs: 5, ..row("delta 64/16/gradient_rows") }];
        assert_eq!(faults(&table, &table), Vec::<String>::new());
        let worse = [Row { spilled_vgprs: 6, ..table[0].clone() }];
        assert_eq!(faults(&worse, &table).len(), 1);
    }

    #[test]
    fn wide_rows_gradients_and_other_chips_have_no_least_number_of_waves() {
        for (name, chip) in [
            ("linear 256/16/segment_output", Chip::Navi31),
            ("linear 64/16/gradient_features", Chip::Navi31),
            ("linear, favor:256 64/16/segment_output", Chip::Navi31),
            ("linear 64/16/segment_output", Chip::Navi21),
        ] {
            let low = [Row { chip, waves: 4, ..row(name) }];
            assert_eq!(faults(&low, &low), Vec::<String>::new(), "{name}");
        }
    }
}
