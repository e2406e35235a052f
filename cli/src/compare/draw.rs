//! Errors over position, and over the size of the state, as an SVG.

use std::error::Error;

use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::{
    ChartBuilder, Circle, Color, EmptyElement, IntoDrawingArea, IntoFont, IntoLogRange, LineSeries,
    PathElement, RGBColor, SVGBackend, SeriesLabelPosition, ShapeStyle, Text, WHITE,
};

use super::measure::Compared;
use crate::plot::draw::{AXIS, Area, COLORS, INK, LABEL, TITLE, decades, powers_of_two, tokens};

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
        over_position(&left, &lines(rows))?;
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

fn over_position(area: &Area<'_>, rows: &[&Compared]) -> Result<(), Box<dyn Error>> {
    let last = rows.iter().flat_map(|row| &row.over_position).map(|(from, _)| *from).max();
    let last = f64::from(last.unwrap_or(1).max(2));
    // The error of the first token is that of rounding.
    fn shown<'a>(row: &&'a Compared) -> impl Iterator<Item = &'a (u32, f64)> {
        row.over_position.iter().filter(|(from, _)| *from > 1)
    }
    let errors: Vec<f64> =
        rows.iter().flat_map(|row| shown(row).map(|(_, error)| *error)).collect();
    let (low, high) = bounds(errors.into_iter());
    // The legend stands above the lines.
    let top = high * (high / low).powf(0.45);
    let x = (2.0 / 1.15..last * 1.15).log_scale().with_key_points(powers_of_two(2.0, last));
    let y = (low..top).log_scale().with_key_points(decades(low, top));
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption("Error against softmax, over position", ("sans-serif", TITLE, &INK))
        .x_label_area_size(54)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc("position in the sequence, to twice that")
        .y_desc("relative error of o")
        .axis_desc_style(("sans-serif", AXIS, &INK))
        .label_style(("sans-serif", LABEL, &INK))
        .x_label_formatter(&|t| tokens(*t))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
    for (row, color) in rows.iter().zip(COLORS.iter().cycle()) {
        let style = ShapeStyle { color: color.to_rgba(), filled: true, stroke_width: 2 };
        let points: Vec<(f64, f64)> =
            shown(row).map(|(from, error)| (f64::from(*from), error.clamp(low, top))).collect();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(&row.map)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, style)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", LABEL, &INK))
        .legend_area_size(30)
        .margin(10)
        .draw()?;
    Ok(())
}

fn over_state(area: &Area<'_>, rows: &[Compared]) -> Result<(), Box<dyn Error>> {
    let (low, high) = bounds(rows.iter().map(|row| row.error));
    let sizes = rows.iter().map(|row| row.state_bytes as f64);
    let least = sizes.clone().fold(f64::INFINITY, f64::min) / 2.0;
    let most = sizes.fold(least, f64::max) * 8.0;
    let kib = |bytes: f64| bytes / 1024.0;
    let x = (kib(least)..kib(most)).log_scale().with_key_points(decades(kib(least), kib(most)));
    let y = (low..high).log_scale().with_key_points(decades(low, high));
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption("The same, over the size of the state", ("sans-serif", TITLE, &INK))
        .x_label_area_size(54)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc("state of a sequence, KiB; orange: random features; hollow: not yet trained")
        .y_desc("relative error of o")
        .axis_desc_style(("sans-serif", AXIS, &INK))
        .label_style(("sans-serif", LABEL, &INK))
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .draw()?;
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

/// A number as short as it can be read.
fn short(x: f64) -> String {
    if x >= 0.01 { format!("{x}") } else { format!("{x:e}") }
}
