//! Counts in a chip's code: instructions, loops, loads.

use std::ops::Range;

/// A kernel's code in blocks, as the driver prints it: a line `BB7:` before each, and a tab before
/// an instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    blocks: Vec<Block>,
    /// From the header to the last block that jumps back to it.
    loops: Vec<Range<usize>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    instructions: u64,
    multiply_adds: u64,
    loads: [u64; 2],
    jumps: Vec<usize>,
}

impl Code {
    /// Of the text.
    #[must_use]
    pub fn new(assembly: &str) -> Self {
        let mut labels = Vec::new();
        let mut blocks: Vec<Block> = Vec::new();
        for line in assembly.lines() {
            if let Some(label) = label(line) {
                labels.push(label);
                blocks.push(Block::default());
            } else if let (Some(instruction), Some(block)) = (instruction(line), blocks.last_mut())
            {
                block.add(instruction);
            }
        }
        let mut loops: Vec<Range<usize>> = Vec::new();
        for (i, block) in blocks.iter().enumerate() {
            for label in &block.jumps {
                let header = labels.iter().position(|other| other == label);
                let Some(header) = header.filter(|header| *header <= i) else { continue };
                match loops.iter_mut().find(|known| known.start == header) {
                    Some(known) => known.end = known.end.max(i + 1),
                    None => loops.push(header..i + 1),
                }
            }
        }
        Self { blocks, loops }
    }

    /// Instructions, and multiply-adds of an invocation, of the token loop with the loops in it,
    /// each once. Zero where no loop has any.
    #[must_use]
    pub fn token_loop(&self) -> [u64; 2] {
        self.token_blocks().map_or([0; 2], |blocks| self.count(&blocks))
    }

    /// Instructions of the smallest loop around the token loop, that of chunks, with the loops in
    /// it, each once. Zero where there is none.
    #[must_use]
    pub fn chunk_loop(&self) -> u64 {
        let Some(tokens) = self.token_blocks() else { return 0 };
        let around = |chunk: &&Range<usize>| is_within(&tokens, chunk);
        let chunk = self.loops.iter().filter(around).min_by_key(|chunk| chunk.len());
        chunk.map_or(0, |blocks| self.count(blocks)[0])
    }

    fn count(&self, blocks: &Range<usize>) -> [u64; 2] {
        self.blocks[blocks.clone()].iter().fold([0; 2], |[instructions, multiply_adds], block| {
            [instructions + block.instructions, multiply_adds + block.multiply_adds]
        })
    }

    /// The loop whose own blocks have the most multiply-adds; or the loop around it that has no
    /// other loop and at least half as many itself, where a token's queries are a loop of their own.
    fn token_blocks(&self) -> Option<Range<usize>> {
        let most = self.loops.iter().max_by_key(|found| self.own_multiply_adds(found))?;
        let own = self.own_multiply_adds(most);
        let around = self.loops.iter().filter(|outer| is_within(most, outer));
        let around = around.min_by_key(|outer| outer.len()).filter(|outer| {
            let inner = self.loops.iter().filter(|other| is_within(other, outer)).count();
            inner == 1 && 2 * self.own_multiply_adds(outer) >= own
        });
        (own > 0).then(|| around.unwrap_or(most).clone())
    }

    /// Of the blocks that are in no loop within it.
    fn own_multiply_adds(&self, outer: &Range<usize>) -> u64 {
        let is_inner =
            |i: &usize| self.loops.iter().any(|other| other.contains(i) && is_within(other, outer));
        let blocks = outer.clone().filter(|i| !is_inner(i));
        blocks.map(|i| self.blocks[i].multiply_adds).sum()
    }

    /// Loads of vectors: those of 16 bytes an invocation, and all.
    #[must_use]
    pub fn loads(&self) -> [u64; 2] {
        self.blocks
            .iter()
            .fold([0; 2], |[wide, all], block| [wide + block.loads[0], all + block.loads[1]])
    }
}

