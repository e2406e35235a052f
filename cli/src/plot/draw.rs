//! Panels as an SVG.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::{
    Cartesian2d, ChartBuilder, ChartContext, Circle, Color, DrawingArea, IntoDrawingArea, IntoFont,
    IntoLogRange, LineSeries, PathElement, RGBColor, Ranged, SVGBackend, SeriesLabelPosition,
    ShapeStyle, Text, WHITE,
};

use super::panels::{Panel, Series};

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 520;
const CAPTION_LINE: u32 = 22;
/// Sizes of text. plotters writes 1.24 times smaller ones into the file.
const TITLE: u32 = 22;
const AXIS: u32 = 18;
pub(crate) const LABEL: u32 = 17;
/// Of what lies between the axes, roughly.
const PLOT_HEIGHT: u32 = 340;

/// Colours that people who see few of them can tell apart: Okabe and Ito, 2008. Ours first.
pub(crate) const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];
pub(crate) const INK: RGBColor = RGBColor(40, 40, 40);

/// The whole file.
pub(crate) fn svg(panels: &[Panel; 2], caption: &[String]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let caption_height = CAPTION_LINE * caption.len() as u32 + 10;
        let (charts, below) = root.split_vertically(HEIGHT - caption_height);
        let (left, right) = charts.split_horizontally(WIDTH * 55 / 100);
        for (area, panel) in [(left, &panels[0]), (right, &panels[1])] {
            draw(&area, panel)?;
        }
        let style = ("sans-serif", LABEL).into_font().color(&INK);
        for (line, y) in caption.iter().zip((0..).step_by(CAPTION_LINE as usize)) {
            below.draw(&Text::new(line.clone(), (20i32, y), style.clone()))?;
        }
        root.present()?;
    }
    Ok(text)
}

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Lines, with a legend.
pub(crate) fn draw(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn Error>> {
    let (low, high) = range(panel, |(_, y)| y);
    if panel.is_log {
        // The legend stands above the points, a line a series.
        let legend = (21.0 * panel.series.len() as f64 + 40.0) / f64::from(PLOT_HEIGHT);
        let (bottom, span) = (low / 1.3, high / low * 1.3);
        let top = bottom * span.powf(1.0 / (1.0 - legend.min(0.7)));
        let y = (bottom..top).log_scale().with_key_points(decades(bottom, top));
        draw_with(area, panel, y)
    } else {
        draw_with(area, panel, 0.0..high * 1.35)
    }
}

fn draw_with<'a, Y>(area: &Area<'a>, panel: &Panel, y: Y) -> Result<(), Box<dyn Error>>
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let (first, last) = range(panel, |(t, _)| t);
    let x = (first / 1.15..last * 1.15).log_scale().with_key_points(powers_of_two(first, last));
    let titles = [&panel.title, panel.x_title, panel.y_title];
    let mut chart = frame(area, titles, x, y, &|t| tokens(*t))?;
    let numbered = panel.series.iter().enumerate().zip(COLORS.iter().cycle());
    for ((index, Series { name, points }), color) in numbered {
        let stroke_width = if index == 0 { 3 } else { 2 };
        let style = ShapeStyle { color: color.to_rgba(), filled: true, stroke_width };
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, style)))?;
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

type Chart<'a, X, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>;

/// Axes and a grid, with a title and those of x and y.
pub(crate) fn frame<'a, X, Y>(
    area: &Area<'a>,
    [title, x_title, y_title]: [&str; 3],
    x: X,
    y: Y,
    x_label: &dyn Fn(&f64) -> String,
) -> Result<Chart<'a, X::CoordDescType, Y::CoordDescType>, Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(title, ("sans-serif", TITLE, &INK))
        .x_label_area_size(54)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(x_title)
        .y_desc(y_title)
        .axis_desc_style(("sans-serif", AXIS, &INK))
        .label_style(("sans-serif", LABEL, &INK))
        .x_label_formatter(&x_label)
        .y_label_formatter(&|y| number(*y))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .y_labels(8)
        .draw()?;
    Ok(chart)
}

/// The least and the largest number of all points.
fn range(panel: &Panel, of: impl Fn((f64, f64)) -> f64) -> (f64, f64) {
    let points = panel.series.iter().flat_map(|series| &series.points);
    points.fold((f64::INFINITY, 0.0), |(low, high), point| {
        let x = of(*point);
        (x.min(low), x.max(high))
    })
}

/// Powers of two within the range, at most nine of them, evenly spread.
fn powers_of_two(first: f64, last: f64) -> Vec<f64> {
    let all: Vec<f64> = (0..32)
        .map(|power| f64::from(1u32 << power))
        .filter(|x| (first..=last).contains(x))
        .collect();
    all.iter().copied().step_by(all.len().div_ceil(9).max(1)).collect()
}

/// Round numbers within the range: powers of ten, and 2 and 5 times each where those alone
/// are few.
pub(crate) fn decades(low: f64, high: f64) -> Vec<f64> {
    let digits: &[u32] = if high / low > 1000.0 { &[1] } else { &[1, 2, 5] };
    let all = (-9..12).flat_map(|power| digits.iter().map(move |digit| format!("{digit}e{power}")));
    all.filter_map(|text| text.parse().ok()).filter(|x| (low..=high).contains(x)).collect()
}

/// T as people say it: 512, 4k, 1M.
fn tokens(t: f64) -> String {
    let t = t as u64;
    match t {
        _ if t >= 1 << 20 && t.is_multiple_of(1 << 20) => format!("{}M", t >> 20),
        _ if t >= 1 << 10 && t.is_multiple_of(1 << 10) => format!("{}k", t >> 10),
        _ => t.to_string(),
    }
}

/// Short, without the noise of binary fractions.
pub(crate) fn number(y: f64) -> String {
    if y > 0.0 && y < 1e-3 {
        return format!("{y:e}");
    }
    let text = format!("{y:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
