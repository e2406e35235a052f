//! The instructions and accesses of a token in the kernels that carry a tile of mu.

use linear_attention::Config;
use linear_attention::plan::Stage;
use linear_attention::tuning::Layout;
use linear_attention::update_rule::DecayDims;

/// Instructions, counted in the code of navi31 (`docs/gpu-compilers.md`): of a token and of a query
/// row beside their multiply-adds and accesses, of a chunk, and of a vec4 of a row on its way into
/// workgroup memory.
const TOKEN: f64 = 8.0;
const HEAD: f64 = 9.0;
/// Of a token, where its decay multiplies a factor beside the tile; and of each vec4 that enters or
/// is read. That a tile is multiplied by a factor that has become small is left out.
const FACTOR: f64 = 19.0;
const FACTOR_VEC4: f64 = 4.0;
const CHUNK: f64 = 40.0;
const KEY_VEC4: f64 = 42.0;
const VALUE_VEC4: f64 = 15.0;
const QUERY_VEC4: f64 = 40.0;
/// More of a query that waits for its row max.
const SCALED_VEC4: f64 = 27.0;
/// Of a vec4 of o: the sum over lanes, the quotient, the store; and of each product of its row's
/// weight.
const OUTPUT_VEC4: f64 = 40.0;
const WEIGHT: f64 = 1.2;
/// The same where lanes add up by shuffles: of a row, beside four for each of log2(lanes) steps,
/// and of a row that a thread writes behind the chunk.
const SHUFFLED_ROW: f64 = 17.0;
const WRITTEN_ROW: f64 = 28.0;
/// Of four features of nu_i for a query row, and of each token of the chunk that they may have.
const NU: f64 = 28.0;
const NU_TOKEN: f64 = 8.0;
/// Of a product of four features of two keys of a chunk.
const PAIR: f64 = 12.0;

/// The work of an invocation for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Token {
    pub(super) instructions: f64,
    /// Vec4s of workgroup memory.
    pub(super) accesses: f64,
}

/// A tile of mu and the threads around it.
pub(super) struct Tile {
    rows: f64,
    /// In vec4s.
    columns: f64,
    pub(super) lanes: f64,
    pub(super) threads: f64,
    /// Tokens of a chunk.
    pub(super) chunk: f64,
    heads: f64,
    /// Lanes add up by shuffles.
    pub(super) has_subgroup_sums: bool,
    /// Vec4s of a row of features and of values of the work item.
    row_vec4s: [f64; 2],
}

impl Tile {
    pub(super) fn new(config: &Config, layout: Layout, heads: f64) -> Self {
        // Above 256 features a work item has a block of 128.
        let features = if config.features() > 256 { 128 } else { config.features() };
        let lanes = f64::from(features.div_ceil(layout.rows));
        let values = f64::from(layout.block_columns()) / 4.0;
        let chunk = (f64::from(layout.chunk_queries) / heads).floor();
        Self {
            rows: layout.rows.into(),
            columns: f64::from(layout.columns) / 4.0,
            lanes,
            threads: lanes * f64::from(layout.column_threads),
            chunk: chunk.clamp(1.0, layout.chunk_tokens.into()),
            heads,
            has_subgroup_sums: layout.subgroup_sums,
            row_vec4s: [lanes * f64::from(layout.rows) / 4.0, values],
        }
    }

    /// One pass over the tile: instructions, of which a quarter of its rows are loads of features.
    fn pass(&self) -> Token {
        let accesses = self.rows / 4.0 + self.columns;
        Token { instructions: 4.0 * self.rows * self.columns + accesses, accesses }
    }

    /// The token loop's own.
    fn token_loop(&self, config: &Config, heads: f64) -> Token {
        let pass = self.pass();
        let decays = match config.update_rule.decay().map(|decay| decay.dims) {
            None => 0.0,
            Some(DecayDims::PerRow) => 4.0 * self.rows * self.columns,
            Some(_) => FACTOR + FACTOR_VEC4 * self.columns * (1.0 + heads),
        };
        Token {
            instructions: TOKEN + HEAD * heads + pass.instructions * (1.0 + heads) + decays,
            accesses: pass.accesses * (1.0 + heads),
        }
    }

