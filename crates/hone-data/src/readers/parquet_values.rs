//! Values of Parquet that JSON has no kind of, as Python prints what pyarrow makes of them: `datetime`, `date`, `time`, `Decimal`, `bytes`
//! and floats that are not finite become texts, `2020-01-01 00:00:00+00:00` or `b'\xff'`. All others are what they are in JSON.
//!
//! The kinds come from the schema of the file, since the row reader leaves out whether a time is in UTC, and nanoseconds.
//!
//! What it does not know: pyarrow's own schema beside that of Parquet. So times of a zone are those of UTC, durations the number that is
//! stored, and times of 12 bytes (INT96) end at milliseconds, as the row reader gives them. A map is an object.

use parquet::basic::{LogicalType, TimeUnit};
use parquet::data_type::Decimal;
use parquet::record::{Field, Row as Record};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Number, Value};

use super::Row;
use super::civil::{date_and_time_text, date_text, time_text};

/// A row's columns. `schema` is the file's.
pub(super) fn python_row(record: &Record, schema: &Type) -> Row {
    record.get_column_iter().map(|(name, field)| (name.clone(), value(field, member(schema, name)))).collect()
}

/// The types of a group's members; of what is no group, none.
fn members(of: &Type) -> &[TypePtr] {
    if of.is_group() { of.get_fields() } else { &[] }
}

/// The type of a member of a group.
fn member<'t>(group: &'t Type, name: &str) -> Option<&'t Type> {
    members(group).iter().find(|field| field.name() == name).map(AsRef::as_ref)
}

/// The type of a list's items: the group of a list holds a repeated group, and that the items, or it is the items itself.
fn items(list: &Type) -> Option<&Type> {
    let repeated = members(list).first()?;
    match members(repeated) {
        [only] => Some(only.as_ref()),
        _ => Some(repeated.as_ref()),
    }
}

fn value(field: &Field, of: Option<&Type>) -> Value {
    let logical = of.and_then(|of| of.get_basic_info().logical_type_ref());
    if let (Some(count), Some(LogicalType::Timestamp(kind))) = (whole(field), logical) {
        let (seconds, nanosecond) = split(count, &kind.unit);
        let zone = if kind.is_adjusted_to_u_t_c { "+00:00" } else { "" };
        return Value::String(date_and_time_text(seconds, nanosecond) + zone);
    }
    if let (Some(count), Some(LogicalType::Time(kind))) = (whole(field), logical) {
        let (seconds, nanosecond) = split(count, &kind.unit);
        // Python's times of day have no nanoseconds.
        return Value::String(time_text(seconds, nanosecond / 1000 * 1000));
    }
    match field {
        Field::Float16(number) => float(f64::from(*number)),
        Field::Float(number) => float(f64::from(*number)),
        Field::Double(number) => float(*number),
        Field::Decimal(number) => Value::String(decimal(number)),
        Field::Bytes(bytes) => Value::String(bytes_text(bytes.data())),
        Field::Date(day) => Value::String(date_text(i64::from(*day))),
        Field::TimeMillis(count) => {
            let (seconds, nanosecond) = split(i64::from(*count), &TimeUnit::MILLIS);
            Value::String(time_text(seconds, nanosecond))
        }
        Field::TimeMicros(count) => {
            let (seconds, nanosecond) = split(*count, &TimeUnit::MICROS);
            Value::String(time_text(seconds, nanosecond))
        }
        // Without a logical type: files of before there were any (by their rules in UTC), and INT96, which has no zone.
        Field::TimestampMillis(count) => {
            let (seconds, nanosecond) = split(*count, &TimeUnit::MILLIS);
            let old = of.is_some_and(|of| of.is_primitive() && of.get_physical_type() == parquet::basic::Type::INT64);
            Value::String(date_and_time_text(seconds, nanosecond) + if old { "+00:00" } else { "" })
        }
        Field::TimestampMicros(count) => {
            let (seconds, nanosecond) = split(*count, &TimeUnit::MICROS);
            Value::String(date_and_time_text(seconds, nanosecond) + "+00:00")
        }
        Field::Group(record) => Value::Object(
            record
                .get_column_iter()
                .map(|(name, field)| (name.clone(), value(field, of.and_then(|of| member(of, name)))))
                .collect(),
        ),
        Field::ListInternal(list) => {
            let of = of.and_then(items);
            Value::Array(list.elements().iter().map(|item| value(item, of)).collect())
        }
        other => other.to_json_value(),
    }
}

