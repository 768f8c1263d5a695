//! Filters of Jinja that the template engine lacks or has otherwise, as jinja2 has them.
//!
//! What it does not know: `pprint` of what takes more than a line, which is refused.

use std::collections::BTreeMap;

use hone_model::template::json::Json;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::html::strip_tags;
use super::methods::failed;
use super::percent;
use super::wrap::Wrap;
use crate::python::format::{MOST, percent as python_percent};
use crate::python::text::{self, Align};
use crate::python::{is_space, literal};

/// Puts the filters into an environment.
pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", word_count);
    environment.add_filter("center", centre);
    environment.add_filter("wordwrap", word_wrap);
    environment
        .add_filter("striptags", |state: &mut State, value: &Value| Ok::<_, Error>(strip_tags(&soft(state, value)?)));
    environment.add_filter("replace", replace);
    environment.add_filter("title", title);
    environment.add_filter("capitalize", |state: &mut State, value: &Value| {
        Ok::<_, Error>(text::capitalize(&soft(state, value)?))
    });
    environment.add_filter("trim", |state: &mut State, value: &Value, chars: Option<&str>| {
        Ok::<_, Error>(text::strip(&soft(state, value)?, chars, text::Ends::Both).to_owned())
    });
    environment.add_filter("string", |state: &mut State, value: &Value| soft(state, value));
    environment.add_filter("join", join);
    environment.add_filter("format", format);
    environment.add_filter("pprint", pretty);
    environment.add_filter("indent", indent);
    environment.add_filter("tojson", to_json);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    for name in ["length", "count"] {
        environment.add_filter(name, |state: &mut State, value: &Value| match value.is_undefined() {
            true => defined(state, value).map(|()| 0),
            false => minijinja::filters::length(value),
        });
    }
    for name in ["e", "escape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("sort", |state: &mut State, value: Value, args: Rest<Value>, named: Kwargs| {
        let named = by_name(&args, &named, ["reverse", "case_sensitive", "attribute"])?;
        minijinja::filters::sort(state, value, named)
    });
    environment.add_filter("dictsort", |value: &Value, args: Rest<Value>, named: Kwargs| {
        minijinja::filters::dictsort(value, by_name(&args, &named, ["case_sensitive", "by", "reverse"])?)
    });
    environment.add_filter(percent::FILTER, |state: &mut State, form: &Value, values: &Value| {
        defined(state, values)?;
        python_percent(&soft(state, form)?, values).map_err(failed)
    });
}

/// Refuses a value that is missing; the missing `else` of `x if y` is none.
pub(super) fn defined(state: &State, value: &Value) -> Result<(), Error> {
    if value.is_undefined() { minijinja::filters::string(state, value).map(drop) } else { Ok(()) }
}

/// `str(value)`.
fn soft(state: &State, value: &Value) -> Result<String, Error> {
    defined(state, value)?;
    Ok(literal::str_of(value))
}

/// An argument by place or by name.
fn argument(args: &[Value], named: &Kwargs, at: usize, name: &str) -> Result<Option<Value>, Error> {
    match args.get(at) {
        Some(given) => Ok(Some(given.clone())),
        None => named.get::<Option<Value>>(name),
    }
}

/// Names of a filter's arguments, with as many values as were given.
fn arguments<const N: usize>(args: &[Value], named: &Kwargs, names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    if args.len() > N {
        return Err(failed(format!("{} arguments, and the filter has {N}: {}", args.len(), names.join(", "))));
    }
    let mut found = [const { None }; N];
    for (at, (place, name)) in found.iter_mut().zip(names).enumerate() {
        *place = argument(args, named, at, name)?;
    }
    named.assert_all_used()?;
    Ok(found)
}

/// Arguments by place as arguments by name, as the engine's own filters want them.
fn by_name<const N: usize>(args: &[Value], named: &Kwargs, names: [&'static str; N]) -> Result<Kwargs, Error> {
    let given = arguments(args, named, names)?;
    Ok(names.into_iter().zip(given).filter_map(|(name, value)| Some((name, value?))).collect())
}

fn size(given: Option<Value>, default: usize) -> Result<usize, Error> {
    match given {
        None => Ok(default),
        Some(value) => match usize::try_from(value)? {
            size if size <= MOST => Ok(size),
            size => Err(failed(format!("a width of {size} characters; at most {MOST} are written"))),
        },
    }
}

fn switch(given: Option<Value>, default: bool) -> bool {
    given.map_or(default, |value| value.is_true())
}

/// A text, where nothing else will do.
fn as_text<'v>(value: &'v Value, what: &str) -> Result<&'v str, Error> {
    value.as_str().ok_or_else(|| failed(format!("{what} wants a text, not {}", literal::repr(value))))
}

