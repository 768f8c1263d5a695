//! Types of the columns of data files, as Hugging Face's `datasets` (checked against 5.2, with pyarrow 26 and pandas 3.1) infers
//! them. JSON and CSV say little of types, so a column's is what all its values have in common: a column of `1` and `2.5` holds floats,
//! and a prompt `1.0`. [`json`] has the rules of pyarrow, [`csv`] those of pandas; Parquet states its types, which the reader heeds.
//!
//! A file is read twice: first for its types, which is all that is kept, then for its rows. As in `datasets`, the first file of the
//! first split decides for the data set: columns of other files are cast to its types, and columns that they lack are `None`.
//!
//! Where it stops following:
//!
//! - JSON is typed by all rows of a file, `datasets` types it by the first 10 MB. CSV is typed by 10 000 rows at a time, as there.
//! - Where `datasets` stops with an error (2.5 in a column that the first file has for whole numbers, a column that it has not),
//!   values stay as their own file has them.
//! - Times become texts, `2020-01-01 00:00:00`, as templates print them. So they have no methods (`.year`), and a list of them that is
//!   printed as a whole shows texts.
//! - Features that a data set's card declares are not read.

pub mod csv;
pub mod json;
mod times;

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

/// The type of a column or of values inside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kind {
    /// Nothing but `None`.
    #[default]
    Null,
    /// `True`, `False`.
    Bool,
    /// Whole numbers.
    Int,
    /// Numbers.
    Float,
    /// Times, to the second.
    Time,
    /// Texts.
    Text,
    /// Lists.
    List(Box<Kind>),
    /// Objects with the same members.
    Struct(Fields),
    /// What has no type in common. Texts that are JSON are read as such.
    Json,
    /// What has no type in common, where `datasets` stops; left as it is.
    Mixed,
}

/// Names with their types, in the order they were first seen in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    places: HashMap<String, usize>,
    kinds: Vec<(String, Kind)>,
}

impl Fields {
    /// The type of a field, to be widened; new ones are `None` so far.
    fn entry(&mut self, name: &str) -> &mut Kind {
        let place = match self.places.get(name) {
            Some(&place) => place,
            None => {
                self.places.insert(name.to_owned(), self.kinds.len());
                self.kinds.push((name.to_owned(), Kind::Null));
                self.kinds.len() - 1
            }
        };
        &mut self.kinds[place].1
    }

    fn get(&self, name: &str) -> Option<&Kind> {
        self.places.get(name).map(|&place| &self.kinds[place].1)
    }

    fn len(&self) -> usize {
        self.kinds.len()
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &Kind)> {
        self.kinds.iter().map(|(name, kind)| (name.as_str(), kind))
    }
}

/// The types of a file's columns.
#[derive(Clone, Debug)]
pub enum FileTypes {
    /// JSON.
    Json(json::Types),
    /// CSV.
    Csv(csv::Types),
}

impl FileTypes {
    /// The types that hold for a data set of which this is the first file.
    pub fn columns(&self) -> Fields {
        match self {
            FileTypes::Json(types) => types.columns.clone(),
            FileTypes::Csv(types) => types.chunk(1).map(|chunk| chunk.fields.clone()).unwrap_or_default(),
        }
    }

    /// A row's columns with their types; `row` counts from 1. `first` are the types of the data set's first file, if it is another.
    pub fn typed(&self, row: usize, columns: Map<String, Value>, first: Option<&Fields>) -> Map<String, Value> {
        let (own, typed, first) = match self {
            FileTypes::Json(types) => (&types.columns, types.typed(columns), first),
            FileTypes::Csv(types) => {
                let (Some(chunk), own_first) = (types.chunk(row), types.chunk(1)) else { return columns };
                let first = first.or(own_first.map(|first| &first.fields).filter(|_| row > csv::CHUNK));
                (&chunk.fields, chunk.typed(columns), first)
            }
        };
        match first {
            Some(first) => cast_fields(own, first, typed),
            None => typed,
        }
    }
}

