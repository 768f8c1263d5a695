//! Reading safetensors: one file, or shards named by `model.safetensors.index.json`.
//!
//! A file is eight bytes of header length, a JSON header `{name: {dtype, shape, data_offsets}}`, and the numbers. The
//! `safetensors` crate checks a header but names neither tensor nor place and lets the last of two equal names win; so the
//! header is read here, entry by entry, and the crate is asked last, as the second opinion.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use hone_engine::{DType, Tensor};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::mapped::{DenseType, MappedFile, ResidentPages};
use super::{TensorInfo, WeightSource};
use crate::error::ModelError;

/// Longest header accepted; the crate's own limit. A header is about 100 bytes a tensor.
const MAX_HEADER: u64 = 100_000_000;
/// Longest `model.safetensors.index.json` accepted.
const MAX_INDEX: u64 = 100_000_000;
const READABLE: &str = "F32, F16, BF16";

struct Entry {
    file: usize,
    stored: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// The tensors of one or more safetensors files.
pub(crate) struct SafetensorsFiles {
    files: Vec<MappedFile>,
    entries: BTreeMap<String, Entry>,
}

impl SafetensorsFiles {
    /// One file.
    pub fn open_file(path: &Path) -> Result<Self, ModelError> {
        let mut this = SafetensorsFiles { files: Vec::new(), entries: BTreeMap::new() };
        this.add(path)?;
        Ok(this)
    }

    /// The shards that `index` (a `model.safetensors.index.json`) names.
    pub fn open_index(index: &Path) -> Result<Self, ModelError> {
        let weight_map = read_index(index)?;
        let directory = index.parent().unwrap_or(Path::new("."));
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        let mut this = SafetensorsFiles { files: Vec::new(), entries: BTreeMap::new() };
        for shard in shards {
            // A shard's name is a plain file name; anything else would reach outside the model's directory.
            if Path::new(shard).file_name().is_none_or(|name| name != shard.as_str()) {
                return Err(ModelError::malformed(
                    index,
                    "weight_map",
                    format!("file `{shard}`"),
                    "names of files in the same directory; download the model again",
                ));
            }
            this.add(&directory.join(shard))?;
        }
        for (tensor, shard) in &weight_map {
            let found = this.entries.get(tensor).map(|e| this.files[e.file].path.clone());
            if found.as_deref() != Some(&directory.join(shard)) {
                let found = found.map_or("no such tensor there".to_owned(), |p| format!("it in {}", p.display()));
                return Err(ModelError::malformed(
                    index,
                    format!("weight_map entry `{tensor}`"),
                    found,
                    format!("it in {shard}; the shards and the index belong to different downloads"),
                ));
            }
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let file = MappedFile::open(path)?;
        let index = self.files.len();
        for (name, header) in read_header(&file)? {
            if let Some(other) = self.entries.get(&name) {
                let first = self.files[other.file].path.display();
                return Err(ModelError::malformed(
                    path,
                    format!("tensor `{name}`"),
                    format!("the same name in {first}"),
                    "every tensor in one shard only; download the model again",
                ));
            }
            let entry = Entry { file: index, stored: header.dtype, shape: header.shape, range: header.range };
            self.entries.insert(name, entry);
        }
        self.files.push(file);
        Ok(())
    }
}

impl WeightSource for SafetensorsFiles {
    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo<'_>> {
        let entry = self.entries.get(name)?;
        Some(TensorInfo { shape: &entry.shape, file: &self.files[entry.file].path })
    }

    fn load(&self, name: &str, dtype: DType) -> Result<Option<Tensor>, ModelError> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let file = &self.files[entry.file];
        let stored = match entry.stored.as_str() {
            "F32" => DenseType::F32,
            "F16" => DenseType::F16,
            "BF16" => DenseType::BF16,
            _ => {
                return Err(ModelError::TensorType {
                    path: file.path.clone(),
                    name: name.to_owned(),
                    found: entry.stored.clone(),
                    known: READABLE.to_owned(),
                });
            }
        };
        Ok(Some(file.tensor(entry.range.clone(), &entry.shape, stored, dtype)))
    }

    fn done_with(&self, name: &str) {
        if let Some(entry) = self.entries.get(name) {
            self.files[entry.file].let_go(entry.range.clone());
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.iter().map(|f| f.path.clone()).collect()
    }

    fn resident_pages(&self) -> ResidentPages {
        ResidentPages::of(&self.files)
    }
}

fn read_index(path: &Path) -> Result<HashMap<String, String>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let size = std::fs::metadata(path).map_err(ModelError::io(path))?.len();
    if size > MAX_INDEX {
        let expected = format!("at most {MAX_INDEX}; this is no index of shards");
        return Err(ModelError::malformed(path, "size", format!("{size} bytes"), expected));
    }
    let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
    let index: Index = serde_json::from_str(&text).map_err(|e| {
        let expected = "`{\"weight_map\": {tensor: file}}`; download the model again";
        ModelError::malformed(path, "index", e.to_string(), expected)
    })?;
    Ok(index.weight_map)
}