fn truncate(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    defined(state, value)?;
    let [length, kill, end, leeway] = arguments(&args, &named, ["length", "killwords", "end", "leeway"])?;
    let (length, leeway) = (size(length, 255)?, size(leeway, 5)?);
    let end = end.unwrap_or_else(|| Value::from("..."));
    let end = as_text(&end, "truncate")?;
    let end_length = end.chars().count();
    if length < end_length {
        return Err(failed(format!("truncate to {length} leaves no room for {end:?}")));
    }
    // A list that is short enough comes back as it is.
    if value.as_str().is_none() && value.len().is_some_and(|found| found <= length + leeway) {
        return Ok(value.clone());
    }
    let whole = as_text(value, "truncate")?;
    if whole.chars().count() <= length + leeway {
        return Ok(value.clone());
    }
    let cut: String = whole.chars().take(length - end_length).collect();
    let kept = if switch(kill, false) { &cut } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(kept, _)| kept) };
    Ok(Value::from(format!("{kept}{end}")))
}

fn word_count(state: &mut State, value: &Value) -> Result<usize, Error> {
    let text = soft(state, value)?;
    Ok(text.split(|c| !text::is_word(c)).filter(|word| !word.is_empty()).count())
}

fn centre(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let [width] = arguments(&args, &named, ["width"])?;
    Ok(text::justify(&soft(state, value)?, size(width, 80)?, ' ', Align::Centre))
}

fn replace(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let [old, new, count] = arguments(&args, &named, ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else { return Err(failed("replace wants the old text and the new one")) };
    let most = match count.filter(|count| !count.is_none()) {
        Some(count) => usize::try_from(i64::try_from(count)?).ok(),
        None => None,
    };
    Ok(text::replace(&soft(state, value)?, &soft(state, &old)?, &soft(state, &new)?, most))
}

/// Words begin after white space, hyphens and opening brackets.
fn title(state: &mut State, value: &Value) -> Result<String, Error> {
    let text = soft(state, value)?;
    let between = |c: char| is_space(c) || "-({[<".contains(c);
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let inside = between(first);
        let end = rest.find(|c| between(c) != inside).unwrap_or(rest.len());
        let (head, tail) = rest[..end].split_at(first.len_utf8());
        out.push_str(&head.to_uppercase());
        out.push_str(&tail.to_lowercase());
        rest = &rest[end..];
    }
    Ok(out)
}

fn join(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    defined(state, value)?;
    let [between, attribute] = arguments(&args, &named, ["d", "attribute"])?;
    let between = between.map_or(Ok(String::new()), |between| soft(state, &between))?;
    let items = match attribute.filter(|attribute| !attribute.is_none()) {
        Some(attribute) => {
            let named: Kwargs = [("attribute", attribute)].into_iter().collect();
            state.apply_filter("map", &[value.clone(), named.into()])?
        }
        None => value.clone(),
    };
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        out.push_str(if i > 0 { &between } else { "" });
        out.push_str(&soft(state, &item)?);
    }
    Ok(out)
}

/// `form % (named or positional)`.
fn format(state: &mut State, form: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let form = soft(state, form)?;
    let names: Vec<&str> = named.args().collect();
    if !names.is_empty() && !args.is_empty() {
        return Err(failed("format takes values by place or by name, not both"));
    }
    let values = match names.is_empty() {
        true => Value::from(minijinja::value::Tuple::from(&args[..])),
        false => {
            let pairs = names.into_iter().map(|name| Ok((name.to_owned(), named.get::<Value>(name)?)));
            Value::from(pairs.collect::<Result<BTreeMap<String, Value>, Error>>()?)
        }
    };
    python_percent(&form, &values).map_err(failed)
}

fn pretty(state: &mut State, value: &Value) -> Result<String, Error> {
    defined(state, value)?;
    let line = literal::repr(&sorted(value));
    if line.chars().count() > 80 {
        return Err(failed("pprint of more than a line is not written; use `string`"));
    }
    Ok(line)
}

/// A value with the keys of its mappings in order.
fn sorted(value: &Value) -> Value {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Map => {
            let pair = |key: Value| (key.clone(), sorted(&value.get_item(&key).unwrap_or_default()));
            Value::from(items().map(pair).collect::<BTreeMap<Value, Value>>())
        }
        ValueKind::Seq if value.is_tuple() => {
            Value::from(minijinja::value::Tuple::new(items().map(|item| sorted(&item)).collect()))
        }
        ValueKind::Seq | ValueKind::Iterable => items().map(|item| sorted(&item)).collect(),
        _ => value.clone(),
    }
}

