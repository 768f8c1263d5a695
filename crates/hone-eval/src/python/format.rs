//! Texts made by Python's `%` operator and `str.format`, with the fields of both: width, sign, zeros, precision, grouping.
//!
//! ```text
//! '%05.2f' % x        % [(key)] [#0- +] [width] [.precision] type
//! '{x:*>8.2f}'        { [name] [!conversion] [: [[fill]align] [sign] [#] [0] [width] [grouping] [.precision] [type]] }
//! ```
//!
//! Grammar: the Python library reference, "printf-style String Formatting" and "Format String Syntax".
//!
//! What it does not know: attributes of values (`{0.real}`), and widths beyond [`MOST`], which are refused.

mod braces;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::literal::{repr, str_of};
pub use braces::{format_value, str_format};

/// The widest field and the highest precision: formats come from outside.
pub const MOST: usize = 10_000;

type Result<T> = std::result::Result<T, String>;

/// A number as fields see it.
enum Number {
    Whole(i128),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Whole(value.is_true().into())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Whole),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
        _ => None,
    }
}

/// The name of a value's type in Python.
pub fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Map => "dict",
        _ if value.is_tuple() => "tuple",
        _ => "list",
    }
}

/// `ascii(value)`: as `repr`, with escapes for everything beyond ASCII.
fn ascii(value: &Value) -> String {
    let escaped = |c: char| match c as u32 {
        0..=0x7f => c.to_string(),
        code @ 0x80..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    };
    repr(value).chars().map(escaped).collect()
}

/// How a number is written.
struct Style {
    /// The conversion; `'r'` for the shortest digits that read back, `'\0'` for those of a precision without a type.
    kind: char,
    precision: Option<usize>,
    alternate: bool,
}

impl Style {
    /// A float without its sign.
    fn float(&self, x: f64) -> String {
        let upper = self.kind.is_ascii_uppercase();
        let case = |text: String| if upper { text.to_uppercase() } else { text };
        if !x.is_finite() {
            return case(if x.is_nan() { "nan".into() } else { "inf".into() });
        }
        let x = x.abs();
        let point = |mut text: String, alternate: bool| {
            if alternate && !text.contains('.') {
                text.push('.');
            }
            text
        };
        let exponential = |mantissa: &str, exponent: i32| format!("{mantissa}e{exponent:+03}");
        let precision = self.precision.unwrap_or(6);
        case(match self.kind.to_ascii_lowercase() {
            'f' => point(format!("{x:.precision$}"), self.alternate),
            'e' => {
                let (mantissa, exponent) = scientific(x, precision);
                exponential(&point(mantissa, self.alternate), exponent)
            }
            'r' => str_of(&Value::from(x)),
            kind => {
                // A precision without a type always shows a digit after the point, so the exponent comes one place earlier.
                let general = kind == 'g';
                let digits = precision.max(1);
                let (mantissa, exponent) = scientific(x, digits - 1);
                let limit = digits as i32 - i32::from(!general);
                let stripped = |text: String| match self.alternate || !text.contains('.') {
                    true => point(text, self.alternate),
                    false => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                };
                if exponent < -4 || exponent >= limit {
                    return case(exponential(&stripped(mantissa), exponent));
                }
                let places = (digits as i32 - 1 - exponent).max(0) as usize;
                let fixed = stripped(format!("{x:.places$}"));
                if general || fixed.contains('.') { fixed } else { fixed + ".0" }
            }
        })
    }
}

/// Mantissa and exponent with `places` digits after the point.
fn scientific(x: f64, places: usize) -> (String, i32) {
    let text = format!("{x:.places$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.to_owned(), exponent.parse().unwrap_or(0))
}

/// Digits of a whole number in the base of a conversion, without sign.
fn digits(x: i128, kind: char) -> (String, &'static str) {
    let x = x.unsigned_abs();
    match kind {
        'x' => (format!("{x:x}"), "0x"),
        'X' => (format!("{x:X}"), "0X"),
        'o' => (format!("{x:o}"), "0o"),
        'b' => (format!("{x:b}"), "0b"),
        _ => (x.to_string(), ""),
    }
}

fn sign_of(negative: bool, asked: Option<char>) -> &'static str {
    match (negative, asked) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

/// Reads a format from its start.
struct Cursor<'t> {
    rest: &'t str,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    /// A number of ASCII digits, if there is one.
    fn number(&mut self) -> Result<Option<usize>> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        if digits.is_empty() {
            return Ok(None);
        }
        self.rest = rest;
        digits.parse().ok().filter(|n| *n <= MOST).map(Some).ok_or_else(|| too_wide(digits))
    }
}

fn too_wide(found: impl std::fmt::Display) -> String {
    format!("a format asks for a width or precision of {found}; at most {MOST} are written")
}

