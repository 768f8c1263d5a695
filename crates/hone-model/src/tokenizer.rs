//! Text to ids and back, by Hugging Face's `tokenizers`.
//!
//! From a directory, `tokenizer.json` is the tokenizer and `tokenizer_config.json` names the special tokens; where the
//! latter is missing, the ids in `config.json` and `generation_config.json` do. From a GGUF file the tokenizer is built
//! from its metadata, see [`gguf`].
//!
//! It knows nothing of conversations; see [`crate::template`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::PostProcessorWrapper;

use crate::error::ModelError;
use crate::files::{ModelFiles, read_json};

pub(crate) mod gguf;
pub(crate) mod pre;

/// Longest `tokenizer.json` accepted; the largest in use have some 40 MB.
const MAX_TOKENIZER: u64 = 512 << 20;

/// A tokenizer with the special ids its model declares.
pub struct Tokenizer {
    /// The tokenizer itself.
    pub inner: tokenizers::Tokenizer,
    /// Beginning-of-text id, if declared.
    pub bos_id: Option<u32>,
    /// End-of-text id, if declared.
    pub eos_id: Option<u32>,
    /// Padding id, if declared.
    pub pad_id: Option<u32>,
    /// `tokenizer_config.json`, written back when the model is saved; made up where there was none.
    pub config: Value,
    path: PathBuf,
    /// The file asks for offsets without the white space of a token; see [`Tokenizer::new`].
    trims_offsets: bool,
}

/// Ids with the byte range of the text each came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte offsets `(start, end)` into the text; `(0, 0)` for added special tokens.
    pub offsets: Vec<(usize, usize)>,
}

/// The special tokens a `tokenizer_config.json` names, with the names templates know them by.
const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// The tokenizer of a model.
    pub fn from_files(files: &ModelFiles) -> Result<Tokenizer, ModelError> {
        match files {
            ModelFiles::Directory(path) => Tokenizer::from_directory(path),
            ModelFiles::Gguf(file) => gguf::build(file),
        }
    }

    /// The tokenizer of a Hugging Face directory.
    pub fn from_directory(directory: &Path) -> Result<Tokenizer, ModelError> {
        let path = directory.join("tokenizer.json");
        let inner = read(&path)?;
        let config_path = directory.join("tokenizer_config.json");
        let declared = read_json(&config_path)?;
        let config = match declared {
            Some(config) => config,
            None => config_from_ids(directory, &inner)?,
        };
        let mut ids = [None; 3];
        for (id, field) in ids.iter_mut().zip(["bos_token", "eos_token", "pad_token"]) {
            let Some(text) = token_text(&config[field]) else { continue };
            *id = Some(inner.token_to_id(text).ok_or_else(|| {
                let expected = "a token of tokenizer.json; the two files belong to different models";
                ModelError::malformed(&config_path, format!("`{field}`"), format!("{text:?}"), expected)
            })?);
        }
        Ok(Tokenizer::new(inner, ids, config, path))
    }

    /// Wraps a tokenizer. Truncation and padding are switched off (sequences are cut and joined elsewhere, and counted),
    /// and so is the trimming of offsets: a token's offsets are those of all the text it stands for, white space
    /// included, so that neighbouring tokens leave no byte to nobody.
    fn new(inner: tokenizers::Tokenizer, ids: [Option<u32>; 3], config: Value, path: PathBuf) -> Tokenizer {
        let mut this =
            Tokenizer { inner, bos_id: ids[0], eos_id: ids[1], pad_id: ids[2], config, path, trims_offsets: false };
        this.inner.with_padding(None);
        // Only a stride longer than the limit can be refused, and there is no limit.
        let _ = this.inner.with_truncation(None);
        if let Some(mut processor) = this.inner.get_post_processor().cloned() {
            this.trims_offsets = set_trim(&mut processor, false);
            this.inner.with_post_processor(Some(processor));
        }
        this
    }

    /// Encodes; `add_special_tokens` as in Hugging Face (BOS where the tokenizer adds one).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding, ModelError> {
        let encoding = self.inner.encode(text, add_special_tokens).map_err(|e| {
            let start: String = text.chars().take(40).collect();
            let place = format!("encoding {} bytes of text from {start:?}", text.len());
            ModelError::malformed(&self.path, place, e.to_string(), "ids; the tokenizer does not cover this text")
        })?;
        let mut offsets = encoding.get_offsets().to_vec();
        close_gaps(&mut offsets, encoding.get_special_tokens_mask(), text.len());
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets })
    }

    /// Decodes. Ids outside the vocabulary are passed over, as in Hugging Face.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, ModelError> {
        self.inner.decode(ids, skip_special_tokens).map_err(|e| {
            let expected = "text; the tokenizer's decoder does not fit its vocabulary";
            ModelError::malformed(&self.path, format!("decoding {} ids", ids.len()), e.to_string(), expected)
        })
    }

    /// The id of a token given by its exact text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of an id as the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Vocabulary size with added tokens.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether an id is one of the tokens marked special (not text: turn markers, padding).
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The special tokens' texts by the names templates know them by (`bos_token`, `eos_token` …).
    pub fn special_tokens(&self) -> Map<String, Value> {
        let named =
            SPECIAL.iter().filter_map(|name| Some(((*name).to_owned(), json!(token_text(&self.config[*name])?))));
        named.collect()
    }

    /// The `tokenizer.json` that this tokenizer amounts to.
    pub fn to_json(&self) -> Result<String, ModelError> {
        let text = if self.trims_offsets {
            let mut inner = self.inner.clone();
            if let Some(mut processor) = inner.get_post_processor().cloned() {
                set_trim(&mut processor, true);
                inner.with_post_processor(Some(processor));
            }
            inner.to_string(false)
        } else {
            self.inner.to_string(false)
        };
        text.map_err(|e| ModelError::malformed(&self.path, "tokenizer", e.to_string(), "one that can be written"))
    }

    /// Where it was read from, for errors.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Ids that end a generation: those that `generation_config.json` and `config.json` name as `eos_token_id` (a number or a
