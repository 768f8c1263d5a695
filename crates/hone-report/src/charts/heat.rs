//! Maps of numbers on one scale, in a stronger colour for more: the attention of every layer and head, before and after.
//!
//! Where there are negative numbers the scale runs from the lowest to the highest size, negative ones in the second colour.
//! What is no number is left blank.

use hone_eval::measures::Unit;
use hone_eval::measures::chart::HeatMap;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::plot::{Area, Digits, NAMES, SMALL, described, fitted, picture, text, text_width};
use super::{Chart, NARROW, WIDE, display, failed};
use crate::ReportError;
use crate::theme::Role;

const NAME: &str = "heat";
/// Room above a map: its name and what a row is.
const HEAD: i32 = 44;
/// Room below a map: numbers of columns and what they are.
const FOOT: i32 = 46;
/// Room between maps.
const GAP: i32 = 28;
/// Room below all maps: the scale.
const SCALE: i32 = 40;
/// Steps of the scale's picture.
const STEPS: i32 = 24;
/// Highest and lowest cell, in pixels.
const TALLEST: i32 = 22;
const LOWEST: i32 = 4;
/// Tallest map.
const MAP: i32 = 420;

/// What goes for all maps.
struct Maps<'a> {
    row: &'a str,
    column: &'a str,
    factor: f64,
    word: &'a str,
    maps: Vec<&'a HeatMap>,
    rows: i32,
    columns: i32,
    /// The largest size, shown strongest.
    most: f64,
    negative: bool,
}

/// Draws the maps; `None` if there is no number in them.
pub fn draw(
    title: &str,
    (row, column): (&str, &str),
    unit: Unit,
    maps: &[HeatMap],
) -> Result<Option<Chart>, ReportError> {
    let (factor, word) = display(unit);
    let maps: Vec<&HeatMap> = maps.iter().filter(|map| map.values.iter().any(|row| !row.is_empty())).collect();
    let numbers = || maps.iter().flat_map(|map| map.values.iter().flatten()).copied().filter(|v| v.is_finite());
    let Some(most) = numbers().map(f64::abs).reduce(f64::max) else { return Ok(None) };
    let negative = numbers().any(|value| value < 0.0);
    let rows = maps.iter().map(|map| map.values.len()).max().unwrap_or(0) as i32;
    let columns = maps.iter().flat_map(|map| &map.values).map(Vec::len).max().unwrap_or(0) as i32;
    let names = maps.iter().map(|map| map.name.clone()).collect::<Vec<_>>().join(", ");
    let maps = Maps { row, column, factor, word, maps, rows, columns, most, negative };
    let description = format!("{names}: {rows} {row}s by {columns} {column}s, {}", maps.scale());
    let svg = |width| Ok::<_, ReportError>(described(&maps.svg(width)?, title, &description));
    Ok(Some(Chart { wide: svg(WIDE)?, narrow: svg(NARROW)?, half: false }))
}