/// `format % values`: a tuple is several values, anything else is one.
pub fn percent(format: &str, values: &Value) -> Result<String> {
    let several: Vec<Value> = match values.is_tuple() {
        true => values.try_iter().into_iter().flatten().collect(),
        false => vec![values.clone()],
    };
    // Python counts lists as mappings here, so it lets them go unused.
    let mapping = matches!(values.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) && !values.is_tuple();
    let mut left = several.into_iter();
    let mut next = || left.next().ok_or_else(|| format!("not enough values for the format {format:?}"));
    let mut out = String::new();
    let mut cursor = Cursor { rest: format };
    while let Some(c) = cursor.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let keyed = match cursor.take('(') {
            true => Some(keyed(&mut cursor, values, format)?),
            false => None,
        };
        let (mut left_aligned, mut zeros, mut alternate, mut sign) = (false, false, false, None);
        while let Some(c) = cursor.peek() {
            match c {
                '-' => left_aligned = true,
                '0' => zeros = true,
                '#' => alternate = true,
                '+' => sign = Some('+'),
                ' ' => sign = sign.or(Some(' ')),
                _ => break,
            }
            cursor.next();
        }
        let mut star = |cursor: &mut Cursor<'_>| -> Result<Option<i64>> {
            if !cursor.take('*') {
                return Ok(cursor.number()?.map(|n| n as i64));
            }
            let value = next()?;
            let given = i64::try_from(value.clone()).map_err(|_| format!("* wants int, not {}", type_name(&value)))?;
            if given.unsigned_abs() > MOST as u64 { Err(too_wide(given)) } else { Ok(Some(given)) }
        };
        let width = star(&mut cursor)?.unwrap_or(0);
        left_aligned |= width < 0;
        let width = width.unsigned_abs() as usize;
        let precision = match cursor.take('.') {
            true => Some(star(&mut cursor)?.unwrap_or(0).max(0) as usize),
            false => None,
        };
        if matches!(cursor.peek(), Some('h' | 'l' | 'L')) {
            cursor.next();
        }
        let Some(kind) = cursor.next() else { return Err(format!("incomplete format {format:?}")) };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match keyed {
            Some(value) => value,
            None => next()?,
        };
        if value.is_undefined() {
            return Err(format!("a value of the format {format:?} is missing"));
        }
        let style = Style { kind, precision, alternate };
        let (sign, prefix, body) = percent_field(&value, &style, sign)?;
        let length = sign.len() + prefix.len() + body.chars().count();
        let missing = width.saturating_sub(length);
        let fill = |c: &str| c.repeat(missing);
        out.push_str(&match (left_aligned, zeros && !"srac".contains(kind)) {
            (true, _) => format!("{sign}{prefix}{body}{}", fill(" ")),
            (false, true) => format!("{sign}{prefix}{}{body}", fill("0")),
            (false, false) => format!("{}{sign}{prefix}{body}", fill(" ")),
        });
    }
    match left.next() {
        Some(_) if !mapping => Err(format!("more values than the format {format:?} has fields")),
        _ => Ok(out),
    }
}

/// The value that `%(key)` names; the cursor stands after the bracket.
fn keyed(cursor: &mut Cursor<'_>, values: &Value, format: &str) -> Result<Value> {
    let mut depth = 1;
    let mut key = String::new();
    loop {
        let Some(c) = cursor.next() else { return Err(format!("incomplete key in the format {format:?}")) };
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 {
            break;
        }
        key.push(c);
    }
    if values.kind() != ValueKind::Map {
        return Err(format!("the format {format:?} names `{key}`, and its values are no mapping"));
    }
    let found = values.get_item(&Value::from(key.as_str())).ok().filter(|value| !value.is_undefined());
    found.ok_or_else(|| format!("the format {format:?} names `{key}`, which is not there"))
}

/// Sign, prefix and body of a field of `%`.
fn percent_field(value: &Value, style: &Style, sign: Option<char>) -> Result<(&'static str, &'static str, String)> {
    let kind = style.kind;
    let cut = |text: String| match style.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    };
    let wrong = |wanted: &str| format!("%{kind} wants {wanted}, not {}", type_name(value));
    match kind {
        's' => Ok(("", "", cut(str_of(value)))),
        'r' => Ok(("", "", cut(repr(value)))),
        'a' => Ok(("", "", cut(ascii(value)))),
        'c' => {
            let one = match (value.as_str(), number(value)) {
                (Some(text), _) => text.chars().next().filter(|_| text.chars().count() == 1),
                (None, Some(Number::Whole(code))) => u32::try_from(code).ok().and_then(char::from_u32),
                _ => None,
            };
            one.map(|c| ("", "", c.to_string())).ok_or_else(|| wrong("a character or its number"))
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let whole = match number(value) {
                Some(Number::Whole(whole)) => whole,
                // Beyond 2^127 the digits of a float are not those of the integer; nobody writes such numbers.
                Some(Number::Float(x)) if "diu".contains(kind) && x.abs() < 1e38 => x.trunc() as i128,
                _ => return Err(wrong("a number")),
            };
            let (body, prefix) = digits(whole, kind);
            let zeros = "0".repeat(style.precision.unwrap_or(0).saturating_sub(body.len()));
            let prefix = if style.alternate { prefix } else { "" };
            Ok((sign_of(whole < 0, sign), prefix, zeros + &body))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let x = match number(value) {
                Some(Number::Whole(whole)) => whole as f64,
                Some(Number::Float(x)) => x,
                None => return Err(wrong("a number")),
            };
            Ok((sign_of(x.is_sign_negative() && !x.is_nan(), sign), "", style.float(x)))
        }
        other => Err(format!("`%{other}` is no field of a format")),
    }
}
