//! The work of a plan: bytes, operations, instructions, accesses, and the serial work of one work
//! item.

use linear_attention::plan::Stage;
use linear_attention::tuning::RowSource;
use linear_attention::{Config, FeatureMap, Plan};

use super::tile::Tile;

/// Of an invocation of `decode_step`, and of each of its tiles of four rows.
const DECODE: f64 = 900.0;
const DECODE_TILE: f64 = 100.0;
/// Of a vec4 of a state in `state_scan`.
const SCAN_VEC4: f64 = 40.0;

/// The work of the dispatches of a plan together.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Work {
    /// Bytes of memory, read and written; states of a step included.
    pub bytes: f64,
    /// Operations of multiply-adds, two to each.
    pub flops: f64,
    /// Instructions of single invocations.
    pub instructions: f64,
    /// Vec4s that single invocations read and write: in workgroup memory, or where each loads its
    /// own rows in storage.
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
    /// Loads from memory, one after the other.
    pub loads: f64,
    /// True if a load arrives while the item works on what was loaded before.
    pub loads_ahead: bool,
    /// Barriers.
    pub barriers: f64,
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
            loads_ahead: true,
            barriers: chunks * barriers(config, stage, &tile),
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
        // Two tiles at a time, the first of them with the rows; barriers before the map, after it,
        // and before the sums.
        let (loads, barriers) = ((vec4s / lanes / 2.0).ceil(), 3.0);
        let memory = 16.0 * lanes * value_vec4s + 32.0 * vec4s;
        let loads_ahead = false;
        self.items.push(Item {
            workgroups,
            threads,
            memory,
            instructions,
            loads,
            loads_ahead,
            barriers,
        });
    }
}

/// Output heads that a work item has for each token.
fn item_heads(plan: &Plan) -> f64 {
    let shape = plan.shape();
    let group = (shape.heads / shape.value_heads.max(1)).max(1);
    f64::from(group.min(plan.layout().chunk_queries).max(1))
}

/// Barriers of a chunk.
fn barriers(config: &Config, stage: Stage, tile: &Tile) -> f64 {
    let corrects = config.update_rule.beta().is_some() && tile.lanes > 1.0;
    let correction = if corrects { 3.0 } else { 0.0 };
    correction
        + match (stage, config.is_normalized()) {
            (Stage::SegmentOutput, true) => 3.0,
            _ => 2.0,
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
