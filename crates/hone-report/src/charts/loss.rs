//! The loss curves: training loss as it came (thin) and smoothed (thick), validation loss as dots on a line.

use plotters::prelude::*;

use super::{Chart, NARROW, WIDE, failed};
use crate::theme::Role;
use crate::{ReportError, RunSummary};

/// Draws the curves; `None` without at least two points.
pub fn draw(run: &RunSummary) -> Result<Option<Chart>, ReportError> {
    let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let (training, validation) = (finite(&run.training_loss), finite(&run.validation_loss));
    if training.len() < 2 {
        return Ok(None);
    }
    Ok(Some(Chart { wide: svg(&training, &validation, WIDE)?, narrow: svg(&training, &validation, NARROW)? }))
}

/// Exponential moving average, corrected for its start.
fn smooth(points: &[(f64, f64)], keep: f64) -> Vec<(f64, f64)> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let step = |&(x, y): &(f64, f64)| {
        sum = sum * keep + y * (1.0 - keep);
        weight = weight * keep + 1.0 - keep;
        (x, sum / weight)
    };
    points.iter().map(step).collect()
}

fn svg(training: &[(f64, f64)], validation: &[(f64, f64)], width: u32) -> Result<String, ReportError> {
    let narrow = width < 500;
    let height = if narrow { 230 } else { 300 };
    let all = || training.iter().chain(validation);
    let last = all().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
    let first = all().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.06).max(1e-3);
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (width, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(if narrow { 38 } else { 52 })
            .build_cartesian_2d(first..last.max(first + 1.0), (low - margin)..(high + margin))
            .map_err(failed("loss"))?;
        let label = ("sans-serif", super::pixels(13)).into_font().color(&Role::Muted.color());
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(Role::Grid.color())
            .axis_style(Role::Grid.color())
            .label_style(label.clone())
            .axis_desc_style(label)
            .x_labels(if narrow { 4 } else { 8 })
            .y_labels(5)
            .x_desc("step")
            .x_label_formatter(&|v| format!("{v:.0}"))
            .y_label_formatter(&|v| format!("{v:.2}"))
            .draw()
            .map_err(failed("loss"))?;
        let accent = Role::Accent.color();
        let raw = LineSeries::new(training.iter().copied(), accent.mix(0.35).stroke_width(1));
        chart.draw_series(raw).map_err(failed("loss"))?;
        let keep = 1.0 - (10.0 / training.len() as f64).clamp(0.1, 0.5);
        let smoothed = LineSeries::new(smooth(training, keep), accent.stroke_width(2));
        chart.draw_series(smoothed).map_err(failed("loss"))?;
        let second = Role::Second.color();
        chart
            .draw_series(LineSeries::new(validation.iter().copied(), second.stroke_width(2)))
            .map_err(failed("loss"))?;
        let dots = validation.iter().map(|p| Circle::new(*p, 4, second.filled()));
        chart.draw_series(dots).map_err(failed("loss"))?;
        area.present().map_err(failed("loss"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_constant() {
        let flat: Vec<(f64, f64)> = (0..20).map(|i| (f64::from(i), 2.5)).collect();
        assert!(smooth(&flat, 0.9).iter().all(|(_, y)| (y - 2.5).abs() < 1e-12));
    }
}