/// One entry of a header, its range counted from the start of the file.
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

fn read_header(file: &MappedFile) -> Result<Vec<(String, HeaderEntry)>, ModelError> {
    let bytes = file.bytes();
    let bad = |place: &str, found: String, expected: &str| ModelError::malformed(&file.path, place, found, expected);
    let again = "the download is incomplete or damaged: fetch the file again";

    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let found = format!("{} bytes in all", bytes.len());
        return Err(bad("header length", found, &format!("at least 8 bytes; {again}")));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let expected = format!("at most {MAX_HEADER}; this is no safetensors file, or it is damaged");
        return Err(bad("header length", format!("{length} bytes"), &expected));
    }
    let Some(header) = rest.get(..length as usize) else {
        let found = format!("{length} bytes in a file of {}", bytes.len());
        return Err(bad("header length", found, &format!("a header inside the file; {again}")));
    };
    let Entries(entries) = serde_json::from_slice(header)
        .map_err(|e| bad("header", e.to_string(), "JSON of the safetensors format; fetch the file again"))?;

    let data_start = 8 + length as usize;
    let data_length = bytes.len() - data_start;
    let mut seen = HashMap::with_capacity(entries.len());
    let mut out: Vec<(String, HeaderEntry)> = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        if seen.insert(name.clone(), ()).is_some() {
            let expected = "every name once; write the file again with the safetensors library";
            return Err(bad(&format!("tensor `{name}`"), "the same name twice".to_owned(), expected));
        }
        if name == "__metadata__" {
            continue;
        }
        let place = format!("tensor `{name}`");
        let raw: RawEntry = serde_json::from_value(value).map_err(|e| {
            bad(
                &place,
                e.to_string(),
                "`dtype` (a text), `shape` and `data_offsets` (whole numbers); fetch the file again",
            )
        })?;
        let (start, end) = raw.data_offsets;
        if start > end || end > data_length {
            let found = format!("data_offsets [{start}, {end}]");
            let expected = format!("a range inside the {data_length} bytes of data; {again}");
            return Err(bad(&place, found, &expected));
        }
        if let Some(bits) = dtype_bits(&raw.dtype) {
            let elements = raw.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let expected = elements.and_then(|n| n.checked_mul(bits)).map(|n| n.div_ceil(8));
            if expected != Some(end - start) {
                let found = format!("{} bytes", end - start);
                let needed = expected.map_or("more than can be addressed".to_owned(), |n| format!("{n}"));
                let expected = format!("{needed} for {} {:?}; fetch the file again", raw.dtype, raw.shape);
                return Err(bad(&place, found, &expected));
            }
        }
        let range = data_start + start..data_start + end;
        out.push((name, HeaderEntry { dtype: raw.dtype, shape: raw.shape, range }));
    }

    let mut by_start: Vec<&(String, HeaderEntry)> = out.iter().collect();
    by_start.sort_by_key(|(_, e)| (e.range.start, e.range.end));
    let mut end = data_start;
    let mut before = "the header";
    for (name, entry) in by_start {
        if entry.range.start != end {
            let what = if entry.range.start < end { "overlaps" } else { "leaves a gap after" };
            let found = format!("data_offsets starting at {}: {what} {before}", entry.range.start - data_start);
            let expected = format!("{}, where {before} ends; fetch the file again", end - data_start);
            return Err(bad(&format!("tensor `{name}`"), found, &expected));
        }
        end = entry.range.end;
        before = name;
    }
    if end != bytes.len() {
        let found = format!("{} bytes after the last tensor", bytes.len() - end);
        return Err(bad("end of file", found, "none; the file is damaged: fetch it again"));
    }
    safetensors::SafeTensors::read_metadata(bytes).map_err(|e| {
        bad("header", e.to_string(), "a header that the safetensors library accepts; fetch the file again")
    })?;
    Ok(out)
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Bits an element takes, of the types whose size is checked here; the crate checks the rest.
fn dtype_bits(name: &str) -> Option<usize> {
    Some(match name {
        "F64" | "I64" | "U64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => 8,
        _ => return None,
    })
}

/// The header's entries in the file's order, equal names kept apart.
struct Entries(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
