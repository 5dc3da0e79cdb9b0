use super::{Report, Signal, Verdict};
use crate::Error;
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 480);
const TEXT: (&str, u32) = ("sans-serif", 16);

/// Draws the samples of each signal, and the line of its trend, as SVG.
///
/// # Errors
///
/// When it cannot be drawn.
pub fn plot(report: &Report) -> Result<String, Error> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw(report, &area).map_err(|error| error.to_string())?;
    area.present().map_err(|error| error.to_string())?;
    drop(area);
    Ok(svg)
}

fn draw<B: DrawingBackend>(
    report: &Report,
    area: &DrawingArea<B, plotters::coord::Shift>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    area.fill(&WHITE)?;
    let points = |signal| {
        report.samples.iter().filter_map(move |sample| {
            let bytes = sample.reading.bytes(signal)?;
            Some((sample.at.as_secs_f64() / 60.0, mib(bytes as f64)))
        })
    };
    let all = Signal::ALL.into_iter().flat_map(points);
    let (time, most) = all.fold((0.0_f64, 0.0_f64), |(time, most), (x, y)| {
        (time.max(x), most.max(y))
    });
    let title = format!("Leak test: {}", report.verdict());
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..time.max(0.01), 0.0..(most * 1.1).max(1.0))?;
    chart
        .configure_mesh()
        .x_desc("minutes")
        .y_desc("MiB")
        .max_light_lines(0)
        .label_style(TEXT)
        .axis_desc_style(TEXT)
        .draw()?;
    for finding in &report.findings {
        let color = match finding.signal {
            Signal::Tracked => BLUE,
            Signal::WorkingSet => MAGENTA,
            Signal::Resident => BLACK,
        };
        chart
            .draw_series(LineSeries::new(points(finding.signal), &color))?
            .label(format!("{}: {}", finding.signal.name(), finding.verdict))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        let (Some(trend), Verdict::Leak) = (finding.trend, finding.verdict) else {
            continue;
        };
        // Through the middle of what was seen, since the trend is that of medians.
        let slope = mib(trend.slope) * 60.0;
        let offset = median(points(finding.signal).map(|(x, y)| y - slope * x).collect());
        let line = [0.0, time].map(|x| (x, offset + slope * x));
        chart.draw_series(LineSeries::new(line, RED.stroke_width(2)))?;
    }
    chart
        .configure_series_labels()
        .label_font(TEXT)
        .background_style(WHITE)
        .border_style(BLACK)
        .position(SeriesLabelPosition::LowerRight)
        .draw()?;
    Ok(())
}

fn mib(bytes: f64) -> f64 {
    bytes / 1_048_576.0
}

fn median(values: Vec<f64>) -> f64 {
    crate::stats::median(values)
}
