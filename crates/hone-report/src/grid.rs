//! Tables that fit the page: as they are, turned on their side, or in blocks of as many columns as there is room for.
//!
//! On a phone the style sheet shows a row as a list of column and value, so the width there is that of one cell.

use serde::Serialize;

use crate::links::Link;

/// Width of the page's column, in pixels.
const PAGE: i32 = 920;
/// Widest column of names before they are broken.
const NAMES: i32 = 236;
/// Width of a letter in a cell, of a smaller one in a heading, and what stands around a cell, in tenths of a pixel.
const LETTER: i32 = 79;
const SMALL_LETTER: i32 = 70;
const PADDING: i32 = 160;

/// What stands where there is no number.
pub(crate) const NOTHING: &str = "–";
/// Longest word of a heading that is not broken, in letters.
const UNBROKEN: usize = 16;

/// A cell as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cell {
    /// The value.
    pub text: String,
    /// What stands under it: its interval, its share.
    pub under: Option<String>,
    /// Where it leads.
    pub href: Option<String>,
    /// What is there, where that is not plain.
    pub title: Option<String>,
    /// Whether it stands to the right, as numbers do.
    pub number: bool,
    /// What the style sheet calls it.
    pub class: Option<&'static str>,
}

/// A table: headings, and rows whose first cell is their name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Block {
    /// Above the columns.
    pub header: Vec<Cell>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

impl Cell {
    /// A word.
    pub fn word(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number.
    pub fn number(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), number: true, ..Cell::default() }
    }

    /// The same, leading somewhere.
    pub fn to(mut self, href: Option<String>) -> Cell {
        self.href = href;
        self
    }

    /// The same, leading to the rows behind it.
    pub fn with_rows(self, link: Option<Link>) -> Cell {
        let (href, title) = link.map_or((None, None), |link| (Some(link.href), link.title));
        Cell { href, title, ..self }
    }
}

impl Block {
    /// The same table with rows as columns.
    fn turned(&self) -> Block {
        let heads = |row: &Vec<Cell>| Cell { number: true, ..row.first().cloned().unwrap_or_default() };
        let corner = Cell::default();
        let header = std::iter::once(corner).chain(self.rows.iter().map(heads)).collect();
        let row = |column: usize| {
            let name = Cell { number: false, ..self.header[column].clone() };
            // A column of words (a metric's name) is a row among rows of numbers, and may take several lines there.
            let cell = |row: &Vec<Cell>| {
                let cell = row.get(column).cloned().unwrap_or_default();
                let class = if cell.number { cell.class } else { Some("words") };
                Cell { number: true, class, ..cell }
            };
            std::iter::once(name).chain(self.rows.iter().map(cell)).collect()
        };
        Block { header, rows: (1..self.header.len()).map(row).collect() }
    }

