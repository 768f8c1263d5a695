//! What a measure would have drawn: plain data, by kind. Who draws it knows no measure by name.

use serde::{Deserialize, Serialize};

use super::Unit;

/// A chart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChartData {
    /// Heading.
    pub title: String,
    /// What is drawn.
    #[serde(flatten)]
    pub drawing: Drawing,
}

/// A chart's kind and its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Drawing {
    /// Curves over a common axis, as faithfulness over the share of the reasoning that is kept.
    Lines {
        /// What the axis counts.
        x: String,
        /// What the height counts.
        y: String,
        /// The height's unit.
        unit: Unit,
        /// Whether the line from corner to corner is drawn, as in a reliability diagram.
        diagonal: bool,
        /// The curves.
        series: Vec<Series>,
    },
    /// Values in groups, each value a dot, the mean a line: a spread over wordings.
    Spread {
        /// What the values count.
        y: String,
        /// Their unit.
        unit: Unit,
        /// The groups, side by side.
        groups: Vec<Group>,
    },
    /// Maps of the same size, darker for more, on one scale: layers by heads, before and after.
    Heat {
        /// What a row is.
        row: String,
        /// What a column is.
        column: String,
        /// The values' unit.
        unit: Unit,
        /// The maps, side by side.
        maps: Vec<HeatMap>,
    },
    /// Differences with intervals around zero.
    Forest {
        /// What is counted.
        x: String,
        /// Its unit.
        unit: Unit,
        /// The bars, top to bottom.
        bars: Vec<Bar>,
    },
}

/// A curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Points, in the order of `x`.
    pub points: Vec<Point>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Place on the axis.
    pub x: f64,
    /// Height.
    pub y: f64,
    /// Lower end of its interval, where it has one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// Values that belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The values with their names.
    pub values: Vec<(String, f64)>,
}

/// A map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeatMap {
    /// Its name.
    pub name: String,
    /// `[rows][columns]`.
    pub values: Vec<Vec<f64>>,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Of what.
    pub name: String,
    /// The difference.
    pub value: f64,
    /// Lower end of its interval, where it has one.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}
