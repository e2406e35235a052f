//! The panels of a plot: the rows, grouped into lines.

use std::collections::BTreeMap;

use linear_attention_measure::{Computes, PeerRow, Peers, Report, Row, Sizes};

/// Axes and the lines between them. The x axis, tokens, is in powers of two.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x_title: &'static str,
    pub(crate) y_title: &'static str,
    /// True for a y axis in powers of ten; otherwise it begins at 0.
    pub(crate) is_log: bool,
    /// Ours first.
    pub(crate) series: Vec<Series>,
}

/// A line: x and y of each point, x rising.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

const X_TITLE: &str = "T, tokens (k = 1024)";

/// Milliseconds beside the peers, and time per token; none where no rows differ in T alone.
pub(crate) fn panels(report: &Report, peers: &[Peers]) -> Option<[Panel; 2]> {
    let sweeps = sweeps(&report.rows);
    let softmax_rows = |key: &Key| {
        let rows = peers.iter().flat_map(|peers| &peers.rows);
        rows.filter(|row| key.holds(row) && row.computes == Computes::Softmax).count()
    };
    let peer_rows =
        |key: &Key| peers.iter().flat_map(|peers| &peers.rows).filter(|row| key.holds(row)).count();
    // Beside the peers, the sweep that softmax attention was measured on; in the other panel
    // the one that goes furthest.
    let (compared, rows) =
        sweeps.iter().max_by_key(|(key, rows)| (softmax_rows(key), peer_rows(key), rows.len()))?;
    let mut series = vec![ours(rows, |row| row.ms)];
    series.extend(of_peers(compared, peers));
    let times = Panel {
        title: format!("Time of a call, {}", compared.title()),
        x_title: X_TITLE,
        y_title: "ms",
        is_log: true,
        series,
    };
    let (longest, rows) = sweeps
        .iter()
        .max_by_key(|(_, rows)| (rows.iter().map(|row| row.sizes.t).max(), rows.len()))?;
    let per_token = Panel {
        title: format!("Time per token, {}", longest.title()),
        x_title: X_TITLE,
        y_title: "ns",
        is_log: false,
        series: vec![ours(rows, |row| 1e9 / row.tokens_s)],
    };
    Some([times, per_token])
}

/// The properties that the rows of a sweep share: the sizes but T, the dtype, and the feature map.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    b: u32,
    h: u32,
    g: u32,
    k: u32,
    v: u32,
    dtype: String,
    map: String,
}

impl Key {
    fn new(sizes: &Sizes, dtype: &str, map: &str) -> Self {
        let Sizes { b, h, g, k, v, .. } = *sizes;
        Self { b, h, g, k, v, dtype: dtype.to_owned(), map: map.to_owned() }
    }

    /// True for a row of a peer with these sizes. Its dtype may differ, and is shown.
    fn holds(&self, row: &PeerRow) -> bool {
        row.ms.is_some() && *self == Self::new(&row.sizes, &self.dtype, &self.map)
    }

    fn title(&self) -> String {
        let Self { b, h, g, k, v, .. } = self;
        let heads = if g == h { format!("H = {h}") } else { format!("H = {h}, G = {g}") };
        let widths = if k == v { format!("K = V = {k}") } else { format!("K = {k}, V = {v}") };
        format!("B = {b}, {heads}, {widths}")
    }
}

/// The rows by what they share, of which at least two differ in T, each sorted by T.
fn sweeps(rows: &[Row]) -> BTreeMap<Key, Vec<&Row>> {
    let mut sweeps: BTreeMap<Key, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        sweeps.entry(Key::new(&row.sizes, &row.dtype, &row.feature_map)).or_default().push(row);
    }
    for rows in sweeps.values_mut() {
        rows.sort_by_key(|row| row.sizes.t);
        rows.dedup_by_key(|row| row.sizes.t);
    }
    sweeps.retain(|_, rows| rows.len() > 1);
    sweeps
}

fn ours(rows: &[&Row], y: impl Fn(&Row) -> f64) -> Series {
    let dtype = rows.first().map_or("", |row| row.dtype.as_str());
    Series {
        name: format!("linear-attention ({dtype})"),
        points: rows.iter().map(|row| (f64::from(row.sizes.t), y(row))).collect(),
    }
}

/// A line for each peer and dtype, softmax attention first, else in the order of the files.
fn of_peers(key: &Key, peers: &[Peers]) -> Vec<Series> {
    let mut lines: Vec<(Computes, Series)> = Vec::new();
    for row in peers.iter().flat_map(|peers| &peers.rows).filter(|row| key.holds(row)) {
        let Some(ms) = row.ms else { continue };
        let name = format!("{} ({})", row.peer, row.dtype);
        let point = (f64::from(row.sizes.t), ms);
        match lines.iter_mut().find(|(_, line)| line.name == name) {
            Some((_, line)) => line.points.push(point),
            None => lines.push((row.computes, Series { name, points: vec![point] })),
        }
    }
    for (_, line) in &mut lines {
        line.points.sort_by(|(t, _), (other, _)| t.total_cmp(other));
        line.points.dedup_by_key(|(t, _)| *t);
    }
    lines.sort_by_key(|(computes, _)| *computes != Computes::Softmax);
    lines.into_iter().map(|(_, line)| line).collect()
}
