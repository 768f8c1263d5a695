//! A model's files: a Hugging Face directory or one GGUF file, opened once and asked for its parts.
//!
//! It knows where each part is kept, and nothing of what the parts mean.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::weights::WeightFiles;

/// Longest JSON file (config, generation config) that is read.
const MAX_JSON: u64 = 64 << 20;

/// A model on the disk.
pub enum ModelFiles {
    /// A directory with `config.json`, safetensors, `tokenizer.json` …
    Directory(PathBuf),
    /// A GGUF file.
    Gguf(Arc<Gguf>),
}

impl ModelFiles {
    /// Opens a directory or a GGUF file.
    pub fn open(path: &Path) -> Result<ModelFiles, ModelError> {
        if is_gguf(path) {
            return Ok(ModelFiles::Gguf(Arc::new(Gguf::open(path)?)));
        }
        if path.is_dir() {
            return Ok(ModelFiles::Directory(path.to_owned()));
        }
        let metadata = std::fs::metadata(path).map_err(ModelError::io(path))?;
        let found = format!("a file of {} bytes that is no GGUF", metadata.len());
        let expected = "a Hugging Face directory (config.json, safetensors, tokenizer.json) or a GGUF file";
        Err(ModelError::malformed(path, "model", found, expected))
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        match self {
            ModelFiles::Directory(path) => path,
            ModelFiles::Gguf(gguf) => gguf.path(),
        }
    }

    /// Where the config is, for errors: `config.json`, or the GGUF file.
    pub fn config_path(&self) -> PathBuf {
        match self {
            ModelFiles::Directory(path) => path.join("config.json"),
            ModelFiles::Gguf(gguf) => gguf.path().to_owned(),
        }
    }

    /// The config: `config.json`, or what the GGUF's metadata amounts to.
    pub fn config(&self) -> Result<Value, ModelError> {
        match self {
            ModelFiles::Directory(path) => {
                let path = path.join("config.json");
                read_json(&path)?.ok_or_else(|| {
                    let expected = "the file; this directory is no complete Hugging Face model";
                    ModelError::malformed(&path, "config", "no such file", expected)
                })
            }
            ModelFiles::Gguf(gguf) => gguf.config(),
        }
    }

    /// `generation_config.json`, if there is one. Of a GGUF file: the ids that end a text, a turn or a message.
    pub fn generation_config(&self) -> Result<Option<Value>, ModelError> {
        match self {
            ModelFiles::Directory(path) => read_json(&path.join("generation_config.json")),
            ModelFiles::Gguf(gguf) => {
                let mut ids = Vec::new();
                for kind in ["eos", "eot", "eom"] {
                    ids.extend(gguf.unsigned(&format!("tokenizer.ggml.{kind}_token_id"))?);
                }
                Ok(Some(json!({"eos_token_id": ids})))
            }
        }
    }

    /// The weights.
    pub fn weights(&self) -> Result<WeightFiles, ModelError> {
        match self {
            ModelFiles::Directory(path) => WeightFiles::open(path),
            ModelFiles::Gguf(gguf) => WeightFiles::from_gguf(gguf.clone()),
        }
    }
}

/// Where downloaded models and what is known of them are kept: `$HONE_CACHE`, else `~/.cache/hone`.
pub fn cache_directory() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("HONE_CACHE").or_else(|| Some(set("HOME").or_else(|| set("USERPROFILE"))?.join(".cache").join("hone")))
}

/// Whether `path` is a file that starts as GGUF files do.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file()
        && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && &magic == b"GGUF"
}

/// A JSON object from a file; `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, ModelError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ModelError::io(path)(e)),
    };
    if metadata.len() > MAX_JSON {
        let expected = format!("at most {MAX_JSON}; download the model again");
        return Err(ModelError::malformed(path, "size", format!("{} bytes", metadata.len()), expected));
    }
    let text = std::fs::read(path).map_err(ModelError::io(path))?;
    let value: Value = serde_json::from_slice(&text).map_err(|e| {
        ModelError::malformed(path, "contents", e.to_string(), "JSON; the file is damaged: download the model again")
    })?;
    if !value.is_object() {
        return Err(ModelError::malformed(path, "contents", "JSON that is no object", "an object; download it again"));
    }
    Ok(Some(value))
}