impl Block {
    fn add(&mut self, instruction: &str) {
        self.instructions += u64::from(!is_hint(instruction));
        // One line may have two, which a chip begins together.
        let is_multiply_add = |word: &&str| {
            ["v_fma", "v_dual_fma", "v_mad_", "v_mac_", "v_pk_fma"]
                .iter()
                .any(|name| word.starts_with(name))
        };
        self.multiply_adds += instruction.split_whitespace().filter(is_multiply_add).count() as u64;
        let mut words = instruction.split_whitespace();
        let name = words.next().unwrap_or_default();
        if ["s_branch", "s_cbranch"].iter().any(|jump| name.starts_with(jump)) {
            self.jumps.extend(words.next().and_then(number_of_label));
        }
        let is_load = ["buffer_load_", "global_load_", "ds_load_", "ds_read"]
            .iter()
            .any(|load| name.starts_with(load));
        if is_load {
            let is_wide = name.ends_with("b128") || name.ends_with("dwordx4");
            self.loads[0] += u64::from(is_wide);
            self.loads[1] += 1;
        }
    }
}

fn is_within(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    inner.start > outer.start && inner.end <= outer.end
}

/// True of what tells a chip how long to wait, or how to fetch: it begins with the instruction
/// behind it, and other chips have it within that.
fn is_hint(instruction: &str) -> bool {
    let hints = ["s_delay_alu", "s_waitcnt", "s_nop", "s_clause", "s_set_inst_prefetch", "(then"];
    hints.iter().any(|hint| instruction.starts_with(hint))
}

fn label(line: &str) -> Option<usize> {
    number_of_label(line.trim_end().strip_suffix(':')?)
}

fn number_of_label(label: &str) -> Option<usize> {
    label.strip_prefix("BB")?.parse().ok()
}

/// Without the words in which it is encoded.
fn instruction(line: &str) -> Option<&str> {
    let text = line.strip_prefix('\t')?.split(';').next()?.trim();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "BB0:
\ts_mov_b32 s0, s3                                            ; be800003
\tbuffer_load_b128 v[0:3], v4, s[0:3], 0 offen               ; e05c1000
BB1:
\tds_load_b32 v7, v8                                         ; d8d80000
\tv_fma_f32 v1, v2, v3, v1                                   ; 00000000
BB2:
\tv_dual_fmac_f32 v1, v2, v3 :: v_dual_fmac_f32 v4, v5, v6   ; c8000503
\tv_fmac_f32_e32 v1, v2, v3                                  ; 56020503
\ts_cbranch_scc1 BB4                                         ; bf850001
BB3:
\ts_waitcnt lgkmcnt(0)                                        ; bf890007
\tds_load_b128 v[0:3], v8                                    ; dbfc0000
\tv_fmac_f32_e32 v1, v2, v3                                  ; 56020503
\tv_fmac_f32_e32 v1, v2, v3                                  ; 56020503
\ts_branch BB3                                               ; bf820000
BB4:
\ts_branch BB2                                               ; bf820000
BB5:
\ts_cbranch_scc0 BB1                                         ; bf840000
\ts_endpgm                                                   ; bfb00000
";

    #[test]
    fn the_token_loop_has_the_loops_in_it_and_not_the_loop_around_it() {
        // BB1..BB5 is a chunk, BB2..BB4 its tokens, BB3 the heads of a token.
        let code = Code::new(TEXT);
        assert_eq!(code.loops.len(), 3);
        assert_eq!(code.token_loop(), [8, 5]);
        assert_eq!(code.chunk_loop(), 12);
        assert_eq!(code.loads(), [2, 3]);
        assert_eq!(Code::new("").token_loop(), [0, 0]);
    }

    #[test]
    fn older_names() {
        let code =
            Code::new("BB0:\n\tds_read_b128 v[0:3], v1 ; 0\n\tbuffer_load_dwordx4 v[0:3] ; 0");
        assert_eq!(code.loads(), [2, 2]);
    }
}
