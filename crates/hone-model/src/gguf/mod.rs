//! GGUF files: what a header says, and the way between GGUF's names, layouts and keys and Hugging Face's.
//!
//! A GGUF file is a header of typed key–value pairs (architecture, tokenizer, chat template), a table of tensors, and the
//! numbers, each tensor at a multiple of `general.alignment` bytes
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; versions 2 and 3, little-endian).
//!
//! - [`read`]: bytes to [`Gguf`], with a limit on everything that a damaged file could inflate.
//! - [`names`]: `blk.3.attn_q.weight` and `model.layers.3.self_attn.q_proj.weight`, and the two differences in layout.
//! - [`config`]: metadata to a `config.json`, and back.
//! - [`source`]: the tensors as a [`crate::weights::WeightFiles`].
//! - [`write`]: a file from pairs and tensors.
//! - [`adapter`]: a LoRA as a file of its own.
//! - [`tokens`]: a tokenizer's metadata, to be written.
//!
//! It knows nothing of tokenizers beyond handing out their metadata; see [`crate::tokenizer`].

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use hone_engine::quant::BlockType;

use crate::error::ModelError;
use crate::weights::mapped::MappedFile;

pub mod adapter;
pub mod config;
pub mod names;
mod read;
pub(crate) mod source;
pub(crate) mod tokens;
mod value;
pub(crate) mod write;

#[cfg(test)]
mod tests;

pub use value::{Value, ValueType};

/// An opened GGUF file: its metadata and its table of tensors, the numbers mapped.
pub struct Gguf {
    pub(crate) file: MappedFile,
    /// Format version, 2 or 3.
    pub version: u32,
    /// Key–value pairs in the file's order.
    pub metadata: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
    /// Tensors in the file's order.
    pub tensors: Vec<TensorEntry>,
}

/// One row of the table of tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// GGUF's name, `blk.3.attn_q.weight`.
    pub name: String,
    /// As Hugging Face has it, outermost first (`[out, in]`): GGUF's order reversed.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub kind: BlockType,
    /// Where they are, counted from the start of the file.
    pub range: Range<usize>,
}

impl Gguf {
    /// Opens and checks a file.
    pub fn open(path: &Path) -> Result<Gguf, ModelError> {
        read::read(MappedFile::open(path)?)
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> Result<&str, ModelError> {
        self.text("general.architecture")?.ok_or_else(|| self.absent("general.architecture"))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|i| &self.metadata[*i].1)
    }

    /// A text, if the key is there. Another type is an error, here and below.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a text", Value::as_text)
    }

    /// A whole number that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "a whole number, not negative", Value::as_unsigned)
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", Value::as_float)
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_flag)
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        self.typed(key, "an array of texts", |v| v.as_array()?.iter().map(Value::as_text).collect())
    }

    /// An array of numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.typed(key, "an array of numbers", |v| v.as_array()?.iter().map(Value::as_float).collect())
    }

    /// The error for a key that must be there.
    pub(crate) fn absent(&self, key: &str) -> ModelError {
        let expected = "the key; the file was written by an old or foreign converter: convert the model again";
        ModelError::malformed(self.path(), format!("metadata `{key}`"), "no such key", expected)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            let expected = format!("{expected}; convert the model again");
            ModelError::malformed(self.path(), format!("metadata `{key}`"), value.describe(), expected)
        })
    }
}
