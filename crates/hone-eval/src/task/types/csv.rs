//! Types of a CSV file's columns, by the rules of `pandas.read_csv`. Of each 10 000 rows a column is the first of these that all its
//! cells are:
//!
//! 1. whole numbers of 64 bits, signs, leading zeros and white space around them allowed; with missing values, floats;
//! 2. floats, `inf` and `infinity` among them;
//! 3. `True`, `TRUE`, `true`, `False`, `FALSE`, `false`;
//! 4. texts.
//!
//! A cell that is empty or one of [`MISSING`] is a missing value, in quotes or not: `None`. Later rows are cast to the types of the first
//! 10 000.
//!
//! What it does not know: rows of fewer cells than the header (the reader refuses them, pandas fills them up); numbers of more than
//! 64 bits, at which `datasets` stops, and which are texts here.

use serde_json::{Map, Number, Value};

use super::{Fields, Kind};

/// Rows that are typed together.
pub const CHUNK: usize = 10_000;

/// Cells that are missing values.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// The types of a file's columns.
#[derive(Clone, Debug, Default)]
pub struct Types {
    names: Vec<String>,
    chunks: Vec<Chunk>,
    /// Of the chunk that is read: what its columns may be, and its rows so far.
    open: (Vec<Seen>, usize),
}

/// The types of [`CHUNK`] rows.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    cells: Vec<Cells>,
    /// The same for casts.
    pub fields: Fields,
}

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cells {
    Whole,
    /// Whole numbers and missing values, or nothing but these.
    WholeOrMissing,
    Float,
    Truth,
    Text,
}

/// What the cells of a column may still be.
#[derive(Clone, Copy, Debug)]
struct Seen {
    missing: bool,
    negative: bool,
    /// The widest of its whole numbers.
    width: Width,
    whole: bool,
    float: bool,
    truth: bool,
}

/// What a whole number fits into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Width {
    Signed,
    Unsigned,
    Neither,
}

impl Types {
    /// Takes a row's cells into account.
    pub fn see(&mut self, row: &Map<String, Value>) {
        if self.names.is_empty() {
            self.names = row.keys().cloned().collect();
        }
        let (seen, rows) = &mut self.open;
        seen.resize(self.names.len(), Seen::new());
        for (seen, cell) in seen.iter_mut().zip(row.values()) {
            seen.see(cell.as_str().unwrap_or_default());
        }
        *rows += 1;
        if *rows == CHUNK {
            self.close();
        }
    }

    /// All rows were seen.
    pub fn finish(mut self) -> Types {
        if self.open.1 > 0 || self.chunks.is_empty() {
            self.close();
        }
        self
    }

    fn close(&mut self) {
        let (seen, _) = std::mem::take(&mut self.open);
        let cells: Vec<Cells> = seen.iter().map(Seen::cells).collect();
        let mut fields = Fields::default();
        for (name, cells) in self.names.iter().zip(&cells) {
            *fields.entry(name) = cells.kind();
        }
        self.chunks.push(Chunk { cells, fields });
    }

    /// The types of the chunk that a row is in; rows count from 1.
    pub(super) fn chunk(&self, row: usize) -> Option<&Chunk> {
        self.chunks.get(row.saturating_sub(1) / CHUNK).or(self.chunks.last())
    }
}

impl Chunk {
    /// A row's cells as values of their types.
    pub(super) fn typed(&self, row: Map<String, Value>) -> Map<String, Value> {
        let typed = |((name, cell), cells): ((String, Value), &Cells)| match cell {
            Value::String(text) => (name, cells.value(text)),
            other => (name, other),
        };
        row.into_iter().zip(&self.cells).map(typed).collect()
    }
}

impl Seen {
    fn new() -> Seen {
        Seen { missing: false, negative: false, width: Width::Signed, whole: true, float: true, truth: true }
    }

    fn see(&mut self, cell: &str) {
        if MISSING.contains(&cell) {
            self.missing = true;
            return;
        }
        match whole(cell) {
            Some((negative, width)) => {
                self.negative |= negative;
                self.width = self.width.max(width);
            }
            None => self.whole = false,
        }
        self.float = self.float && float(cell).is_some();
        self.truth = self.truth && truth(cell).is_some();
    }

    fn cells(&self) -> Cells {
        match self {
            Seen { whole: true, width: Width::Signed, missing: false, .. } => Cells::Whole,
            Seen { whole: true, width: Width::Signed, .. } => Cells::WholeOrMissing,
            Seen { whole: true, width: Width::Unsigned, missing: false, negative: false, .. } => Cells::Whole,
            Seen { whole: true, .. } => Cells::Text,
            Seen { float: true, .. } => Cells::Float,
            Seen { truth: true, .. } => Cells::Truth,
            _ => Cells::Text,
        }
    }
}

