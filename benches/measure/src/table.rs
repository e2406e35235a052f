//! Rows as a table, for people.

use linear_attention::Plan;

use crate::model::{Prediction, Work};
use crate::{Ceilings, Row, Sizes};

/// The line above the rows; with the columns of peers where there are any.
#[must_use]
pub fn header(against: bool) -> String {
    let [ms, gb, copy, gflop] = ["ms", "GB/s", "of copy", "GFLOP/s"];
    let [fma, tokens, scratch, total] = ["of fma", "tokens/s", "scratch B", "total B"];
    let own = format!(
        "{:<20}{:<20}{ms:>10}{gb:>10}{copy:>10}{gflop:>10}{fma:>10}{tokens:>13}{scratch:>12}{total:>14}",
        "B,T,H,K,V", "rule or map"
    );
    if against { format!("{own}{:>8}{:>11}  peer", "ratio", "peer ms") } else { own }
}

/// A row under that header.
#[must_use]
pub fn line(row: &Row, against: bool) -> String {
    let own = format!(
        "{:<20}{:<20}{:>10.3}{:>10.1}{:>8.0} %{:>10.1}{:>8.0} %{:>13.0}{:>12}{:>14}",
        row.sizes,
        if row.update_rule == "linear" { &row.feature_map } else { &row.update_rule },
        row.ms,
        row.gb_s,
        100.0 * row.copy_share,
        row.gflop_s,
        100.0 * row.fma_share,
        row.tokens_s,
        row.scratch_bytes,
        row.total_bytes,
    );
    match &row.against {
        Some(peer) => format!(
            "{own}{:>8.2}{:>11.3}  {} ({})",
            peer.ratio, peer.peer_ms, peer.peer, peer.peer_dtype
        ),
        None if against => format!("{own}{:>8}{:>11}  none of these sizes", "-", "-"),
        None => own,
    }
}

/// The line above the latencies.
#[must_use]
pub fn latency_header() -> String {
    let [compile, first, record, finish] = ["compile ms", "first ms", "record us", "finish us"];
    format!("{:<20}{compile:>12}{first:>12}{record:>12}{finish:>12}  ms of each stage", "B,T,H,K,V")
}

/// The first-use, recording and stage times of a row.
#[must_use]
pub fn latency_line(row: &Row) -> String {
    let latency = &row.latency;
    let stages: Vec<String> =
        row.stages.iter().map(|stage| format!("{} {:.3}", stage.stage, stage.ms)).collect();
    let stages = if stages.is_empty() { "one stage".to_owned() } else { stages.join(", ") };
    format!(
        "{:<20}{:>12.1}{:>12.2}{:>12.1}{:>12.1}  {stages}",
        row.sizes,
        latency.pipeline_ms,
        latency.first_dispatch_ms,
        latency.record_us,
        latency.finish_us
    )
}

/// The peak rates of the device.
#[must_use]
pub fn ceilings(ceilings: &Ceilings) -> String {
    format!(
        "ceilings: copy {:.1} GB/s, multiply-add {:.1} GFLOP/s",
        1e-9 * ceilings.bytes,
        1e-9 * ceilings.flops
    )
}

/// The line above predictions.
#[must_use]
pub fn prediction_header() -> String {
    let [ms, gb, gflop, tokens] = ["ms", "GB/s", "GFLOP/s", "tokens/s"];
    format!(
        "{:<20}{:<20}{ms:>10}{gb:>10}{gflop:>10}{tokens:>13}  bound by, and ms of each part alone",
        "B,T,H,K,V", "rule or map"
    )
}

/// A prediction under that header.
#[must_use]
pub fn prediction_line(plan: &Plan, prediction: &Prediction) -> String {
    let (sizes, config, work) = (Sizes::from(plan), plan.config(), Work::of(plan));
    let seconds = prediction.seconds;
    let rule = config.update_rule.name();
    let map = config.feature_map.to_string();
    let part = |(bound, seconds): &(crate::model::Bound, f64)| {
        format!("{} {:.3}", bound.name(), 1e3 * seconds)
    };
    let parts: Vec<String> = prediction.parts.iter().map(part).collect();
    format!(
        "{sizes:<20}{:<20}{:>10.3}{:>10.1}{:>10.1}{:>13.0}  {}: {}",
        if rule == "linear" { &map } else { rule },
        1e3 * seconds,
        1e-9 * work.bytes / seconds,
        1e-9 * work.flops / seconds,
        f64::from(sizes.b) * f64::from(sizes.t) / seconds,
        prediction.bound().name(),
        parts.join(", "),
    )
}