    /// An invocation's part of a token, with its part of the chunk's rows and sums.
    pub(super) fn token(&self, config: &Config, stage: Stage) -> Token {
        let heads = if stage == Stage::SegmentOutput { self.heads } else { 0.0 };
        let [features, values] = self.row_vec4s;
        let mut token = self.token_loop(config, heads);
        let shared = |vec4s: f64, each: f64| each * vec4s / self.threads;
        let has_nu = config.is_normalized() && stage != Stage::SegmentTransition;
        let query = QUERY_VEC4 + if has_nu { SCALED_VEC4 } else { 0.0 };
        let value = if stage == Stage::SegmentTransition { 0.0 } else { VALUE_VEC4 };
        token.instructions += CHUNK / self.chunk
            + shared(features, KEY_VEC4)
            + shared(values, value)
            + shared(heads * features, query);
        token.accesses += shared(features * (1.0 + heads) + values, 1.0);
        if has_nu && heads > 0.0 {
            token.instructions += shared(heads * features, NU + NU_TOKEN * self.chunk);
            token.accesses += shared(heads * features, 2.0 + self.chunk);
        } else if has_nu {
            // The other threads of a wave wait.
            let part = (features.max(32.0) / self.threads).min(1.0);
            token.instructions += part * NU_TOKEN;
        }
        let weight = if has_nu { WEIGHT * features } else { 0.0 };
        if heads > 0.0 && self.has_subgroup_sums {
            let rows = (self.chunk * heads / self.lanes).ceil();
            token.instructions += heads * (SHUFFLED_ROW + 4.0 * self.columns * self.lanes.log2())
                + rows * (WRITTEN_ROW + weight) * self.columns / self.chunk;
        } else if heads > 0.0 && self.lanes > 1.0 {
            token.instructions += shared(heads * values, OUTPUT_VEC4 + weight);
            token.accesses += shared(heads * values, self.lanes + features / 4.0);
        }
        if config.update_rule.beta().is_some() {
            let pass = self.pass();
            token.instructions += HEAD + pass.instructions;
            token.accesses += pass.accesses;
            if self.lanes > 1.0 {
                let pairs = (self.chunk - 1.0) / 2.0;
                token.instructions += shared(pairs * features, PAIR);
                token.accesses += shared(pairs * features * 2.0, 1.0);
            }
        }
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linear_attention::UpdateRule;
    use linear_attention::update_rule::Decay;

    /// A count of a kernel, as a compiler made it.
    fn compiled(module: &str, count: &str) -> Option<f64> {
        let table = include_str!("../../../../docs/gpu-compilers.csv");
        let mut lines = table.lines().map(|line| line.split(';'));
        let column = lines.next()?.position(|name| name == count)?;
        let mut row = lines.find(|row| row.clone().take(2).eq(["navi31", module]))?;
        row.nth(column)?.parse().ok()
    }

    #[test]
    fn the_token_loop_is_as_long_as_a_compiler_makes_it() {
        // Waves of 64 lanes, which begin one instruction at a time.
        let head = Decay::per_head();
        for (rule, name) in [(UpdateRule::Linear, "linear"), (UpdateRule::Gated(head), "gated")] {
            for width in [64, 96, 128] {
                let config = Config::of_rule(width, width, rule);
                let tile = Tile::new(&config, Layout::workgroup(16, 4, width.div_ceil(4), 4), 1.0);
                let found = tile.token_loop(&config, 1.0).instructions;
                let module = format!("{name} {width}/64/segment_output");
                let mut expected = compiled(&module, "token_loop");
                if rule != UpdateRule::Linear {
                    // That a factor has become small.
                    let settled = 4.0 * tile.rows * tile.columns + 2.0;
                    expected = expected.map(|expected| expected - settled);
                }
                let ratio = expected.map(|expected| found / expected);
                assert!(
                    ratio.is_some_and(|ratio| (ratio - 1.0).abs() < 0.08),
                    "{module}: {ratio:?}"
                );
            }
        }
    }

    /// With a chunk's loads, maps and sums, where each thread has one vec4 of each.
    #[test]
    fn a_token_is_as_long_as_a_compiler_makes_it() {
        let config = Config::of_rule(64, 64, UpdateRule::Linear);
        let tile = Tile::new(&config, Layout::workgroup(16, 4, 16, 4), 1.0);
        for (stage, name) in
            [(Stage::SegmentOutput, "segment_output"), (Stage::SegmentState, "segment_state")]
        {
            let module = format!("linear 64/64/{name}");
            let [chunk, token] = ["chunk_loop", "token_loop"].map(|of| compiled(&module, of));
            let expected = chunk.zip(token).map(|(chunk, token)| (chunk + 3.0 * token) / 4.0);
            let found = tile.token(&config, stage).instructions;
            let ratio = expected.map(|expected| found / expected);
            assert!(ratio.is_some_and(|ratio| (ratio - 1.0).abs() < 0.1), "{module}: {ratio:?}");
        }
    }
}