    /// Widths of the columns, in pixels.
    fn widths(&self) -> Vec<i32> {
        let letters = |text: &str, each: i32| text.chars().count() as i32 * each;
        let longest_word = |text: &str| text.split(' ').map(|word| letters(word, SMALL_LETTER)).max().unwrap_or(0);
        let of = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let wide = |cell: &Cell| {
                letters(&cell.text, LETTER).max(cell.under.as_deref().map_or(0, |under| letters(under, SMALL_LETTER)))
            };
            let widest = cells.map(wide).max().unwrap_or(0);
            let head = self.header.get(column).map_or(0, |head| longest_word(&head.text));
            // Names are broken anywhere, above numbers too.
            let unbroken = UNBROKEN as i32 * SMALL_LETTER;
            let (widest, head) =
                if column == 0 { (widest.min(NAMES * 10), head) } else { (widest, head.min(unbroken)) };
            (widest.max(head) + PADDING + 9) / 10
        };
        (0..self.header.len()).map(of).collect()
    }

    /// Width of the table, in pixels.
    pub fn width(&self) -> i32 {
        self.widths().iter().sum()
    }

    /// In blocks of as many columns as the page has room for, the first one in each.
    fn split(&self) -> Vec<Block> {
        let widths = self.widths();
        let first = widths.first().copied().unwrap_or(0);
        let mut blocks: Vec<Vec<usize>> = Vec::new();
        let mut used = PAGE;
        for column in 1..self.header.len() {
            if used + widths[column] > PAGE {
                blocks.push(vec![0]);
                used = first;
            }
            used += widths[column];
            if let Some(block) = blocks.last_mut() {
                block.push(column);
            }
        }
        let pick = |row: &Vec<Cell>, columns: &[usize]| -> Vec<Cell> {
            columns.iter().map(|&column| row.get(column).cloned().unwrap_or_default()).collect()
        };
        // A row that says nothing here says something in another block.
        let speaks = |row: &Vec<Cell>| row.iter().skip(1).any(|cell| cell.text != NOTHING);
        let block = |columns: Vec<usize>| Block {
            header: pick(&self.header, &columns),
            rows: self.rows.iter().map(|row| pick(row, &columns)).filter(speaks).collect(),
        };
        blocks.into_iter().map(block).filter(|block| !block.rows.is_empty()).collect()
    }

    /// The table in the form that fits the page, in as few blocks as can be.
    pub fn fitted(self) -> Vec<Block> {
        let mut blocks = self.in_form();
        for head in blocks.iter_mut().flat_map(|block| &mut block.header) {
            if head.text.split(' ').any(|word| word.chars().count() > UNBROKEN) {
                head.class = Some("breaks");
            }
        }
        blocks
    }

    fn in_form(self) -> Vec<Block> {
        if self.width() <= PAGE || self.header.len() < 2 {
            return vec![self];
        }
        let turned = self.turned();
        if turned.width() <= PAGE {
            return vec![turned];
        }
        let (plain, turned) = (self.split(), turned.split());
        if plain.len() < turned.len() { plain } else { turned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(columns: usize, rows: usize) -> Block {
        let header = std::iter::once(Cell::word("task")).chain((1..columns).map(|i| Cell::word(format!("number {i}"))));
        let cells = |r: usize| {
            let name = Cell::word(format!("task_{r}"));
            std::iter::once(name).chain(
                (1..columns)
                    .map(move |c| Cell { under: Some("12.5 to 17.5".into()), ..Cell::number(format!("{r}.{c} %")) }),
            )
        };
        Block { header: header.collect(), rows: (0..rows).map(|r| cells(r).collect()).collect() }
    }

    #[test]
    fn a_table_that_fits_is_left_as_it_is() {
        let table = block(5, 3);
        assert_eq!(table.clone().fitted(), [table]);
    }

    #[test]
    fn one_with_many_numbers_is_turned() {
        let turned = block(15, 3).fitted();
        assert_eq!((turned.len(), turned[0].rows.len(), turned[0].header.len()), (1, 14, 4));
        assert_eq!(turned[0].header[1].text, "task_0");
        assert_eq!(turned[0].rows[1][1].class, None);
        let mut worded = block(15, 3);
        worded.rows.iter_mut().for_each(|row| row[1] = Cell::word("p(right) among the choices"));
        assert_eq!(worded.fitted()[0].rows[0][1].class, Some("words"), "words may be broken, numbers not");
        assert_eq!((turned[0].rows[1][0].text.as_str(), turned[0].rows[1][3].text.as_str()), ("number 2", "2.2 %"));
    }

    #[test]
    fn one_that_fits_neither_way_comes_in_blocks_that_do() {
        let table = block(20, 14);
        let blocks = table.clone().fitted();
        assert!(blocks.len() > 1);
        assert!(
            blocks.iter().all(|block| block.width() <= PAGE),
            "{:?}",
            blocks.iter().map(Block::width).collect::<Vec<_>>()
        );
        let cells: usize = blocks.iter().map(|block| block.rows.iter().map(|row| row.len() - 1).sum::<usize>()).sum();
        assert_eq!(cells, 19 * 14, "every cell is there once");
        let mut sparse = table;
        for row in &mut sparse.rows[1..] {
            row[1..].iter_mut().for_each(|cell| *cell = Cell::number(NOTHING));
        }
        assert!(sparse.fitted().iter().all(|block| block.rows.iter().all(|row| row[1].text != NOTHING)));
    }
}