/// The count of a time as it is stored.
fn whole(field: &Field) -> Option<i64> {
    match field {
        Field::Int(count) | Field::TimeMillis(count) => Some(i64::from(*count)),
        Field::Long(count)
        | Field::TimeMicros(count)
        | Field::TimestampMillis(count)
        | Field::TimestampMicros(count) => Some(*count),
        _ => None,
    }
}

/// Seconds, and nanoseconds of the second.
fn split(count: i64, unit: &TimeUnit) -> (i64, u32) {
    let second = match unit {
        TimeUnit::MILLIS => 1000,
        TimeUnit::MICROS => 1_000_000,
        TimeUnit::NANOS => 1_000_000_000,
    };
    (count.div_euclid(second), (count.rem_euclid(second) * (1_000_000_000 / second)) as u32)
}

/// A number, or `nan`, `inf` and `-inf`.
fn float(number: f64) -> Value {
    let text = || {
        if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
    };
    Number::from_f64(number).map_or_else(|| Value::String(text().into()), Value::Number)
}

/// `str(Decimal)`: with an exponent only for numbers below a millionth, and for those that end before the point.
fn decimal(number: &Decimal) -> String {
    let (negative, digits) = digits(number.data());
    let exponent = -i64::from(number.scale());
    let sign = if negative { "-" } else { "" };
    let leading = exponent + digits.len() as i64 - 1;
    if exponent > 0 || leading < -6 {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        return format!("{sign}{first}{point}{rest}E{leading:+}");
    }
    let behind = exponent.unsigned_abs() as usize;
    if behind == 0 {
        return format!("{sign}{digits}");
    }
    let padded = format!("{digits:0>width$}", width = behind + 1);
    let (before, after) = padded.split_at(padded.len() - behind);
    format!("{sign}{before}.{after}")
}

/// The decimal digits of a whole number of any length in two's complement, the highest byte first; whether it is below 0.
fn digits(bytes: &[u8]) -> (bool, String) {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|&byte| byte != 0) {
        let mut rest = 0;
        for byte in &mut magnitude {
            let value = rest * 256 + u32::from(*byte);
            *byte = (value / 10) as u8;
            rest = value % 10;
        }
        digits.push(char::from(b'0' + rest as u8));
    }
    if digits.is_empty() {
        digits.push('0');
    }
    (negative, digits.iter().rev().collect())
}

/// `repr(bytes)`.
fn bytes_text(bytes: &[u8]) -> String {
    let mark = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut text = format!("b{mark}");
    for &byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            _ if char::from(byte) == mark => text.extend(['\\', mark]),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push(mark);
    text
}

#[cfg(test)]
mod tests {
    use parquet::data_type::ByteArray;

    use super::*;

    #[test]
    fn decimals_print_as_in_python() {
        let of = |bytes: Vec<u8>, scale| decimal(&Decimal::from_bytes(ByteArray::from(bytes), 38, scale));
        assert_eq!(of(vec![0, 150], 2), "1.50");
        assert_eq!(of(vec![0xff], 2), "-0.01");
        assert_eq!(of(vec![0; 16], 10), "0E-10");
        assert_eq!(of(vec![0, 0, 1], 10), "1E-10");
        assert_eq!(of(vec![0, 123], 9), "1.23E-7");
        assert_eq!(of(vec![0, 123], 8), "0.00000123");
        assert_eq!(of(vec![0x80, 0], 0), "-32768");
        assert_eq!(of(vec![12], -2), "1.2E+3");
        assert_eq!(of(Vec::new(), 0), "0");
    }

    #[test]
    fn numbers_without_a_value_are_named() {
        assert_eq!(float(f64::NAN), "nan");
        assert_eq!(float(f64::NEG_INFINITY), "-inf");
        assert_eq!(float(0.5), 0.5);
    }
}