/// Values of the fields `own` as those of `wanted`, in its order; fields that it has not come last, as they are.
fn cast_fields(own: &Fields, wanted: &Fields, mut values: Map<String, Value>) -> Map<String, Value> {
    let mut cast = Map::new();
    for (name, kind) in wanted.iter() {
        let value = values.remove(name).unwrap_or_default();
        cast.insert(name.to_owned(), own.get(name).map_or(Value::Null, |own| self::cast(own, kind, value)));
    }
    cast.extend(values);
    cast
}

/// A value of the type `own` as one of the type `wanted`, by Arrow's rules; as it is where they have none.
fn cast(own: &Kind, wanted: &Kind, value: Value) -> Value {
    match (own, wanted, value) {
        (own, wanted, value) if own == wanted => value,
        (Kind::Int, Kind::Float, Value::Number(number)) => float(number),
        (Kind::Float, Kind::Int, Value::Number(number)) => whole(number),
        (Kind::Bool, Kind::Text, Value::Bool(truth)) => Value::String(truth.to_string()),
        (Kind::Int, Kind::Text, Value::Number(number)) => Value::String(number.to_string()),
        (Kind::Float, Kind::Text, Value::Number(number)) => {
            Value::String(number.as_f64().map_or_else(|| number.to_string(), arrow_text))
        }
        (Kind::Text, Kind::Int, Value::String(text)) => {
            text.parse::<i64>().map_or_else(|_| Value::String(text), Value::from)
        }
        (Kind::Text, Kind::Float, Value::String(text)) => match text.parse().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => Value::String(text),
        },
        (Kind::Text, Kind::Time, Value::String(text)) => Value::String(times::python_text(&text).unwrap_or(text)),
        (_, Kind::Json, Value::String(text)) => json::decoded(text),
        (Kind::List(own), Kind::List(wanted), Value::Array(items)) => {
            Value::Array(items.into_iter().map(|item| cast(own, wanted, item)).collect())
        }
        (Kind::Struct(own), Kind::Struct(wanted), Value::Object(members)) => {
            Value::Object(cast_fields(own, wanted, members))
        }
        (_, _, value) => value,
    }
}

/// A number as a float.
fn float(number: Number) -> Value {
    Value::Number(number.as_f64().and_then(Number::from_f64).unwrap_or(number))
}

/// A float that is whole as such a number.
fn whole(number: Number) -> Value {
    match number.as_f64() {
        // Beyond these limits the conversion would not be exact.
        Some(float) if float.fract() == 0.0 && float.abs() < 9.2e18 => Value::from(float as i64),
        _ => Value::Number(number),
    }
}

/// A float as Arrow writes it: plain from a millionth up to ten thousand millions, without a point where it is whole.
fn arrow_text(number: f64) -> String {
    if number == 0.0 || (1e-6..1e10).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn floats_become_texts_as_in_arrow() {
        // `pyarrow.compute.cast(array, string)`.
        for (number, text) in [
            (1.0, "1"),
            (2.5, "2.5"),
            (1e-5, "0.00001"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (123456789.0, "123456789"),
            (12345678901.5, "1.23456789015e+10"),
            (1e20, "1e+20"),
            (-0.0, "-0"),
        ] {
            assert_eq!(arrow_text(number), text);
        }
    }

    #[test]
    fn what_does_not_fit_stays_as_it_is() {
        assert_eq!(cast(&Kind::Float, &Kind::Int, json!(2.5)), json!(2.5));
        assert_eq!(cast(&Kind::Float, &Kind::Int, json!(2.0)), json!(2));
        assert_eq!(cast(&Kind::Text, &Kind::Int, json!("x")), json!("x"));
        assert_eq!(cast(&Kind::Int, &Kind::Null, json!(1)), json!(1));
        assert_eq!(cast(&Kind::Text, &Kind::Bool, json!("true")), json!("true"));
    }
}
