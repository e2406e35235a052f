//! What a plan asks of a device: bytes, operations, instructions, accesses, and what one work item does in a
//! row.

use linear_attention::plan::Stage;
use linear_attention::tuning::{Layout, RowSource};
use linear_attention::{Config, FeatureMap, Plan};

/// Instructions, counted in the code of navi31 (`docs/gpu-compilers.md`): of a token and of a query row
/// beside their multiply-adds and accesses, of a chunk, and of a vec4 of a row on its way into workgroup
/// memory.
const TOKEN: f64 = 25.0;
const HEAD: f64 = 30.0;
const CHUNK: f64 = 100.0;
const KEY_VEC4: f64 = 95.0;
const VALUE_VEC4: f64 = 26.0;
const QUERY_VEC4: f64 = 110.0;
/// More of a query that waits for its row max.
const SCALED_VEC4: f64 = 80.0;
/// Of a vec4 of o: the sum over lanes, the quotient, the store.
const OUTPUT_VEC4: f64 = 89.0;
/// Of a token and four features of nu, and of a query row with them.
const NU: f64 = 19.0;
const NU_HEAD: f64 = 17.0;
/// Of a product of four features of two keys of a chunk.
const PAIR: f64 = 12.0;
/// Of an invocation of `decode_step`, and of each of its tiles of four rows.
const DECODE: f64 = 900.0;
const DECODE_TILE: f64 = 100.0;
/// Of a vec4 of a state in `state_scan`.
const SCAN_VEC4: f64 = 40.0;

/// What the dispatches of a plan do, together.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Work {
    /// Bytes of memory, read and written; states of a step included.
    pub bytes: f64,
    /// Operations of multiply-adds, two to each.
    pub flops: f64,
    /// Instructions of single invocations.
    pub instructions: f64,
    /// Vec4s that single invocations read and write: in workgroup memory, or where each loads its own rows
    /// in storage.
    pub accesses: f64,
    /// Vec4s that each invocation maps itself, where it loads its own rows.
    pub maps: f64,
    /// Each stage that goes through tokens.
    pub items: Vec<Item>,
    /// Dispatches.
    pub dispatches: f64,
}

/// A work item of a stage, from its first token to its last.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Item {
    /// Workgroups of the dispatch.
    pub workgroups: f64,
    /// Invocations of a workgroup.
    pub threads: f64,
    /// Bytes of workgroup memory of a workgroup.
    pub memory: f64,
    /// Instructions of an invocation.
    pub instructions: f64,
    /// Loads from memory that wait for one another.
    pub loads: f64,
    /// Barriers.
    pub barriers: f64,
}

/// What an invocation does for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Token {
    instructions: f64,
    accesses: f64,
}

