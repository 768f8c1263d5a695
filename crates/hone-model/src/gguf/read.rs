//! Bytes to [`Gguf`]. Nothing is believed: every count is held against a limit and against the bytes that are left
//! before memory is taken for it.

use std::collections::HashMap;

use hone_engine::quant::BlockType;

use super::{Gguf, TensorEntry, Value, ValueType};
use crate::error::ModelError;
use crate::weights::mapped::MappedFile;

/// Key–value pairs. Real files have a few dozen.
const MAX_KEYS: u64 = 65_536;
/// Bytes of a key; the format's own limit.
const MAX_KEY: u64 = 65_535;
/// Bytes of a text. The longest in real files are chat templates, some ten thousand bytes.
const MAX_TEXT: u64 = 16 << 20;
/// Elements of an array. The longest in real files are merges, half a million.
const MAX_ARRAY: u64 = 1 << 22;
/// Elements of all arrays together.
const MAX_ELEMENTS: u64 = 1 << 24;
/// Tensors. The largest models have some thousands.
const MAX_TENSORS: u64 = 65_536;
/// Bytes of a tensor's name; ggml's limit is 64.
const MAX_NAME: u64 = 1_024;
/// Axes of a tensor; ggml's limit.
const MAX_AXES: u32 = 4;
const MAX_ALIGNMENT: u64 = 1 << 20;
const AGAIN: &str = "the file is incomplete or damaged: fetch it again";

pub(super) fn read(file: MappedFile) -> Result<Gguf, ModelError> {
    let mut cursor = Cursor { file: &file, at: 0, elements: 0 };
    let magic = cursor.take(4, || "magic".to_owned())?;
    if magic != b"GGUF" {
        return Err(cursor.bad("magic", format!("bytes {magic:02x?}"), "`GGUF`; this is no GGUF file"));
    }
    let version = cursor.u32("version")?;
    if !(2..=3).contains(&version) {
        let what = if version.swap_bytes() <= 3 { " (a big-endian file)" } else { "" };
        let expected = "2 or 3, little-endian; convert the model again with a current converter";
        return Err(cursor.bad("version", format!("{version}{what}"), expected));
    }
    let tensor_count = cursor.count("tensor count", MAX_TENSORS)?;
    let key_count = cursor.count("key count", MAX_KEYS)?;

    let mut metadata: Vec<(String, Value)> = Vec::new();
    let mut by_key = HashMap::new();
    for i in 0..key_count {
        let key = cursor.text(|| format!("key {i}"), MAX_KEY)?;
        let place = format!("metadata `{key}`");
        let kind = cursor.value_type(&place)?;
        let value = cursor.value(&place, kind)?;
        if by_key.insert(key.clone(), metadata.len()).is_some() {
            return Err(cursor.bad(&place, "the same key twice".to_owned(), "every key once; convert the model again"));
        }
        metadata.push((key, value));
    }

    let mut rows = Vec::new();
    for i in 0..tensor_count {
        rows.push(cursor.tensor_row(i)?);
    }
    let header_end = cursor.at;

    let mut gguf = Gguf { file: file.clone(), version, metadata, by_key, tensors: Vec::new() };
    let alignment = gguf.unsigned("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        let expected = format!("a power of two up to {MAX_ALIGNMENT}; convert the model again");
        return Err(cursor.bad("metadata `general.alignment`", alignment.to_string(), &expected));
    }
    let data_start = header_end.next_multiple_of(alignment as usize);
    gguf.tensors = rows
        .into_iter()
        .map(|row| place_tensor(&file, row, data_start, alignment))
        .collect::<Result<Vec<TensorEntry>, ModelError>>()?;
    check_apart(&gguf)?;
    Ok(gguf)
}

struct TensorRow {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// Where a tensor lies in the file.
fn place_tensor(
    file: &MappedFile,
    row: TensorRow,
    data_start: usize,
    alignment: u64,
) -> Result<TensorEntry, ModelError> {
    let place = format!("tensor `{}`", row.name);
    let bad = |found: String, expected: String| ModelError::malformed(&file.path, &place, found, expected);
    let kind = BlockType::from_ggml(row.kind).map_err(|_| ModelError::TensorType {
        path: file.path.clone(),
        name: row.name.clone(),
        found: format!("ggml type {}", row.kind),
        known: BlockType::ALL.map(BlockType::name).join(", "),
    })?;
    let columns = row.shape.last().copied().unwrap_or(1);
    let row_bytes =
        kind.row_bytes(columns).map_err(|e| bad(e.to_string(), "whole blocks; convert it again".to_owned()))?;
    let rows = row.shape.iter().rev().skip(1).product::<usize>();
    let size = row_bytes
        .checked_mul(rows)
        .ok_or_else(|| bad(format!("shape {:?}", row.shape), format!("a size that can be addressed; {AGAIN}")))?;
    if !row.offset.is_multiple_of(alignment) {
        return Err(bad(format!("offset {}", row.offset), format!("a multiple of {alignment}; {AGAIN}")));
    }
    let start = usize::try_from(row.offset).ok().and_then(|offset| offset.checked_add(data_start));
    let end = start.and_then(|start| start.checked_add(size));
    match (start, end) {
        (Some(start), Some(end)) if end <= file.bytes().len() => {
            Ok(TensorEntry { name: row.name, shape: row.shape, kind, range: start..end })
        }
        _ => Err(bad(
            format!("{size} bytes at offset {} of the data", row.offset),
            format!("a range inside the {} bytes of data; {AGAIN}", file.bytes().len().saturating_sub(data_start)),
        )),
    }
}

/// No name twice, no byte in two tensors.
fn check_apart(gguf: &Gguf) -> Result<(), ModelError> {
    let bad = |name: &str, found: String, expected: &str| {
        Err(ModelError::malformed(gguf.path(), format!("tensor `{name}`"), found, expected))
    };
    let mut names = std::collections::HashSet::new();
    for tensor in &gguf.tensors {
        if !names.insert(tensor.name.as_str()) {
            return bad(&tensor.name, "the same name twice".to_owned(), "every name once; convert the model again");
        }
    }
    let mut by_start: Vec<&TensorEntry> = gguf.tensors.iter().filter(|t| !t.range.is_empty()).collect();
    by_start.sort_by_key(|t| t.range.start);
    for pair in by_start.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let found = format!("bytes that overlap those of `{}`", pair[0].name);
            return bad(&pair[1].name, found, "bytes of its own; the file is damaged: fetch it again");
        }
    }
    Ok(())
}

