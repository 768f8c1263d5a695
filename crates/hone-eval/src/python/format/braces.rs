//! `str.format`: texts with fields in braces, and `format(value, spec)` for what stands after a field's colon.

use minijinja::Value;

use super::{Cursor, Number, Result, Style, ascii, digits, number, sign_of, too_wide, type_name};
use crate::python::literal::{repr, str_of};
use crate::python::text;

/// `template.format(*positional, **named)`; `named` gives a value by its name.
pub fn str_format(template: &str, positional: &[Value], named: &dyn Fn(&str) -> Option<Value>) -> Result<String> {
    Fields { positional, named, count: None }.fill(template, 2)
}

struct Fields<'v> {
    positional: &'v [Value],
    named: &'v dyn Fn(&str) -> Option<Value>,
    /// How many fields without a name there were; `usize::MAX` once one had a number.
    count: Option<usize>,
}

impl Fields<'_> {
    fn fill(&mut self, template: &str, depth: usize) -> Result<String> {
        if depth == 0 {
            return Err("fields of a format are nested too deep".into());
        }
        let mut out = String::new();
        let mut cursor = Cursor { rest: template };
        while let Some(c) = cursor.next() {
            match c {
                '{' if cursor.take('{') => out.push('{'),
                '}' if cursor.take('}') => out.push('}'),
                '{' => {
                    let field = self.field(&mut cursor, template, depth)?;
                    out.push_str(&field);
                }
                '}' => return Err(format!("a `}}` of the format {template:?} closes nothing")),
                _ => out.push(c),
            }
        }
        Ok(out)
    }

    /// A field; the cursor stands after its bracket.
    fn field(&mut self, cursor: &mut Cursor<'_>, template: &str, depth: usize) -> Result<String> {
        let open = || format!("a field of the format {template:?} is not closed");
        let mut name = String::new();
        let mut inside = false;
        while let Some(c) = cursor.peek().filter(|c| inside || !matches!(c, '!' | ':' | '}')) {
            if c == '{' {
                return Err(format!("a field's name in the format {template:?} holds a `{{`"));
            }
            inside = (inside || c == '[') && c != ']';
            name.push(c);
            cursor.next();
        }
        let conversion = match cursor.take('!') {
            true => Some(cursor.next().ok_or_else(open)?),
            false => None,
        };
        let mut spec = String::new();
        if cursor.take(':') {
            let mut nested = 0;
            while let Some(c) = cursor.peek().filter(|c| nested > 0 || *c != '}') {
                nested += i32::from(c == '{') - i32::from(c == '}');
                spec.push(c);
                cursor.next();
            }
        }
        if !cursor.take('}') {
            return Err(open());
        }
        let value = self.value(&name)?;
        let spec = self.fill_spec(&spec, depth)?;
        match conversion {
            None => format_value(&value, &spec),
            Some('s') => format_value(&Value::from(str_of(&value)), &spec),
            Some('r') => format_value(&Value::from(repr(&value)), &spec),
            Some('a') => format_value(&Value::from(ascii(&value)), &spec),
            Some(other) => Err(format!("`!{other}` is no conversion; there are !s, !r and !a")),
        }
    }

    fn fill_spec(&mut self, spec: &str, depth: usize) -> Result<String> {
        if spec.contains(['{', '}']) { self.fill(spec, depth - 1) } else { Ok(spec.into()) }
    }

    fn value(&mut self, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut path) = name.split_at(end);
        let mixed = "a format numbers its fields or leaves all numbers out, not both";
        let position = match first {
            "" if self.count == Some(usize::MAX) => return Err(mixed.into()),
            "" => {
                let at = self.count.unwrap_or(0);
                self.count = Some(at + 1);
                Some(at)
            }
            number if number.bytes().all(|b| b.is_ascii_digit()) => {
                if self.count.is_some_and(|count| count != usize::MAX) {
                    return Err(mixed.into());
                }
                self.count = Some(usize::MAX);
                Some(number.parse().map_err(|_| too_wide(number))?)
            }
            _ => None,
        };
        let mut value = match position {
            Some(at) => self.positional.get(at).cloned().ok_or_else(|| format!("no value {at} for the format"))?,
            None => (self.named)(first).ok_or_else(|| format!("no value `{first}` for the format"))?,
        };
        while !path.is_empty() {
            let key = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let Some((key, rest)) = key.filter(|(key, _)| !key.is_empty()) else {
                return Err(format!("`{{{name}}}` asks for an attribute, and values here have none; use `[key]`"));
            };
            let key = key.parse::<usize>().map_or_else(|_| Value::from(key), Value::from);
            let found = value.get_item(&key).ok().filter(|found| !found.is_undefined());
            value = found.ok_or_else(|| format!("`{{{name}}}` is not there"))?;
            path = rest;
        }
        if value.is_undefined() {
            return Err(format!("the value of `{{{name}}}` is missing"));
        }
        Ok(value)
    }
}