impl Maps<'_> {
    fn shown(&self, value: f64) -> String {
        let value = value * self.factor;
        let digits = Digits(if self.most * self.factor >= 10.0 { 0 } else { 2 });
        match self.word {
            "" => digits.shown(value),
            word => format!("{} {word}", digits.shown(value)),
        }
    }

    fn scale(&self) -> String {
        let low = if self.negative { -self.most } else { 0.0 };
        format!("{} to {}", self.shown(low), self.shown(self.most))
    }

    /// How many maps stand side by side, and how large a cell is.
    fn layout(&self, width: i32) -> (i32, (i32, i32)) {
        let count = self.maps.len() as i32;
        let across = if width < 500 { 1 } else { count.min(if self.columns > 24 { 2 } else { 3 }) };
        let room = (width - GAP * (across - 1)) / across - self.left();
        // Cells much wider than high would not look like a map.
        let high = (MAP / self.rows.max(1)).clamp(LOWEST, TALLEST);
        let wide = (room / self.columns.max(1)).clamp(1, high * 3);
        (across, (wide, high))
    }

    /// Room left of a map: the numbers of its rows.
    fn left(&self) -> i32 {
        text_width(&(self.rows - 1).to_string(), SMALL) + 10
    }

    fn svg(&self, width: u32) -> Result<String, ReportError> {
        let (across, (cell_width, cell_height)) = self.layout(width as i32);
        let down = (self.maps.len() as i32).div_euclid(across) + i32::from(self.maps.len() as i32 % across != 0);
        let map_height = HEAD + self.rows * cell_height + FOOT;
        let map_width = self.left() + self.columns * cell_width + GAP;
        // Maps that are small stand together at the left.
        let step = map_width.max(self.left() + text_width("attention after", NAMES) + GAP);
        picture(NAME, (width, (down * map_height + SCALE) as u32), |area| {
            for (i, map) in self.maps.iter().enumerate() {
                let corner = (i as i32 % across * step, i as i32 / across * map_height);
                self.draw_map(area, map, corner, (cell_width, cell_height), step - 8)?;
            }
            self.draw_scale(area, down * map_height + 8)
        })
    }

    fn draw_map(
        &self,
        area: &Area<'_>,
        map: &HeatMap,
        (x, y): (i32, i32),
        (wide, high): (i32, i32),
        room: i32,
    ) -> Result<(), ReportError> {
        let (left, top) = (x + self.left(), y + HEAD);
        text(
            area,
            NAME,
            &fitted(&map.name, room - self.left(), NAMES),
            (left, y + 12),
            (Role::Ink, NAMES, HPos::Left),
        )?;
        text(area, NAME, &format!("↓ {}", self.row), (x + 2, y + 33), (Role::Muted, SMALL, HPos::Left))?;
        for (i, row) in map.values.iter().enumerate() {
            for (j, value) in row.iter().enumerate().filter(|(_, value)| value.is_finite()) {
                let (cell_x, cell_y) = (left + j as i32 * wide, top + i as i32 * high);
                let gap = i32::from(wide > 3 && high > 3);
                let corners = [(cell_x, cell_y), (cell_x + wide - gap, cell_y + high - gap)];
                let (role, share) = self.color(*value);
                area.draw(&Rectangle::new(corners, role.color().mix(share).filled())).map_err(failed(NAME))?;
            }
        }
        for i in labels(self.rows, high, SMALL + 4) {
            let middle = top + i * high + high / 2;
            text(area, NAME, &i.to_string(), (left - 6, middle), (Role::Muted, SMALL, HPos::Right))?;
        }
        let bottom = top + self.rows * high;
        for j in labels(self.columns, wide, text_width(&(self.columns - 1).to_string(), SMALL) + 8) {
            let middle = left + j * wide + wide / 2;
            text(area, NAME, &j.to_string(), (middle, bottom + 12), (Role::Muted, SMALL, HPos::Center))?;
        }
        text(area, NAME, &format!("{} →", self.column), (left, bottom + 31), (Role::Muted, SMALL, HPos::Left))
    }

    fn color(&self, value: f64) -> (Role, f64) {
        let role = if value < 0.0 { Role::Second } else { Role::Accent };
        let share = if self.most > 0.0 { value.abs() / self.most } else { 0.0 };
        // Nothing is still a cell.
        (role, 0.05 + 0.95 * share)
    }

    fn draw_scale(&self, area: &Area<'_>, y: i32) -> Result<(), ReportError> {
        let low = if self.negative { -self.most } else { 0.0 };
        let mut x = 4;
        text(area, NAME, &self.shown(low), (x, y + 9), (Role::Muted, SMALL, HPos::Left))?;
        x += text_width(&self.shown(low), SMALL) + 8;
        for i in 0..STEPS {
            let value = low + (self.most - low) * (f64::from(i) + 0.5) / f64::from(STEPS);
            let (role, share) = self.color(value);
            let corners = [(x + 7 * i, y), (x + 7 * (i + 1), y + 18)];
            area.draw(&Rectangle::new(corners, role.color().mix(share).filled())).map_err(failed(NAME))?;
        }
        x += 7 * STEPS + 8;
        text(area, NAME, &self.shown(self.most), (x, y + 9), (Role::Muted, SMALL, HPos::Left))
    }
}

/// The numbers of rows or columns that are written: so many apart that they do not touch.
fn labels(count: i32, size: i32, room: i32) -> impl Iterator<Item = i32> {
    let every = [1, 2, 5, 10, 20, 50, 100].into_iter().find(|every| every * size >= room).unwrap_or(200);
    (0..count).step_by(every as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> HeatMap {
        let values = (0..rows).map(|i| (0..columns).map(|j| value(i, j)).collect()).collect();
        HeatMap { name: name.into(), values }
    }

    #[test]
    fn every_number_is_a_cell_on_one_scale() {
        let maps = [map("before", 3, 4, |i, j| (i * j) as f64 / 6.0), map("after", 3, 4, |i, _| i as f64 / 4.0)];
        let chart = draw("Attention", ("layer", "head"), Unit::Share, &maps).unwrap().unwrap();
        for svg in [&chart.wide, &chart.narrow] {
            assert_eq!(svg.matches("<rect").count(), 2 * 12 + STEPS as usize, "{svg}");
            assert!(svg.contains("opacity=\"1\"") && svg.contains("100 %") && svg.contains("↓ layer"), "{svg}");
        }
    }

    #[test]
    fn what_is_no_number_is_blank_and_negative_ones_have_their_own_colour() {
        let holes = [map("a", 2, 2, |i, j| if i == j { f64::NAN } else { -1.0 - i as f64 })];
        let chart = draw("Change", ("layer", "head"), Unit::Plain, &holes).unwrap().unwrap();
        assert_eq!(chart.wide.matches("<rect").count(), 2 + STEPS as usize);
        assert!(chart.wide.contains("−2.00") && !chart.wide.contains("NaN"), "{}", chart.wide);
        let none = [map("a", 1, 1, |_, _| f64::NAN)];
        assert!(draw("None", ("layer", "head"), Unit::Plain, &none).unwrap().is_none());
    }

    #[test]
    fn large_maps_fit_and_numbers_do_not_touch() {
        let maps = [map("before", 48, 40, |_, _| 0.5), map("after", 48, 40, |_, _| 0.4)];
        let all = Maps {
            row: "layer",
            column: "head",
            factor: 1.0,
            word: "",
            maps: maps.iter().collect(),
            rows: 48,
            columns: 40,
            most: 0.5,
            negative: false,
        };
        for width in [WIDE as i32, NARROW as i32] {
            let (across, (wide, high)) = all.layout(width);
            assert!(across * (all.left() + 40 * wide) + GAP * (across - 1) <= width, "{across} {wide}");
            assert!(48 * high <= MAP);
        }
        assert_eq!(labels(48, 8, 17).collect::<Vec<_>>()[..3], [0, 5, 10]);
    }
}
