//! Plots with a row for every name: the name on the left where there is room, above its row where there is none (on a phone, or
//! where a name is long), and what the row says in figures on the right.

use plotters::style::text_anchor::HPos;

use super::plot::{Area, Axes, NAMES, Plot, SMALL, fitted, text, text_width};
use crate::ReportError;
use crate::theme::Role;

/// Widest name that stands beside its row, in pixels.
const WIDEST: i32 = 360;
/// Room above the first row.
const HEAD: i32 = 8;
/// Room below the last: labels and what the axis counts.
const FOOT: i32 = 48;

/// What is written of a row.
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its figures.
    pub figures: String,
    /// The figures' role.
    pub role: Role,
}

/// Where rows, names and figures stand.
pub struct Layout {
    width: i32,
    head: i32,
    rows: i32,
    above: bool,
    left: i32,
    right: i32,
}

impl Layout {
    /// Room for rows in a picture of a width.
    pub fn new(rows: &[Row], width: u32) -> Layout {
        let narrow = width < 500;
        let widest = |of: &dyn Fn(&Row) -> i32| rows.iter().map(of).max().unwrap_or(0);
        let names = widest(&|row| text_width(&row.name, NAMES));
        let figures = widest(&|row| text_width(&row.figures, SMALL));
        let above = narrow || names > WIDEST || names + figures > width as i32 * 3 / 5;
        let (left, right) = if above { (10, 10) } else { (names + 26, figures + 24) };
        Layout { width: width as i32, head: HEAD, rows: rows.len() as i32, above, left, right }
    }

    /// With more room above the first row, in pixels.
    pub fn below(self, more: i32) -> Layout {
        Layout { head: HEAD + more, ..self }
    }

    fn row_height(&self) -> i32 {
        if self.above { 50 } else { 36 }
    }

    /// Height of the picture.
    pub fn height(&self) -> u32 {
        (self.rows * self.row_height() + self.head + FOOT) as u32
    }

    /// The axes: `range` along the horizontal one, rows from the top along the other.
    pub fn axes<'a, 'b>(
        &self,
        area: &'a Area<'b>,
        name: &'static str,
        range: (f64, f64),
        below: &str,
        at: &dyn Fn(f64) -> String,
    ) -> Result<Plot<'a, 'b>, ReportError> {
        let ticks = if self.width < 500 { 6 } else { 9 };
        let axes = Axes {
            name,
            margins: [self.head, self.right, 0, self.left],
            labels: (FOOT - 8, 0),
            range: (range, (0.0, f64::from(self.rows))),
            ticks: (ticks, 0),
            below,
            at: (at, &|_| String::new()),
        };
        axes.draw(area)
    }

    /// The height of row `i` in the plot's coordinates.
    pub fn up(&self, i: usize) -> f64 {
        f64::from(self.rows) - i as f64 - if self.above { 0.68 } else { 0.5 }
    }

    /// Where row `i` begins and ends without its name and figures, in the plot's coordinates: a line across would strike them out.
    pub fn free(&self, i: usize) -> (f64, f64) {
        let top = f64::from(self.rows) - i as f64;
        (top - 1.0, if self.above { top - 0.46 } else { top })
    }

    /// Writes names and figures.
    pub fn write(
        &self,
        area: &Area<'_>,
        plot: &Plot<'_, '_>,
        name: &'static str,
        rows: &[Row],
    ) -> Result<(), ReportError> {
        let (across, up) = plot.plotting_area().get_pixel_range();
        let step = f64::from(up.end - up.start) / f64::from(self.rows.max(1));
        for (i, row) in rows.iter().enumerate() {
            let top = f64::from(up.start) + step * i as f64;
            let y = (top + step * if self.above { 0.28 } else { 0.5 }) as i32;
            let (room, name_at, figures_at) = if self.above {
                let room = across.end - across.start - text_width(&row.figures, SMALL) - 14;
                (room, (across.start, HPos::Left), (across.end, HPos::Right))
            } else {
                (self.left - 20, (across.start - 14, HPos::Right), (across.end + 14, HPos::Left))
            };
            let shown = fitted(&row.name, room, NAMES);
            text(area, name, &shown, (name_at.0, y), (Role::Ink, NAMES, name_at.1))?;
            text(area, name, &row.figures, (figures_at.0, y), (row.role, SMALL, figures_at.1))?;
        }
        Ok(())
    }
}

/// A range that shows all values with a little room; 1 wide around a single value.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = if high > low { (high - low) * 0.08 } else { low.abs().max(1.0) * 0.08 };
    (low - room, high + room)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row { name: name.into(), figures: "+1.0 [−0.2, +2.2]".into(), role: Role::Ink }
    }

    #[test]
    fn lines_leave_out_what_stands_above_a_row() {
        let rows = [row("boolq"), row("piqa")];
        let (beside, above) = (Layout::new(&rows, 920), Layout::new(&rows, 344));
        assert_eq!([beside.free(0), beside.free(1)], [(1.0, 2.0), (0.0, 1.0)]);
        let (low, high) = above.free(0);
        // Up to the row's dot and a little more, and not to its name, whose middle is at 0.28 of the row.
        assert!(low == 1.0 && high > above.up(0) && high < 2.0 - 0.28 - 7.0 / 50.0, "{high}");
    }

    #[test]
    fn names_stand_beside_their_rows_only_where_there_is_room() {
        let beside = |name: &str, width| !Layout::new(&[row(name)], width).above;
        assert!(beside("boolq", 920) && !beside("boolq", 344));
        assert!(!beside("a_task_whose_name_is_longer_than_a_line_of_text_should_be", 920));
    }

    #[test]
    fn ranges_hold_what_there_is() {
        assert_eq!(range([f64::NAN].into_iter()), (0.0, 1.0));
        let (low, high) = range([1.0, 3.0, f64::INFINITY].into_iter());
        assert!(low < 1.0 && high > 3.0 && high < 3.5, "{low} {high}");
        let (low, high) = range([5.0].into_iter());
        assert!(low < 5.0 && high > 5.0);
    }
}