/// The lines behind the first indented, blank ones not unless asked.
fn indent(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    defined(state, value)?;
    let [width, first, blank] = arguments(&args, &named, ["width", "first", "blank"])?;
    let indention = match width.as_ref().and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => " ".repeat(size(width, 4)?),
    };
    let (first, blank) = (switch(first, false), switch(blank, false));
    // The line end makes the last line one of its own, as jinja2 has it.
    let text = format!("{}\n", as_text(value, "indent")?);
    let mut out = String::new();
    for (i, line) in text::split_lines(&text, false).into_iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        let indented = if i == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indented { &indention } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// `int`: a whole number of a number or a text, or else `default` (0).
fn int(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    defined(state, value)?;
    let [default, base] = arguments(&args, &named, ["default", "base"])?;
    let base = base.map_or(Ok(10), u32::try_from)?;
    let whole = |x: f64| x.is_finite().then_some(x.trunc() as i128);
    let found = match value.as_str() {
        Some(text) => whole_number(text, base).or_else(|| whole(float_of(text)?)),
        None => i128::try_from(value.clone()).ok().or_else(|| whole(f64::try_from(value.clone()).ok()?)),
    };
    Ok(found.map_or_else(|| default.unwrap_or_else(|| Value::from(0)), Value::from))
}

/// `int(text, base)`.
fn whole_number(text: &str, base: u32) -> Option<i128> {
    let text = text::strip(text, None, text::Ends::Both);
    let digits = text.trim_start_matches(['+', '-']);
    if text.len() - digits.len() > 1 {
        return None;
    }
    let prefixed = match base {
        2 => Some(["0b", "0B"]),
        8 => Some(["0o", "0O"]),
        16 => Some(["0x", "0X"]),
        _ => None,
    };
    let digits = prefixed.and_then(|marks| marks.iter().find_map(|mark| digits.strip_prefix(mark))).unwrap_or(digits);
    let found = (2..=36).contains(&base).then(|| i128::from_str_radix(&without_marks(digits)?, base).ok())??;
    Some(if text.starts_with('-') { -found } else { found })
}

/// Digits without the underscores that may stand between two of them.
fn without_marks(digits: &str) -> Option<String> {
    let wrong = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    (!wrong).then(|| digits.replace('_', ""))
}

/// `float(text)`.
fn float_of(text: &str) -> Option<f64> {
    without_marks(text::strip(text, None, text::Ends::Both))?.parse().ok()
}

fn float(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    defined(state, value)?;
    let [default] = arguments(&args, &named, ["default"])?;
    let found = match (value.as_str(), value.kind()) {
        (Some(text), _) => float_of(text),
        (None, ValueKind::Bool) => Some(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()).ok(),
    };
    Ok(found.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from))
}

/// A text for HTML, once: what is escaped already stays.
fn escape(state: &mut State, value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = soft(state, value)?;
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;");
    Ok(Value::from_safe_string(escaped))
}

/// `json.dumps` with sorted keys and ASCII alone, and escapes for what HTML would read.
fn to_json(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    defined(state, value)?;
    let [indent] = arguments(&args, &named, ["indent"])?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        Some(indent) => Some(" ".repeat(size(Some(indent), 0)?)),
        None => None,
    };
    let between = if indent.is_some() { "," } else { ", " }.to_owned();
    let json = Json { ascii: true, sort: true, indent, between, colon: ": ".to_owned() };
    let escaped = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\'', "\\u0027")];
    let text = escaped.into_iter().fold(json.text_of(value)?, |text, (c, escape)| text.replace(c, escape));
    Ok(Value::from_safe_string(text))
}

fn word_wrap(state: &mut State, value: &Value, args: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    defined(state, value)?;
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, end, hyphens] = arguments(&args, &named, names)?;
    let width = size(width, 79)?;
    let end = end
        .filter(|end| !end.is_none())
        .map_or(Ok("\n".to_owned()), |end| as_text(&end, "wordwrap").map(str::to_owned))?;
    let wrap = Wrap { width, long: switch(long, true), hyphens: switch(hyphens, true) };
    let lines = text::split_lines(as_text(value, "wordwrap")?, false).into_iter();
    let lines = lines.map(|line| Ok(wrap.lines(line)?.join(&end))).collect::<Result<Vec<_>, Error>>()?;
    Ok(lines.join(&end))
}