struct Cursor<'a> {
    file: &'a MappedFile,
    at: usize,
    /// Elements of all arrays so far.
    elements: u64,
}

impl<'a> Cursor<'a> {
    fn bad(&self, place: &str, found: String, expected: &str) -> ModelError {
        ModelError::malformed(&self.file.path, place, found, expected)
    }

    fn left(&self) -> usize {
        self.file.bytes().len() - self.at
    }

    fn take(&mut self, length: usize, place: impl FnOnce() -> String) -> Result<&'a [u8], ModelError> {
        let Some(bytes) = self.file.bytes()[self.at..].get(..length) else {
            let found = format!("{} bytes left at offset {}", self.left(), self.at);
            return Err(self.bad(&place(), found, &format!("{length}; {AGAIN}")));
        };
        self.at += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, place: impl FnOnce() -> String) -> Result<[u8; N], ModelError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, place)?);
        Ok(out)
    }

    fn u32(&mut self, place: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(|| place.to_owned())?))
    }

    fn count(&mut self, place: &str, limit: u64) -> Result<u64, ModelError> {
        let count = u64::from_le_bytes(self.array(|| place.to_owned())?);
        if count > limit {
            return Err(self.bad(place, count.to_string(), &format!("at most {limit}; {AGAIN}")));
        }
        Ok(count)
    }

    fn text(&mut self, place: impl Fn() -> String, limit: u64) -> Result<String, ModelError> {
        let length = u64::from_le_bytes(self.array(&place)?);
        if length > limit {
            return Err(self.bad(&place(), format!("{length} bytes of text"), &format!("at most {limit}; {AGAIN}")));
        }
        let bytes = self.take(length as usize, &place)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(self.bad(&place(), e.to_string(), &format!("text in UTF-8; {AGAIN}"))),
        }
    }

    fn value_type(&mut self, place: &str) -> Result<ValueType, ModelError> {
        let number = self.u32(place)?;
        ValueType::from_number(number)
            .ok_or_else(|| self.bad(place, format!("value type {number}"), &format!("a type from 0 to 12; {AGAIN}")))
    }

    fn value(&mut self, place: &str, kind: ValueType) -> Result<Value, ModelError> {
        let here = || place.to_owned();
        Ok(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array(here)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array(here)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array(here)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array(here)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.array(here)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array(here)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.array(here)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array(here)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array(here)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array(here)?)),
            ValueType::Bool => match self.array(here)? {
                [0u8] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    return Err(self.bad(place, format!("{other} as true or false"), &format!("0 or 1; {AGAIN}")));
                }
            },
            ValueType::Text => Value::Text(self.text(here, MAX_TEXT)?),
            ValueType::Array => self.array_value(place)?,
        })
    }

    fn array_value(&mut self, place: &str) -> Result<Value, ModelError> {
        let kind = self.value_type(place)?;
        if kind == ValueType::Array {
            return Err(self.bad(place, "an array of arrays".to_owned(), "a flat array; convert the model again"));
        }
        let count = self.count(place, MAX_ARRAY)?;
        self.elements += count;
        if self.elements > MAX_ELEMENTS {
            let expected = format!("at most {MAX_ELEMENTS} in all arrays; {AGAIN}");
            return Err(self.bad(place, format!("{} array elements so far", self.elements), &expected));
        }
        if count as usize * kind.least_bytes() > self.left() {
            let found = format!("{count} elements in {} bytes that are left", self.left());
            return Err(self.bad(place, found, &format!("elements inside the file; {AGAIN}")));
        }
        let values = (0..count).map(|_| self.value(place, kind)).collect::<Result<Vec<_>, _>>()?;
        Ok(Value::Array(kind, values))
    }

    fn tensor_row(&mut self, index: u64) -> Result<TensorRow, ModelError> {
        let name = self.text(|| format!("tensor {index}"), MAX_NAME)?;
        let place = format!("tensor `{name}`");
        let axes = self.u32(&place)?;
        if axes == 0 || axes > MAX_AXES {
            return Err(self.bad(&place, format!("{axes} axes"), &format!("1 to {MAX_AXES}; {AGAIN}")));
        }
        let mut shape = Vec::with_capacity(axes as usize);
        for _ in 0..axes {
            let axis = u64::from_le_bytes(self.array(|| place.clone())?);
            shape.push(usize::try_from(axis).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        if elements.is_none_or(|n| n == 0 || n > isize::MAX as usize / 4) {
            let expected = format!("axes that are not empty and can be addressed; {AGAIN}");
            return Err(self.bad(&place, format!("shape {shape:?}"), &expected));
        }
        let kind = self.u32(&place)?;
        let offset = u64::from_le_bytes(self.array(|| place.clone())?);
        Ok(TensorRow { name, shape, kind, offset })
    }
}
