//! The files that rows are written to.

use crate::modules::{MEMORY, RULES, WIDTHS};
use crate::{Chip, Row};

/// Every row, from the repository's root.
pub const CSV: &str = "docs/gpu-compilers.csv";
/// The page that has tables of them.
pub const PAGE: &str = "docs/gpu-compilers.md";

const BEGIN: &str = "<!-- written by scripts/check-gpu-compilers --write -->\n";
const END: &str = "<!-- end -->\n";

/// The text of [`CSV`].
#[must_use]
pub fn csv(rows: &[Row]) -> String {
    let lines: String = rows.iter().map(|row| row.line() + "\n").collect();
    format!("{}\n{lines}", Row::header())
}

/// The rows of a text.
///
/// # Errors
///
/// The first line that is no row.
pub fn read(text: &str) -> Result<Vec<Row>, String> {
    text.lines().skip(1).map(Row::read).collect()
}

/// The page with new tables between its two marks.
///
/// # Errors
///
/// A page without both marks.
pub fn page(page: &str, rows: &[Row]) -> Result<String, String> {
    let wrong = || format!("{PAGE}: expected {BEGIN:?} and {END:?}");
    let (before, rest) = page.split_once(BEGIN).ok_or_else(wrong)?;
    let (_, after) = rest.split_once(END).ok_or_else(wrong)?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", tables(rows)))
}

fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for memory in MEMORY {
        for stage in ["segment_output", "segment_state", "segment_transition", "decode_step"] {
            text += &format!("\n`{stage}` with {memory} KiB of workgroup memory:\n\n");
            text += &stage_table(rows, stage, memory);
        }
    }
    text += "\nOther types, accesses and maps, on navi31:\n\n";
    text += HEADER;
    let is_usual = |row: &Row| {
        let (rule, width) = row.parts()[0].rsplit_once(' ').unwrap_or_default();
        RULES.contains(&rule) && width.parse().is_ok_and(|width: u32| WIDTHS.contains(&width))
    };
    for row in of_chip(rows, Chip::Navi31) {
        let [_, memory, stage] = row.parts();
        if !is_usual(row) && memory == "64" && !stage.starts_with("gradient") {
            text += &line(row);
        }
    }
    text += "\nThe fewest waves of every other stage on navi31, and the module that has them:\n\n";
    text += HEADER;
    let mut stages: Vec<&str> = Vec::new();
    for row in of_chip(rows, Chip::Navi31) {
        let stage = row.parts()[2];
        if !["segment_", "decode_"].iter().any(|tile| stage.starts_with(tile))
            && !stages.contains(&stage)
        {
            stages.push(stage);
            let same = of_chip(rows, Chip::Navi31).filter(|other| other.parts()[2] == stage);
            text += &same.min_by_key(|other| other.waves).map(line).unwrap_or_default();
        }
    }
    text + "\n"
}

/// The stage of every rule and width, with the waves of the other chips.
fn stage_table(rows: &[Row], stage: &str, memory: u32) -> String {
    let chips = Chip::ALL[1..].iter().map(|chip| format!(" {} |", chip.name()));
    let mut text = format!(
        "| rule, K = V | threads | registers | workgroup memory | waves |{} token loop | of 16 bytes |\n",
        chips.collect::<String>()
    );
    text += &"| --- ".repeat(7 + Chip::ALL.len() - 1);
    text += "|\n";
    for row in of_chip(rows, Chip::Navi31) {
        let [config, kib, of] = row.parts();
        let (rule, _) = config.rsplit_once(' ').unwrap_or_default();
        if of != stage || kib != memory.to_string() || !RULES.contains(&rule) {
            continue;
        }
        let others = Chip::ALL[1..].iter().map(|chip| {
            let same = of_chip(rows, *chip).find(|other| other.module == row.module);
            format!(" {} |", same.map_or("-".to_owned(), |other| other.waves.to_string()))
        });
        text += &format!(
            "| {config} | {} | {} | {} | {} |{} {} | {} of {} |\n",
            row.threads,
            row.vgprs,
            row.memory,
            row.waves,
            others.collect::<String>(),
            in_loop(row),
            row.loads[0],
            row.loads[1],
        );
    }
    text
}

const HEADER: &str = "| module | threads | registers | workgroup memory | waves | token loop | of 16 bytes |\n\
    | --- | --- | --- | --- | --- | --- | --- |\n";

fn line(row: &Row) -> String {
    let [config, _, stage] = row.parts();
    format!(
        "| {config}: `{stage}` | {} | {} | {} | {} | {} | {} of {} |\n",
        row.threads,
        row.vgprs,
        row.memory,
        row.waves,
        in_loop(row),
        row.loads[0],
        row.loads[1]
    )
}

fn in_loop(row: &Row) -> String {
    match row.token_loop {
        0 => "-".to_owned(),
        instructions => format!("{instructions}, {}, {}", row.token_loop_fma, row.chunk_loop),
    }
}

fn of_chip(rows: &[Row], chip: Chip) -> impl Iterator<Item = &Row> {
    rows.iter().filter(move |row| row.chip == chip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;

    #[test]
    fn rows_are_read_back() {
        let rows = [row("linear 64/16/segment_output"), row("linear 64/16/decode_step")];
        assert_eq!(read(&csv(&rows)), Ok(rows.to_vec()));
        assert!(read("header\nnonsense").is_err());
    }

    #[test]
    fn a_page_keeps_what_is_around_its_tables() -> Result<(), String> {
        let rows = [row("linear 64/16/segment_output"), row("linear, f16 63/64/output_sum")];
        let old = format!("before\n{BEGIN}old\n{END}after\n");
        let new = page(&old, &rows)?;
        assert!(new.starts_with("before\n") && new.ends_with("after\n") && !new.contains("old"));
        assert!(
            new.contains("| linear 64 | 128 | 96 | 7168 | 12 | - | - | 250, 130, 500 | 21 of 23 |")
        );
        assert!(new.contains("| linear, f16 63: `output_sum` | 128 |"));
        assert_eq!(page(&new, &rows).as_ref(), Ok(&new));
        assert!(page("without marks", &rows).is_err());
        Ok(())
    }
}
