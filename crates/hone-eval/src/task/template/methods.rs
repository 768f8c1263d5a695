//! Methods of Python's values that templates call: those of texts as [`crate::python::text`] has them, `index` and `count` of lists and
//! tuples, and of mappings the views and `get`.
//!
//! What it does not know: `encode` and `translate`, whose results are no texts; methods that change a list or a mapping.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use crate::python::format::{MOST, str_format, type_name};
use crate::python::is_space;
use crate::python::literal::{self, View};
use crate::python::text::{self, Align, Ends};

/// A failure of what a template asks for.
pub(super) fn failed(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// A method that the template language itself does not have.
pub(super) fn method(_: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => of_text(text, name, args),
        (ValueKind::Map, _) => of_mapping(value, name, args),
        (ValueKind::Seq | ValueKind::Iterable, _) => of_list(value, name, args),
        (ValueKind::Number, _) if name == "is_integer" && !value.is_integer() => {
            let () = from_args(args)?;
            Ok(Value::from(f64::try_from(value.clone())?.fract() == 0.0))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_mapping(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let pairs = || -> Result<Vec<(Value, Value)>, Error> {
        value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
    };
    let view = |name, items| Ok(Value::from_object(View { name, items }));
    match name {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { default.unwrap_or_else(|| Value::from(())) } else { found })
        }
        "keys" => {
            let () = from_args(args)?;
            view("dict_keys", pairs()?.into_iter().map(|(key, _)| key).collect())
        }
        "values" => {
            let () = from_args(args)?;
            view("dict_values", pairs()?.into_iter().map(|(_, value)| value).collect())
        }
        "items" => {
            let () = from_args(args)?;
            view("dict_items", pairs()?.into_iter().map(Value::from).collect())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_list(value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = match name {
        "index" | "count" => from_args(args)?,
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    let mut items = value.try_iter()?;
    match name {
        "count" => Ok(Value::from(items.filter(|item| item == wanted).count())),
        _ => items.position(|item| item == *wanted).map(Value::from).ok_or_else(|| missing(wanted)),
    }
}

fn missing(wanted: &Value) -> Error {
    failed(format!("{} is not in the list or text", literal::repr(wanted)))
}

/// Width of a field; below nothing is nothing.
fn width(asked: i64) -> Result<usize, Error> {
    match usize::try_from(asked).unwrap_or(0) {
        width if width <= MOST => Ok(width),
        width => Err(failed(format!("a field of {width} characters; at most {MOST} are written"))),
    }
}

/// Whether `test` holds of the text, for a method without arguments.
fn holds(args: &[Value], text: &str, test: fn(&str) -> bool) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(test(text)))
}

fn changed(args: &[Value], text: &str, change: fn(&str) -> String) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(change(text)))
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        "upper" => changed(args, text, str::to_uppercase),
        "lower" => changed(args, text, str::to_lowercase),
        "title" => changed(args, text, text::title),
        "capitalize" => changed(args, text, text::capitalize),
        "swapcase" => changed(args, text, text::swap_case),
        "casefold" => changed(args, text, text::case_fold),
        "isascii" => holds(args, text, str::is_ascii),
        "isalpha" => holds(args, text, text::is_alpha),
        "isalnum" => holds(args, text, text::is_alnum),
        "isdigit" => holds(args, text, text::is_digit),
        "isdecimal" => holds(args, text, text::is_decimal),
        "isnumeric" => holds(args, text, text::is_numeric),
        "islower" => holds(args, text, text::is_lower),
        "isupper" => holds(args, text, text::is_upper),
        "istitle" => holds(args, text, text::is_titled),
        "isspace" => holds(args, text, |text| !text.is_empty() && text.chars().all(is_space)),
        "isprintable" => holds(args, text, |text| text.chars().all(text::is_printable)),
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let ends = match name {
                "strip" => Ends::Both,
                "lstrip" => Ends::Left,
                _ => Ends::Right,
            };
            Ok(Value::from(text::strip(text, chars, ends)))
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.map_or_else(|| named.get::<Option<&str>>("sep"), |given| Ok(Some(given)))?;
            let most = most.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |given| Ok(Some(given)))?;
            named.assert_all_used()?;
            if separator == Some("") {
                return Err(failed("a text cannot be cut at an empty separator"));
            }
            let most = most.and_then(|most| usize::try_from(most).ok());
            Ok(Value::from(text::split(text, separator, most, name == "rsplit")))
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.map_or_else(|| named.get::<Option<bool>>("keepends"), |given| Ok(Some(given)))?;
            named.assert_all_used()?;
            Ok(text::split_lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(failed("a text cannot be cut at an empty separator"));
            }
            let parts = match name {
                "partition" => text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b]),
                _ => text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b]),
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "ljust" | "rjust" | "center" => {
            let (asked, fill): (i64, Option<&str>) = from_args(args)?;
            let mut fill = fill.unwrap_or(" ").chars();
            let (Some(fill), None) = (fill.next(), fill.next()) else {
                return Err(failed(format!("{name} fills with exactly one character")));
            };
            let align = match name {
                "ljust" => Align::Left,
                "rjust" => Align::Right,
                _ => Align::Centre,
            };
            Ok(Value::from(text::justify(text, width(asked)?, fill, align)))
        }
        "zfill" => {
            let (asked,): (i64,) = from_args(args)?;
            Ok(Value::from(text::zero_fill(text, width(asked)?)))
        }
        "expandtabs" => {
            let (size, named): (Option<i64>, Kwargs) = from_args(args)?;
            let size = size.map_or_else(|| named.get::<Option<i64>>("tabsize"), |given| Ok(Some(given)))?;
            named.assert_all_used()?;
            Ok(Value::from(text::expand_tabs(text, width(size.unwrap_or(8))?)))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let cut = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Value::from(cut.unwrap_or(text)))
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<i64>) = from_args(args)?;
            Ok(Value::from(text::replace(text, old, new, most.and_then(|most| usize::try_from(most).ok()))))
        }
        "find" | "index" | "rfind" | "rindex" | "count" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let window = window(text, start, end);
            if name == "count" {
                // An empty text is found before every character and at the end.
                return Ok(Value::from(window.map_or(0, |(_, part)| part.matches(wanted).count())));
            }
            let place = window.and_then(|(before, part)| {
                let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) }?;
                Some((before + part[..at].chars().count()) as i64)
            });
            match place {
                None if name.ends_with("index") => Err(missing(&Value::from(wanted))),
                place => Ok(Value::from(place.unwrap_or(-1))),
            }
        }
        "startswith" | "endswith" => {
            let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let wanted = match wanted.is_tuple() {
                true => wanted.try_iter()?.collect(),
                false => vec![wanted.clone()],
            };
            let window = window(text, start, end);
            for wanted in wanted {
                let Some(part) = wanted.as_str() else {
                    return Err(failed(format!("{name} wants a text or a tuple of them, not {}", type_name(&wanted))));
                };
                let found = window.is_some_and(|(_, whole)| match name {
                    "startswith" => whole.starts_with(part),
                    _ => whole.ends_with(part),
                });
                if found {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, item) in items.try_iter()?.enumerate() {
                let Some(item) = item.as_str() else {
                    return Err(failed(format!("item {i} to join is {}, not a text", type_name(&item))));
                };
                out.push_str(if i > 0 { text } else { "" });
                out.push_str(item);
            }
            Ok(Value::from(out))
        }
        "format" => {
            let (positional, named) = parts(args)?;
            let of_name = |name: &str| named.get::<Value>(name).ok();
            str_format(text, positional, &of_name).map(Value::from).map_err(failed)
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Arguments by place and by name.
pub(super) fn parts(args: &[Value]) -> Result<(&[Value], Kwargs), Error> {
    match args.split_last() {
        Some((last, positional)) if last.is_kwargs() => Ok((positional, Kwargs::try_from(last.clone())?)),
        _ => Ok((args, std::iter::empty::<(String, Value)>().collect())),
    }
}

/// `text[start:end]` with the number of characters before it; `None` where `start` is beyond the text.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = text.chars().count();
    let place = |at: i64| match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => length.saturating_sub(at.unsigned_abs() as usize),
    };
    let start = start.map_or(0, place);
    let end = end.map_or(length, place).min(length);
    if start > length || start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((start, &text[byte(start)..byte(end)]))
}
