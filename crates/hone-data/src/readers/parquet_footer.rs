//! A look at a Parquet footer before the `parquet` crate reads it.
//!
//! The crate builds the schema's tree from a list in depth-first order, where each group states how many children follow. It
//! takes memory for as many as are stated, and calls itself for each level: a damaged count takes gigabytes, a deep tree the
//! whole stack. Both end the process, and no `catch_unwind` helps. So the counts are held against the list first.
//!
//! A footer is a struct in Thrift's compact protocol (`FileMetaData` of parquet.thrift), its length and `PAR1`. Only the
//! first list of schema elements is read here. Whatever else is wrong is for the crate to say.

use parquet::file::reader::ChunkReader;

/// Levels of a schema. A list of structs takes three a level of the data.
const MAX_DEPTH: usize = 100;
/// Levels of Thrift structs and lists that are skipped.
const MAX_SKIP: usize = 32;
/// Bytes of a footer. Files with some thousands of row groups and columns have tens of millions.
const MAX_FOOTER: u64 = 1 << 30;

const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// What is wrong with the schema of a file, if the crate must not see it.
pub(super) fn check(file: &impl ChunkReader) -> Result<(), String> {
    let length = file.len();
    let Some(tail_start) = length.checked_sub(8) else { return Ok(()) };
    let tail = file.get_bytes(tail_start, 8).map_err(|e| e.to_string())?;
    let Some((count, b"PAR1")) = tail.split_first_chunk::<4>() else { return Ok(()) };
    let size = u64::from(u32::from_le_bytes(*count));
    let Some(start) = tail_start.checked_sub(size) else { return Ok(()) };
    if size > MAX_FOOTER {
        return Err(format!("a footer of {size} bytes, at most {MAX_FOOTER} are read"));
    }
    let footer = file.get_bytes(start, size as usize).map_err(|e| e.to_string())?;
    Thrift { left: &footer }.metadata()
}

struct Thrift<'a> {
    left: &'a [u8],
}

impl Thrift<'_> {
    /// `FileMetaData`, up to field 2, the schema.
    fn metadata(&mut self) -> Result<(), String> {
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2, LIST) => return self.schema(),
                (2, other) => return Err(format!("a schema of Thrift type {other}")),
                _ => self.skip(kind, MAX_SKIP)?,
            }
        }
        Ok(())
    }

    fn schema(&mut self) -> Result<(), String> {
        let (kind, count) = self.list()?;
        if kind != STRUCT {
            return Err(format!("schema elements of Thrift type {kind}"));
        }
        let mut open: Vec<u64> = Vec::new(); // children still to come, of each group that is open
        for element in 0..count {
            let children = self.children()?;
            let after = count - element - 1;
            if children > after {
                return Err(format!("schema element {element} with {children} children, but {after} elements follow"));
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children);
            if open.len() > MAX_DEPTH {
                return Err(format!("a schema of more than {MAX_DEPTH} levels"));
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        Ok(())
    }

    /// Field 5 of a `SchemaElement`.
    fn children(&mut self) -> Result<u64, String> {
        let (mut id, mut children) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            // The crate reads these fields by their number, whatever type is stated: another type would let it and this
            // walk read different elements.
            let expected = match id {
                4 => BINARY,
                1..=9 => I32,
                10 => STRUCT,
                _ => kind,
            };
            if kind != expected {
                return Err(format!("field {id} of a schema element of Thrift type {kind}"));
            }
            if id == 5 {
                let stated = unzigzag(self.varint()?);
                children = u64::try_from(stated).map_err(|_| format!("a schema element with {stated} children"))?;
            } else {
                self.skip(kind, MAX_SKIP)?;
            }
        }
        Ok(children)
    }

    /// The type of the next field, whose number goes to `id`; nothing at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Result<Option<u8>, String> {
        let byte = self.byte()?;
        if byte & 0x0f == 0 {
            return Ok(None);
        }
        *id = match byte >> 4 {
            0 => unzigzag(self.varint()?),
            delta => id.saturating_add(i64::from(delta)),
        };
        Ok(Some(byte & 0x0f))
    }

    /// The element type and length of a list.
    fn list(&mut self) -> Result<(u8, u64), String> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        Ok((byte & 0x0f, count))
    }

    fn skip(&mut self, kind: u8, levels: usize) -> Result<(), String> {
        let Some(levels) = levels.checked_sub(1) else { return Err("a footer nested too deep".into()) };
        match kind {
            1 | 2 => Ok(()), // true and false: the value is in the type
            3 => self.take(1),
            4..=6 => self.varint().map(drop),
            7 => self.take(8),
            BINARY => {
                let length = self.varint()?;
                self.take(length)
            }
            LIST | SET => {
                let (kind, count) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(kind, levels))
            }
            MAP => {
                let count = self.varint()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, levels)?;
                    self.skip_element(kinds & 0x0f, levels)
                })
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, levels)?;
                }
                Ok(())
            }
            13 => self.take(16), // a UUID
            other => Err(format!("a field of Thrift type {other}")),
        }
    }

    /// In lists and maps a truth value is a byte of its own, so that every element takes a byte at least.
    fn skip_element(&mut self, kind: u8, levels: usize) -> Result<(), String> {
        if matches!(kind, 1 | 2) { self.take(1) } else { self.skip(kind, levels) }
    }

    fn byte(&mut self) -> Result<u8, String> {
        let (&first, rest) = self.left.split_first().ok_or("a footer that ends too early")?;
        self.left = rest;
        Ok(first)
    }

    fn take(&mut self, length: u64) -> Result<(), String> {
        let rest = usize::try_from(length).ok().and_then(|length| self.left.get(length..));
        self.left = rest.ok_or("a footer that ends too early")?;
        Ok(())
    }

    /// LEB128: seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number of more than 10 bytes".into())
    }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