/// list), the tokenizer's end-of-text token, and the one that ends a turn in the chat template. Sorted.
pub fn end_ids(
    config: &Value,
    generation_config: Option<&Value>,
    tokenizer: &Tokenizer,
    end_of_turn: Option<u32>,
) -> Vec<u32> {
    let declared = |value: &Value| -> Vec<u32> {
        let one = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        match &value["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(one).collect(),
            id => one(id).into_iter().collect(),
        }
    };
    let mut ids = declared(config);
    ids.extend(generation_config.map(declared).unwrap_or_default());
    ids.extend(tokenizer.eos_id);
    ids.extend(end_of_turn);
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Gives bytes between two tokens to the first of them: composing a letter with its accent, or stripping around an added
/// token, leaves some to nobody. Tokens with a mask of 1 stand for no text.
fn close_gaps(offsets: &mut [(usize, usize)], mask: &[u32], length: usize) {
    let mut last: Option<usize> = None;
    for i in (0..offsets.len()).filter(|i| mask.get(*i) != Some(&1)) {
        match last {
            Some(before) if offsets[before].1 < offsets[i].0 => offsets[before].1 = offsets[i].0,
            Some(_) => {}
            None => offsets[i].0 = 0,
        }
        last = Some(i);
    }
    if let Some(last) = last {
        offsets[last].1 = length;
    }
}

/// `tokenizers` reads the file; a panic in it (merges longer than any token cause one) becomes an error as well.
fn read(path: &Path) -> Result<tokenizers::Tokenizer, ModelError> {
    let size = std::fs::metadata(path).map_err(ModelError::io(path))?.len();
    if size > MAX_TOKENIZER {
        let expected = format!("at most {MAX_TOKENIZER}; download the model again");
        return Err(ModelError::malformed(path, "size", format!("{size} bytes"), expected));
    }
    let bytes = std::fs::read(path).map_err(ModelError::io(path))?;
    let expected = "a tokenizer that the tokenizers library reads; the file is damaged: download the model again";
    match catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(&bytes))) {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(e)) => Err(ModelError::malformed(path, "contents", e.to_string(), expected)),
        Err(_) => Err(ModelError::malformed(path, "contents", "merges that do not fit the vocabulary", expected)),
    }
}

/// A special token's text: a string, or an object with its `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A `tokenizer_config.json` for a directory without one, from the ids its configs name.
fn config_from_ids(directory: &Path, inner: &tokenizers::Tokenizer) -> Result<Value, ModelError> {
    let mut config = Map::new();
    for name in ["config.json", "generation_config.json"] {
        let Some(value) = read_json(&directory.join(name))? else { continue };
        for kind in ["bos", "eos", "pad"] {
            let id = match &value[format!("{kind}_token_id")] {
                Value::Array(ids) => ids.first().and_then(Value::as_u64),
                id => id.as_u64(),
            };
            let token = id.and_then(|id| u32::try_from(id).ok()).and_then(|id| inner.id_to_token(id));
            if let Some(token) = token {
                config.entry(format!("{kind}_token")).or_insert(json!(token));
            }
        }
    }
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    Ok(Value::Object(config))
}

/// Sets `trim_offsets` wherever a post-processor has it; whether it had it the other way.
fn set_trim(processor: &mut PostProcessorWrapper, trim: bool) -> bool {
    match processor {
        PostProcessorWrapper::ByteLevel(level) => {
            let changed = level.trim_offsets != trim;
            level.trim_offsets = trim;
            changed
        }
        PostProcessorWrapper::Roberta(roberta) => {
            let changed = roberta.trim_offsets != trim;
            roberta.trim_offsets = trim;
            changed
        }
        PostProcessorWrapper::Sequence(sequence) => {
            let mut changed = false;
            let mut index = 0;
            while let Some(part) = sequence.get_mut(index) {
                changed |= set_trim(part, trim);
                index += 1;
            }
            changed
        }
        _ => false,
    }
}

/// A part of a tokenizer (pre-tokenizer, normalizer, decoder …) from the JSON that `tokenizer.json` has for it.
fn part<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
}
