//! Types of a JSON file's columns, by the rules of pyarrow's JSON reader and of `datasets` around it:
//!
//! - whole numbers, or floats if one of them is none (or has more than 64 bits);
//! - times, if every text is one; else texts;
//! - lists and objects, by their items and members; every object of a column has the same members;
//! - a place whose values have nothing in common, objects with other members among them, holds *JSON*: each value as it is, but that texts
//!   which are JSON themselves are read, so that `"5"` is 5.
//!
//! A row without a column has `None` there.
//!
//! `datasets` writes the rows anew if the file is a list or holds such JSON, and floats then keep ten digits behind the point. That is
//! followed; the inexact parser that it reads them with before, which may miss the last digit, is not.
//!
//! With `field` the file is pandas' to read: texts stay texts (but those of columns that are named like times, [`is_time_name`]), floats
//! become whole numbers if all of a column are, and members that an object lacks are `None`.

use serde_json::{Map, Number, Value};

use super::{Fields, Kind, float, times, whole};

/// Bytes of JSON of the first file of a data set that decide what other files are cast to.
pub const FIRST_BLOCK: usize = 10 << 20;

/// Who reads a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// pyarrow, of one object a line.
    Lines,
    /// pyarrow, of a list that was made into lines.
    List,
    /// pandas, of the list under a field.
    Field,
}

/// The types of a file's columns.
#[derive(Clone, Debug)]
pub struct Types {
    pub(super) columns: Fields,
    reader: Reader,
    /// Under a field: the columns whose floats are all whole.
    all_whole: Vec<bool>,
    /// Whether floats lose digits.
    rewritten: bool,
}

impl Types {
    /// Of a file without rows so far.
    pub fn new(reader: Reader) -> Types {
        Types { columns: Fields::default(), reader, all_whole: Vec::new(), rewritten: reader != Reader::Lines }
    }

    /// Takes a row's values into account.
    pub fn see(&mut self, row: &Map<String, Value>) {
        for (name, value) in row {
            let lines = self.reader != Reader::Field;
            let rules =
                Rules { times: lines || is_time_name(name), mixed: if lines { Kind::Json } else { Kind::Mixed } };
            rules.see(self.columns.entry(name), value);
            if self.reader == Reader::Field {
                self.all_whole.resize(self.columns.len(), true);
                let fits = value.as_f64().is_none_or(|number| number.fract() == 0.0);
                let place = self.columns.places.get(name).copied();
                if let Some(all) = place.and_then(|place| self.all_whole.get_mut(place)) {
                    *all &= fits;
                }
            }
        }
    }

    /// All rows were seen.
    pub fn finish(mut self) -> Types {
        for (place, all) in self.all_whole.iter().enumerate() {
            if *all && self.columns.kinds[place].1 == Kind::Float {
                self.columns.kinds[place].1 = Kind::Int;
            }
        }
        self.rewritten |= self.columns.iter().any(|(_, kind)| holds_json(kind));
        self
    }

    /// A row's values with their types, in the columns' order.
    pub(super) fn typed(&self, mut row: Map<String, Value>) -> Map<String, Value> {
        let typed =
            |(name, kind): (&str, &Kind)| (name.to_owned(), self.value(kind, row.remove(name).unwrap_or_default()));
        self.columns.iter().map(typed).collect()
    }

    fn value(&self, kind: &Kind, value: Value) -> Value {
        match (kind, value) {
            (Kind::Float, Value::Number(number)) => match (self.rewritten, number.as_f64()) {
                (true, Some(long)) => Number::from_f64(ten_digits(long)).map_or(Value::Number(number), Value::Number),
                _ => float(number),
            },
            (Kind::Int, Value::Number(number)) => whole_if_float(number),
            (Kind::Time, Value::String(text)) => Value::String(times::python_text(&text).unwrap_or(text)),
            (Kind::List(kind), Value::Array(items)) => {
                Value::Array(items.into_iter().map(|item| self.value(kind, item)).collect())
            }
            (Kind::Struct(fields), Value::Object(mut members)) => {
                let typed = |(name, kind): (&str, &Kind)| {
                    (name.to_owned(), self.value(kind, members.remove(name).unwrap_or_default()))
                };
                Value::Object(fields.iter().map(typed).collect())
            }
            (Kind::Json, Value::String(text)) => decoded(text),
            (Kind::Json, value) => shortened(value),
            (_, value) => value,
        }
    }
}

/// What types are made of.
struct Rules {
    /// Whether texts may be times.
    times: bool,
    /// The type of values that have none in common.
    mixed: Kind,
}