impl Work {
    /// Of a plan for sequences of equal lengths.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let state = if plan.shape().slots.is_some() {
            2 * plan.state_size() * u64::from(plan.shape().sequences())
        } else {
            0
        };
        let mut work = Self {
            bytes: (plan.bytes_moved() + state) as f64,
            flops: plan.flops() as f64,
            dispatches: plan.dispatches().len() as f64,
            ..Self::default()
        };
        for dispatch in plan.dispatches() {
            let workgroups = dispatch.workgroups.map(f64::from).iter().product();
            match dispatch.stage {
                Stage::SegmentOutput | Stage::SegmentState | Stage::SegmentTransition => {
                    work.add_tokens(plan, dispatch.stage, workgroups);
                }
                Stage::DecodeStep => work.add_step(plan, workgroups),
                Stage::StateScan | Stage::TransitionScan => {
                    let states = f64::from(plan.segments()) * plan.state_size() as f64 / 16.0;
                    work.instructions += SCAN_VEC4 * states * f64::from(plan.shape().sequences());
                }
                _ => {}
            }
        }
        work
    }

    fn add_tokens(&mut self, plan: &Plan, stage: Stage, workgroups: f64) {
        let (config, layout) = (plan.config(), plan.layout());
        let len = f64::from(plan.segment_len());
        if layout.row_source == RowSource::Direct {
            self.add_direct_tokens(plan, stage, workgroups);
            return;
        }
        let tile = Tile::new(config, layout, item_heads(plan));
        let token = tile.token(config, stage);
        self.instructions += token.instructions * len * tile.threads * workgroups;
        self.accesses += token.accesses * len * tile.threads * workgroups;
        let chunks = (len / tile.chunk).ceil();
        self.items.push(Item {
            workgroups,
            threads: tile.threads,
            memory: layout.workgroup_memory(config) as f64,
            instructions: token.instructions * len,
            loads: chunks,
            barriers: chunks * barriers(config, stage, tile.lanes),
        });
    }

    /// Each invocation loads and maps its own rows, and has all features of its columns.
    fn add_direct_tokens(&mut self, plan: &Plan, stage: Stage, workgroups: f64) {
        let (config, layout) = (plan.config(), plan.layout());
        let (features, columns) = (f64::from(config.features()), f64::from(layout.columns));
        let heads = if stage == Stage::SegmentOutput { item_heads(plan) } else { 0.0 };
        let invocations = 8.0 * workgroups;
        let tokens = f64::from(plan.segment_len()) * invocations;
        let rows = features / 4.0 * (1.0 + heads);
        if *config.key_map() != FeatureMap::Identity {
            self.maps += tokens * rows;
        }
        self.accesses += tokens * (rows + columns / 4.0 * (1.0 + heads));
    }

    /// A step of decoding: all of it waits for a load of a state, which is most of the bytes.
    fn add_step(&mut self, plan: &Plan, workgroups: f64) {
        let (config, layout) = (plan.config(), plan.layout());
        let vec4s = (f64::from(config.features()) / 4.0).ceil();
        let value_vec4s = f64::from(config.value_dim.div_ceil(4).next_power_of_two());
        if layout.row_source == RowSource::Direct {
            let elements = plan.state_size() as f64 / 16.0 * f64::from(plan.shape().sequences());
            self.accesses += 2.0 * elements;
            return;
        }
        let lanes = (256.0 / value_vec4s).min(vec4s).max(1.0);
        let threads = lanes * value_vec4s;
        let instructions = DECODE + DECODE_TILE * (vec4s / lanes).ceil();
        self.instructions += instructions * threads * workgroups;
        // Barriers before the map, after it, and before the sums.
        let (loads, barriers) = (2.0, 4.0);
        let memory = 16.0 * lanes * value_vec4s + 32.0 * vec4s;
        self.items.push(Item { workgroups, threads, memory, instructions, loads, barriers });
    }
}

/// Output heads that a work item has for each token.
fn item_heads(plan: &Plan) -> f64 {
    let shape = plan.shape();
    let group = (shape.heads / shape.value_heads.max(1)).max(1);
    f64::from(group.min(plan.layout().chunk_queries).max(1))
}

/// Barriers of a chunk.
fn barriers(config: &Config, stage: Stage, lanes: f64) -> f64 {
    let corrects = config.update_rule.beta().is_some() && lanes > 1.0;
    let correction = if corrects { 3.0 } else { 0.0 };
    correction
        + match (stage, config.is_normalized()) {
            (Stage::SegmentOutput, true) => 5.0,
            (Stage::SegmentOutput, false) => 3.0,
            _ => 2.0,
        }
}

/// A tile of mu and the threads around it.
struct Tile {
    rows: f64,
    /// In vec4s.
    columns: f64,
    lanes: f64,
    threads: f64,
    /// Tokens of a chunk.
    chunk: f64,
    heads: f64,
    /// Vec4s of a row of features and of values of the work item.
    row_vec4s: [f64; 2],
}

impl Tile {
    fn new(config: &Config, layout: Layout, heads: f64) -> Self {
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
        let decays = if config.update_rule.decay().is_some() { 1.0 } else { 0.0 };
        Token {
            instructions: TOKEN
                + HEAD * heads
                + pass.instructions * (1.0 + heads)
                + decays * 4.0 * self.rows * self.columns,
            accesses: pass.accesses * (1.0 + heads),
        }
    }