impl Cells {
    fn kind(self) -> Kind {
        match self {
            Cells::Whole => Kind::Int,
            Cells::WholeOrMissing | Cells::Float => Kind::Float,
            Cells::Truth => Kind::Bool,
            Cells::Text => Kind::Text,
        }
    }

    fn value(self, cell: String) -> Value {
        if MISSING.contains(&cell.as_str()) {
            return Value::Null;
        }
        let of_float = |number: Option<f64>| match number {
            Some(number) if number.is_infinite() => Some(Value::from(if number > 0.0 { "inf" } else { "-inf" })),
            Some(number) => Number::from_f64(number).map(Value::Number),
            None => None,
        };
        let bare = cell.trim_matches(is_space);
        let found = match self {
            Cells::Whole => bare.parse().map(i64::into).or_else(|_| bare.parse().map(u64::into)).ok(),
            Cells::WholeOrMissing => of_float(bare.parse().ok().map(|number: i64| number as f64)),
            Cells::Float => of_float(float(&cell)),
            Cells::Truth => truth(&cell).map(Value::Bool),
            Cells::Text => None,
        };
        found.unwrap_or(Value::String(cell))
    }
}

/// C's white space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Whether a whole number is below 0, and its width; `None` if the cell is none.
fn whole(cell: &str) -> Option<(bool, Width)> {
    let bare = cell.trim_matches(is_space);
    let digits = bare.strip_prefix(['+', '-']).unwrap_or(bare);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let width = match (bare.parse::<i64>(), bare.parse::<u64>()) {
        (Ok(_), _) => Width::Signed,
        (_, Ok(_)) => Width::Unsigned,
        _ => Width::Neither,
    };
    Some((bare.starts_with('-'), width))
}

fn truth(cell: &str) -> Option<bool> {
    match cell {
        "True" | "TRUE" | "true" => Some(true),
        "False" | "FALSE" | "false" => Some(false),
        _ => None,
    }
}

/// A number with a point, an exponent, neither or both; or an infinity by name.
fn float(cell: &str) -> Option<f64> {
    let bare = cell.trim_matches(is_space);
    let word = cell.strip_prefix(['+', '-']).unwrap_or(cell);
    if ["inf", "infinity"].iter().any(|name| word.eq_ignore_ascii_case(name)) {
        return Some(if cell.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    let plain = bare.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    bare.parse().ok().filter(|number: &f64| plain && number.is_finite())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(cells: &[&str]) -> Vec<Value> {
        let row = |cell: &&str| json!({"c": cell}).as_object().cloned().unwrap();
        let mut types = Types::default();
        cells.iter().for_each(|cell| types.see(&row(cell)));
        let types = types.finish();
        let typed = |(i, cell)| types.chunk(i + 1).unwrap().typed(row(cell))["c"].clone();
        cells.iter().enumerate().map(typed).collect()
    }

    #[test]
    fn columns_are_typed_as_pandas_types_them() {
        for (cells, values) in [
            (vec!["00", "+1", " 2 "], json!([0, 1, 2])),
            (vec!["1", "", "3"], json!([1.0, null, 3.0])),
            (vec!["1", "2.5", "1e3"], json!([1.0, 2.5, 1000.0])),
            (vec!["9223372036854775808", "1"], json!([9_223_372_036_854_775_808_u64, 1])),
            (vec!["9223372036854775808", "-1"], json!(["9223372036854775808", "-1"])),
            (vec!["True", "NA", "false"], json!([true, null, false])),
            (vec!["true", "1"], json!(["true", "1"])),
            (vec!["+inf", "-INF", "infinity"], json!(["inf", "-inf", "inf"])),
            (vec!["1.", ".5"], json!([1.0, 0.5])),
            (vec!["1_0", "2"], json!(["1_0", "2"])),
            (vec!["1e", "2"], json!(["1e", "2"])),
            (vec!["1 2", "3"], json!(["1 2", "3"])),
            (vec!["--1", "."], json!(["--1", "."])),
            (vec!["1e-999", "1"], json!([0.0, 1.0])),
            (vec!["NaN", "nan"], json!([null, null])),
            (vec!["none", " NA"], json!(["none", " NA"])),
            (vec!["1", "NaN", "9007199254740993"], json!([1.0, null, 9_007_199_254_740_992.0])),
            (vec!["1e400", "1"], json!(["1e400", "1"])),
        ] {
            assert_eq!(json!(column(&cells)), values, "{cells:?}");
        }
    }

    #[test]
    fn every_ten_thousand_rows_are_typed_by_themselves() {
        let mut cells = vec!["1"; CHUNK];
        cells.extend(["", "2"]);
        let found = column(&cells);
        assert_eq!((&found[0], &found[CHUNK], &found[CHUNK + 1]), (&json!(1), &Value::Null, &json!(2.0)));
    }
}
