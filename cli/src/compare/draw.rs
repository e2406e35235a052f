//! Errors over position, and over the size of the state, as an SVG.

use std::error::Error;

use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::{
    Circle, Color, EmptyElement, IntoDrawingArea, IntoFont, IntoLogRange, SVGBackend, ShapeStyle,
    Text, WHITE,
};

use super::measure::Compared;
use crate::plot::draw::{Area, COLORS, INK, LABEL, decades, draw, frame, number};
use crate::plot::panels::{Panel, Series};

const Y_TITLE: &str = "relative error of o";
const WIDTH: u32 = 1400;
const HEIGHT: u32 = 620;
const CAPTION: u32 = 32;
/// Of what lies between the axes, roughly, and of a name in it.
const PLOT_HEIGHT: f64 = 475.0;
const NAME_HEIGHT: f64 = 13.0;
/// Lines that people can tell apart.
const LINES: usize = 7;

pub(crate) fn svg(rows: &[Compared], caption: &str) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let (charts, below) = root.split_vertically(HEIGHT - CAPTION);
        let (left, right) = charts.split_horizontally(WIDTH / 2);
        draw(&left, &over_position(&lines(rows)))?;
        over_state(&right, rows)?;
        let style = ("sans-serif", LABEL).into_font().color(&INK);
        below.draw(&Text::new(caption.to_owned(), (20i32, 0i32), style))?;
        root.present()?;
    }
    Ok(text)
}

/// Of the maps that need no training those nearest to softmax, the nearest first.
fn lines(rows: &[Compared]) -> Vec<&Compared> {
    let mut lines: Vec<&Compared> = rows.iter().filter(|row| row.weights != "untrained").collect();
    if lines.is_empty() {
        lines = rows.iter().collect();
    }
    lines.sort_by(|a, b| a.error.total_cmp(&b.error));
    lines.truncate(LINES);
    lines
}

/// The range of errors that is drawn: where weights cancel, an error may be of any size.
fn bounds(errors: impl Iterator<Item = f64>) -> (f64, f64) {
    let errors: Vec<f64> = errors.filter(|x| x.is_finite() && *x > 0.0).collect();
    let low = errors.iter().copied().fold(1.0, f64::min);
    let high = errors.iter().copied().fold(low, f64::max).min(5.0);
    ((low / 1.5).max(1e-7), (high * 1.5).max(low * 3.0))
}

/// The lines of some maps. The first token is left out: its error is that of rounding.
fn over_position(rows: &[&Compared]) -> Panel {
    let points = |row: &Compared| -> Vec<(f64, f64)> {
        let later = row.over_position.iter().filter(|(from, _)| *from > 1);
        later.map(|(from, error)| (f64::from(*from), *error)).collect()
    };
    let all = rows.iter().flat_map(|row| points(row)).map(|(_, error)| error);
    let (low, high) = bounds(all);
    let series = rows.iter().map(|row| Series {
        name: row.map.clone(),
        points: points(row).into_iter().map(|(t, y)| (t, y.clamp(low, high))).collect(),
    });
    Panel {
        title: "Error against softmax, over position".to_owned(),
        x_title: "position in the sequence, to twice that",
        y_title: Y_TITLE,
        is_log: true,
        series: series.collect(),
    }
}

fn over_state(area: &Area<'_>, rows: &[Compared]) -> Result<(), Box<dyn Error>> {
    let (low, high) = bounds(rows.iter().map(|row| row.error));
    let sizes = rows.iter().map(|row| row.state_bytes as f64);
    let least = sizes.clone().fold(f64::INFINITY, f64::min) / 2.0;
    let most = sizes.fold(least, f64::max) * 8.0;
    let kib = |bytes: f64| bytes / 1024.0;
    let x = (kib(least)..kib(most)).log_scale().with_key_points(decades(kib(least), kib(most)));
    let y = (low..high).log_scale().with_key_points(decades(low, high));
    let x_title = "state of a sequence, KiB; orange: random features; hollow: not yet trained";
    let titles = ["The same, over the size of the state", x_title, Y_TITLE];
    let mut chart = frame(area, titles, x, y, &|x| number(*x))?;
    // From above downwards, each name beneath those that stand there already.
    let mut rows: Vec<&Compared> = rows.iter().collect();
    rows.sort_by(|a, b| b.error.total_cmp(&a.error));
    let mut names: Vec<(f64, f64)> = Vec::new();
    for row in rows {
        // Hollow: to be trained, so that its place here is not the map's.
        let style = ShapeStyle {
            color: COLORS[usize::from(row.weights == "random")].to_rgba(),
            filled: row.weights != "untrained",
            stroke_width: 2,
        };
        let at = (kib(row.state_bytes as f64), row.error.clamp(low, high));
        let down = PLOT_HEIGHT * (high / at.1).ln() / (high / low).ln();
        let stands_near = |(x, _): &&(f64, f64)| (x / at.0).ln().abs() < 1.4;
        let above = names.iter().filter(stands_near).map(|(_, y)| y + NAME_HEIGHT);
        let name_at = above.fold(down, f64::max);
        names.push((at.0, name_at));
        let lower = (name_at - down) as i32 - 7;
        let font = ("sans-serif", LABEL - 4).into_font().color(&INK);
        chart.draw_series(std::iter::once(
            EmptyElement::at(at)
                + Circle::new((0, 0), 4, style)
                + Text::new(row.map.clone(), (8, lower), font),
        ))?;
    }
    Ok(())
}