impl Rules {
    /// Widens a type so that it holds a value.
    fn see(&self, kind: &mut Kind, value: &Value) {
        let before = std::mem::take(kind);
        *kind = match (before, value) {
            (before, Value::Null) => before,
            (before @ (Kind::Json | Kind::Mixed), _) => before,
            (Kind::Null | Kind::Bool, Value::Bool(_)) => Kind::Bool,
            (Kind::Null | Kind::Int, Value::Number(number)) if number.is_i64() => Kind::Int,
            (Kind::Null | Kind::Int | Kind::Float, Value::Number(_)) => Kind::Float,
            (Kind::Null | Kind::Time, Value::String(text)) if self.times && times::is_time(text) => Kind::Time,
            (Kind::Null | Kind::Time | Kind::Text, Value::String(_)) => Kind::Text,
            (Kind::Null, Value::Array(items)) => self.list(Kind::Null, items),
            (Kind::List(kind), Value::Array(items)) => self.list(*kind, items),
            (Kind::Null, Value::Object(members)) if !members.is_empty() || self.mixed == Kind::Mixed => {
                self.members(Fields::default(), members)
            }
            (Kind::Struct(fields), Value::Object(members))
                if self.mixed == Kind::Mixed
                    || (fields.len() == members.len() && members.keys().all(|name| fields.get(name).is_some())) =>
            {
                self.members(fields, members)
            }
            _ => self.mixed.clone(),
        };
    }

    fn list(&self, mut kind: Kind, items: &[Value]) -> Kind {
        items.iter().for_each(|item| self.see(&mut kind, item));
        Kind::List(Box::new(kind))
    }

    fn members(&self, mut fields: Fields, members: &Map<String, Value>) -> Kind {
        members.iter().for_each(|(name, value)| self.see(fields.entry(name), value));
        Kind::Struct(fields)
    }
}

/// Whether pandas looks for times in a column of the name.
fn is_time_name(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with("_at")
        || name.ends_with("_time")
        || name.starts_with("timestamp")
        || name == "modified"
        || name == "date"
}

fn holds_json(kind: &Kind) -> bool {
    match kind {
        Kind::Json => true,
        Kind::List(kind) => holds_json(kind),
        Kind::Struct(fields) => fields.iter().any(|(_, kind)| holds_json(kind)),
        _ => false,
    }
}

/// A text of a place that holds JSON: read, if it is JSON.
pub(super) fn decoded(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// A value whose floats are shortened as [`ten_digits`] says.
fn shortened(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let short = number.as_f64().map(ten_digits).and_then(Number::from_f64);
            Value::Number(short.unwrap_or(number))
        }
        Value::Array(items) => Value::Array(items.into_iter().map(shortened).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, shortened(value))).collect())
        }
        other => other,
    }
}

fn whole_if_float(number: Number) -> Value {
    if number.is_f64() { whole(number) } else { Value::Number(number) }
}

/// A float as pandas writes it in JSON: ten digits behind the point, a half rounded to the even digit (but that of zero up). Very
/// small and very large ones keep theirs.
fn ten_digits(number: f64) -> f64 {
    const SCALE: f64 = 1e10;
    let size = number.abs();
    if size > 1e16 || (number != 0.0 && size < 1e-15) {
        return number;
    }
    let (mut before, scaled) = (size.trunc() as u64, size.fract() * SCALE);
    let (mut behind, rest) = (scaled.trunc() as u64, scaled.fract());
    if rest > 0.5 || (rest == 0.5 && (behind == 0 || behind % 2 == 1)) {
        behind += 1;
    }
    if behind >= SCALE as u64 {
        (before, behind) = (before + 1, 0);
    }
    let short: f64 = format!("{before}.{behind:010}").parse().unwrap_or(size);
    if number < 0.0 { -short } else { short }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(reader: Reader, rows: &[Value]) -> Vec<Value> {
        let mut types = Types::new(reader);
        rows.iter().filter_map(Value::as_object).for_each(|row| types.see(row));
        let types = types.finish();
        rows.iter().filter_map(Value::as_object).map(|row| Value::Object(types.typed(row.clone()))).collect()
    }

    #[test]
    fn floats_are_rounded_as_pandas_rounds_them() {
        // `pandas.io.json.ujson_dumps`.
        for (long, short) in [
            (5e-11, 1e-10),
            (1.5e-10, 2e-10),
            (0.12345678905, 0.123456789),
            (0.12345678915, 0.1234567892),
            (123456789.123456789, 123456789.123456791),
            (1e-15, 0.0),
            (1e-16, 1e-16),
            (2.5e22, 2.5e22),
            (1e15 + 0.5, 1e15 + 0.5),
            (-1.0 / 3.0, -0.3333333333),
            (0.999_999_999_999, 1.0),
        ] {
            assert_eq!(ten_digits(long), short, "{long}");
        }
    }

    #[test]
    fn places_without_a_common_type_hold_json() {
        let rows = [json!({"a": "5", "l": [1, "a"], "s": {"k": 1}}), json!({"a": 2, "l": [], "s": {"m": "2"}})];
        assert_eq!(
            typed(Reader::Lines, &rows),
            [json!({"a": 5, "l": [1, "a"], "s": {"k": 1}}), json!({"a": 2, "l": [], "s": {"m": "2"}})]
        );
        // pandas fills the members instead.
        let s = json!([{"k": 1, "m": null}, {"k": null, "m": "2"}]);
        let found = typed(Reader::Field, &rows);
        assert_eq!(found[0]["s"], s[0]);
        assert_eq!(found[1]["s"], s[1]);
        assert_eq!(found[0]["a"], "5");
    }
}
