//! The loss curves: training loss as it came (thin) and smoothed (thick), validation loss as dots on a line.

use plotters::prelude::*;

use super::plot::{Axes, Digits, described, picture};
use super::{Chart, NARROW, WIDE, failed};
use crate::theme::Role;
use crate::{ReportError, RunSummary};

const NAME: &str = "loss";

/// Draws the curves; `None` without at least two points.
pub fn draw(run: &RunSummary) -> Result<Option<Chart>, ReportError> {
    let finite = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let (training, validation) = (finite(&run.training_loss), finite(&run.validation_loss));
    if training.len() < 2 {
        return Ok(None);
    }
    let last = |points: &[(f64, f64)]| points.last().map_or_else(|| "none".into(), |(_, loss)| format!("{loss:.3}"));
    let description = format!("training loss ends at {}, validation loss at {}", last(&training), last(&validation));
    let drawn = |width| {
        let svg = svg(&training, &validation, width)?;
        Ok::<_, ReportError>(described(&svg, "Training and validation loss by step", &description))
    };
    Ok(Some(Chart { wide: drawn(WIDE)?, narrow: drawn(NARROW)?, half: false }))
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
    picture(NAME, (width, height), |area| {
        let axes = Axes {
            name: NAME,
            margins: [8; 4],
            labels: (38, if narrow { 38 } else { 52 }),
            range: ((first, last.max(first + 1.0)), (low - margin, high + margin)),
            ticks: (if narrow { 4 } else { 8 }, 5),
            below: "step",
            at: (&|step| Digits(0).shown(step), &|loss| Digits(2).shown(loss)),
        };
        let mut chart = axes.draw(area)?;
        let accent = Role::Accent.color();
        let raw = LineSeries::new(training.iter().copied(), accent.mix(0.35).stroke_width(1));
        chart.draw_series(raw).map_err(failed(NAME))?;
        let keep = 1.0 - (10.0 / training.len() as f64).clamp(0.1, 0.5);
        let smoothed = LineSeries::new(smooth(training, keep), accent.stroke_width(2));
        chart.draw_series(smoothed).map_err(failed(NAME))?;
        let second = Role::Second.color();
        chart.draw_series(LineSeries::new(validation.iter().copied(), second.stroke_width(2))).map_err(failed(NAME))?;
        let dots = validation.iter().map(|p| Circle::new(*p, 4, second.filled()));
        chart.draw_series(dots).map_err(failed(NAME))?;
        Ok(())
    })
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
