//! The plots of a study, each a picture of its own (SVG), to be shown beside the study's page. It follows the reader's light
//! or dark setting by itself, and asks nothing of the network.
//!
//! | kind | room |
//! |---|---|
//! | points in two dimensions, with their Pareto front | [`scatter`] |
//! | a line for every value of a variable | [`lines`] |
//! | a value with its interval on each line | [`forest`] |

mod forest;
mod frame;
mod lines;
mod scatter;

use hone_study::results::PlotResult;
use hone_study::study::PlotKind;

use crate::ReportError;

/// Draws a plot; `None` if no mark of it has a place.
pub fn draw(plot: &PlotResult) -> Result<Option<String>, ReportError> {
    match plot.kind {
        PlotKind::Scatter => scatter::draw(plot),
        PlotKind::Lines => lines::draw(plot),
        PlotKind::Forest => forest::draw(plot),
    }
}

#[cfg(test)]
mod tests {
    use hone_study::results::{Cell, Mark};
    use hone_study::study::Front;

    use super::*;

    fn plot(kind: PlotKind) -> PlotResult {
        let cell = |value: f64| Cell {
            value: Some(value),
            low: Some(value - 1.0),
            high: Some(value + 1.0),
            ..Cell::default()
        };
        let mark = |series: &str, label: &str, x, y| Mark {
            series: series.into(),
            label: label.into(),
            x: cell(x),
            y: cell(y),
        };
        PlotResult {
            name: "p".into(),
            title: "Learned & lost".into(),
            kind,
            x_label: "lost".into(),
            y_label: "learned".into(),
            x_logarithmic: false,
            y_logarithmic: false,
            front: (kind == PlotKind::Scatter).then_some(Front::UpperLeft),
            marks: vec![mark("lora", "low", -0.5, 3.0), mark("lora", "high", 4.0, 9.0), mark("full", "low", 2.0, 2.0)],
        }
    }

    #[test]
    fn every_kind_is_a_picture_of_its_own() {
        for kind in [PlotKind::Scatter, PlotKind::Lines, PlotKind::Forest] {
            let svg = draw(&plot(kind)).expect("drawn").expect("marks with places");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            assert!(svg.contains("Learned &amp; lost") && svg.contains("lora") && svg.contains("full"), "{svg}");
            assert!(svg.contains("prefers-color-scheme:dark") && svg.contains("--page:"), "the style is inside");
            assert!(!svg.replace("http://www.w3.org/2000/svg", "").contains("http"), "nothing is asked of the network");
        }
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        let mut nothing = plot(PlotKind::Scatter);
        nothing.marks.iter_mut().for_each(|mark| mark.x.value = None);
        assert_eq!(draw(&nothing).expect("no failure"), None);
        let mut logarithmic = plot(PlotKind::Scatter);
        logarithmic.x_logarithmic = true;
        let svg = draw(&logarithmic).expect("drawn").expect("two of three marks");
        assert!(
            !svg.contains("lora low") && svg.contains("lora high"),
            "a logarithm of a negative number has no place"
        );
    }
}