/// What stands after the colon of a field.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zeros: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    fn read(text: &str) -> Result<Spec> {
        let mut spec = Spec::default();
        let mut cursor = Cursor { rest: text };
        let aligns = |c: char| matches!(c, '<' | '>' | '=' | '^');
        let mut start = text.chars();
        match (start.next(), start.next()) {
            (Some(fill), Some(align)) if aligns(align) => {
                (spec.fill, spec.align) = (Some(fill), Some(align));
                cursor.rest = start.as_str();
            }
            (Some(align), _) if aligns(align) => {
                spec.align = Some(align);
                cursor.next();
            }
            _ => {}
        }
        if let Some(sign) = cursor.peek().filter(|c| matches!(c, '+' | '-' | ' ')) {
            spec.sign = Some(sign);
            cursor.next();
        }
        spec.alternate = cursor.take('#');
        spec.zeros = cursor.take('0');
        spec.width = cursor.number()?.unwrap_or(0);
        if let Some(grouping) = cursor.peek().filter(|c| matches!(c, ',' | '_')) {
            spec.grouping = Some(grouping);
            cursor.next();
        }
        if cursor.take('.') {
            spec.precision = Some(cursor.number()?.ok_or_else(|| format!("`{text}` has a point without a precision"))?);
        }
        spec.kind = cursor.next();
        match cursor.rest {
            "" => Ok(spec),
            _ => Err(format!("`{text}` is no format")),
        }
    }

    /// A text in its field.
    fn padded(&self, body: &str, usual: char) -> String {
        let fill = self.fill.unwrap_or(if self.zeros { '0' } else { ' ' });
        match self.align.unwrap_or(usual) {
            '<' => text::justify(body, self.width, fill, text::Align::Left),
            '^' => {
                let missing = self.width.saturating_sub(body.chars().count());
                let left = std::iter::repeat_n(fill, missing / 2);
                left.chain(body.chars()).chain(std::iter::repeat_n(fill, missing - missing / 2)).collect()
            }
            _ => text::justify(body, self.width, fill, text::Align::Right),
        }
    }

    /// A number in its field: sign and prefix, digits before the point, and the rest.
    fn number(&self, sign: &str, whole: &str, rest: &str) -> String {
        let group = if self.kind.is_some_and(|kind| "boxX".contains(kind)) { 4 } else { 3 };
        let fill = self.fill.unwrap_or(if self.zeros { '0' } else { ' ' });
        let inside = self.align == Some('=') || (self.align.is_none() && self.zeros);
        let place = self.width.saturating_sub(sign.len() + rest.len());
        if !inside {
            return self.padded(&format!("{sign}{}{rest}", grouped(whole, self.grouping, group, 0)), '>');
        }
        if fill == '0' {
            return format!("{sign}{}{rest}", grouped(whole, self.grouping, group, place));
        }
        let whole = grouped(whole, self.grouping, group, 0);
        format!("{sign}{}{rest}", text::justify(&whole, place, fill, text::Align::Right))
    }
}

/// Digits in groups, filled with zeros to a width.
fn grouped(digits: &str, mark: Option<char>, size: usize, width: usize) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric();
    let Some(mark) = mark.filter(|_| digits.chars().all(plain)) else {
        return format!("{}{digits}", "0".repeat(width.saturating_sub(digits.len())));
    };
    let mut turned = String::new();
    for (written, digit) in digits.chars().rev().chain(std::iter::repeat('0')).enumerate() {
        if written >= digits.len() && turned.len() >= width {
            break;
        }
        if written > 0 && written % size == 0 {
            turned.push(mark);
        }
        turned.push(digit);
    }
    turned.chars().rev().collect()
}

/// `format(value, spec)`.
pub fn format_value(value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return Ok(str_of(value));
    }
    let name = type_name(value);
    let read = Spec::read(spec)?;
    let wrong = || format!("`{spec}` is no format of {name}");
    if let Some(text) = value.as_str() {
        let fits = matches!(read.kind, None | Some('s')) && read.sign.is_none() && !read.alternate;
        if !fits || read.grouping.is_some() || read.align == Some('=') {
            return Err(wrong());
        }
        let cut: String = text.chars().take(read.precision.unwrap_or(usize::MAX)).collect();
        return Ok(read.padded(&cut, '<'));
    }
    let Some(number) = number(value) else { return Err(wrong()) };
    let kind = read.kind.unwrap_or(match number {
        Number::Whole(_) => 'd',
        Number::Float(_) if read.precision.is_some() => '\0',
        Number::Float(_) => 'r',
    });
    match (kind, number) {
        ('d' | 'n' | 'x' | 'X' | 'o' | 'b', Number::Whole(whole)) => {
            let commas = read.grouping == Some(',') && kind != 'd' || read.grouping.is_some() && kind == 'n';
            if read.precision.is_some() || commas {
                return Err(wrong());
            }
            let (body, prefix) = digits(whole, kind);
            let sign = sign_of(whole < 0, read.sign).to_owned() + if read.alternate { prefix } else { "" };
            Ok(read.number(&sign, &body, ""))
        }
        ('c', Number::Whole(code)) => {
            let plain = read.sign.is_none() && !read.alternate && read.grouping.is_none() && read.precision.is_none();
            let c = u32::try_from(code).ok().and_then(char::from_u32).filter(|_| plain).ok_or_else(wrong)?;
            Ok(read.padded(&c.to_string(), '<'))
        }
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%' | 'r' | '\0', number) if read.kind != Some('r') => {
            let x = match number {
                Number::Whole(whole) => whole as f64,
                Number::Float(x) => x,
            };
            let (shown, style_kind, end) = match kind {
                '%' => (x * 100.0, 'f', "%"),
                'n' => (x, 'g', ""),
                _ => (x, kind, ""),
            };
            let style = Style { kind: style_kind, precision: read.precision, alternate: read.alternate };
            let body = style.float(shown.abs());
            let cut = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
            // `nan` and `inf` are all body.
            let (whole, rest) = if x.is_finite() { body.split_at(cut) } else { (body.as_str(), "") };
            let sign = sign_of(x.is_sign_negative() && !x.is_nan(), read.sign);
            Ok(read.number(sign, whole, &format!("{rest}{end}")))
        }
        _ => Err(wrong()),
    }
}