    /// An invocation's part of a token, with its part of the chunk's rows and sums.
    fn token(&self, config: &Config, stage: Stage) -> Token {
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
        if has_nu {
            // The other threads of a wave wait.
            let part = (features.max(32.0) / self.threads).min(1.0);
            token.instructions += part * (NU + NU_HEAD * heads);
        }
        if heads > 0.0 && self.lanes > 1.0 {
            token.instructions += shared(heads * values, OUTPUT_VEC4);
            token.accesses += shared(heads * values, self.lanes);
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
    use linear_attention::{Shape, UpdateRule, wgpu};

    fn plan(config: &Config, shape: &Shape) -> Option<Plan> {
        let limits = wgpu::Limits {
            max_compute_workgroup_storage_size: 48 << 10,
            max_compute_invocations_per_workgroup: 1024,
            max_compute_workgroup_size_x: 1024,
            max_storage_buffer_binding_size: 1 << 30,
            max_buffer_size: 1 << 30,
            ..wgpu::Limits::default()
        };
        let kind = wgpu::DeviceType::DiscreteGpu;
        let tuning = linear_attention::tuning::Tuning::new(config, &limits, kind).ok()?;
        Plan::new(config, shape, &limits, &tuning).ok()
    }

    /// The instructions of a kernel's token loop, as a compiler made them.
    fn compiled(module: &str) -> Option<f64> {
        let table = include_str!("../../../../docs/gpu-compilers.csv");
        let mut lines = table.lines().map(|line| line.split(';'));
        let column = lines.next()?.position(|name| name == "token_loop")?;
        let mut row = lines.find(|row| row.clone().take(2).eq(["navi31", module]))?;
        row.nth(column)?.parse().ok()
    }

    #[test]
    fn the_token_loop_is_as_long_as_a_compiler_makes_it() {
        // Waves of 64 lanes, which begin one instruction at a time.
        let head = linear_attention::update_rule::Decay::per_head();
        for (rule, name) in [(UpdateRule::Linear, "linear"), (UpdateRule::Gated(head), "gated")] {
            for width in [64, 96, 128] {
                let config = Config::of_rule(width, width, rule);
                let tile = Tile::new(&config, Layout::workgroup(16, 4, width.div_ceil(4), 4), 1.0);
                let found = tile.token_loop(&config, 1.0).instructions;
                let module = format!("{name} {width}/64/segment_output");
                let ratio = compiled(&module).map(|expected| found / expected);
                assert!(
                    ratio.is_some_and(|ratio| (ratio - 1.0).abs() < 0.08),
                    "{module}: {ratio:?}"
                );
            }
        }
    }

    #[test]
    fn bytes_and_operations_are_the_plans() {
        let (config, shape) = (Config::new(64, 64), Shape::new(32, 1024, 16));
        let work = plan(&config, &shape).map(|plan| Work::of(&plan)).unwrap_or_default();
        // q, k, v and o once in f32, and 4 F V + 3 F + V operations a token and head: S = 1.
        let tokens = 32.0 * 1024.0 * 16.0;
        assert_eq!(work.bytes, tokens * 4.0 * 64.0 * 4.0);
        assert_eq!(work.flops, tokens * (4.0 * 64.0 * 64.0 + 4.0 * 64.0));
        assert_eq!(work.dispatches, 1.0);
        // 64 invocations a head; a thread makes 128 multiply-adds of a token.
        assert!(work.instructions > 128.0 * 64.0 * tokens);
        assert!(work.instructions < 420.0 * 64.0 * tokens);
    }

    #[test]
    fn a_step_reads_and_writes_each_state_once() {
        let (config, shape) = (Config::new(128, 128), Shape::new(256, 1, 32).with_slots(256));
        let work = plan(&config, &shape).map(|plan| Work::of(&plan)).unwrap_or_default();
        let states = 8.0 * 256.0 * 32.0 * 128.0 * 129.0;
        let rows = 256.0 * 32.0 * 128.0 * 4.0 * 4.0;
        assert_eq!(work.bytes, states + rows);
    }

    #[test]
    fn longer_sequences_take_as_much_more() {
        let config = Config::of_rule(128, 128, UpdateRule::Linear);
        let of = |len| plan(&config, &Shape::new(32, len, 16)).map(|plan| Work::of(&plan));
        let [short, long] = [of(1024), of(2048)].map(Option::unwrap_or_default);
        assert!(short.instructions > 0.0);
        assert!((long.instructions / short.instructions - 2.0).abs() < 1e-9);
        assert_eq!(long.accesses / short.accesses, 2.0);
    }
}
