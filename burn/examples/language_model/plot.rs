//! The losses as a picture.

use std::fs;
use std::path::Path;

use plotters::prelude::*;

/// Steps and losses on what is kept for validation.
fn read(path: &Path) -> Result<Vec<(f64, f64)>, Box<dyn std::error::Error>> {
    let mut points = Vec::new();
    for line in fs::read_to_string(path)?.lines().skip(1) {
        if let [step, _, valid] = line.split(',').collect::<Vec<_>>()[..] {
            points.push((step.parse()?, valid.parse()?));
        }
    }
    Ok(points)
}

pub(crate) fn plot(
    ours: &Path,
    torch: &Path,
    svg: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let ours = read(ours)?;
    let torch = if torch.exists() { read(torch)? } else { Vec::new() };
    let all = || ours.iter().chain(&torch);
    let steps = all().map(|point| point.0).fold(1.0, f64::max);
    let (low, high) =
        all().fold((f64::MAX, 0.0f64), |(low, high), (_, loss)| (low.min(*loss), high.max(*loss)));
    let root = SVGBackend::new(svg, (640, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..steps, (low * 0.95)..(high * 1.02))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("steps")
        .y_desc("validation loss, nats a byte")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    // The curves lie upon one another: the first is broad, so that both are seen.
    for (points, style, name) in
        [(ours, BLUE.mix(0.4).stroke_width(6), "Burn"), (torch, RED.stroke_width(2), "PyTorch")]
    {
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
