//! A tokenizer as GGUF metadata: the inverse of [`crate::tokenizer`]'s reading of it. Byte-level BPE with a pre-tokenizer
//! that GGUF has a name for, and SentencePiece's BPE with `▁` for spaces; nothing else has a place in the format.
//!
//! GGUF readers rebuild SentencePiece's merges from the scores of tokens, so tokens are scored by the place of the first
//! merge that makes them. The merges themselves are written as well: who reads them has them to the letter.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{Value, ValueType};
use crate::error::ModelError;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::gguf::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::tokenizer::pre::Kind;

/// Score of tokens that no merge makes and no text becomes.
const NEVER: f32 = -1000.0;

/// The pairs `tokenizer.ggml.…` for a vocabulary of `size` ids (the rows of the embedding table).
pub(crate) fn to_metadata(
    tokenizer: &Tokenizer,
    architecture: &str,
    size: usize,
) -> Result<Vec<(String, Value)>, ModelError> {
    let bad = |found: String, expected: &str| {
        ModelError::malformed(tokenizer.path(), "tokenizer, to be written as GGUF", found, expected)
    };
    let json: Json = serde_json::from_str(&tokenizer.to_json()?).map_err(|e| bad(e.to_string(), "JSON"))?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(bad(format!("a model of type {}", model["type"]), "BPE; GGUF has no place for others here"));
    }
    let merges = merges(&model["merges"]);
    let mut tokens = Tokens::new(&json, size).map_err(|found| bad(found, "ids below the embedding table's rows"))?;
    let mut pairs = Vec::new();
    let mut set = |key: &str, value: Value| pairs.push((format!("tokenizer.ggml.{key}"), value));

    if let Some(kind) = Kind::of_pre_tokenizer(&json["pre_tokenizer"]) {
        set("model", Value::Text("gpt2".to_owned()));
        set("pre", Value::Text(kind.names[0].to_owned()));
    } else if is_sentence_piece(&json) {
        set("model", Value::Text("llama".to_owned()));
        set("pre", Value::Text("default".to_owned()));
        set("add_space_prefix", Value::Bool(adds_space(&json)));
        let scores = tokens.scores(&merges);
        set("scores", Value::Array(ValueType::F32, scores.into_iter().map(Value::F32).collect()));
        if architecture.starts_with("gemma") {
            tokens.respell_spaces();
        }
    } else {
        let found = format!("pre-tokenizer {}", json["pre_tokenizer"]);
        return Err(bad(found, "one that GGUF has a name for; save the model as a Hugging Face directory instead"));
    }
    set("tokens", Value::texts(tokens.texts));
    let types = tokens.types.into_iter().map(|kind| Value::I32(kind as i32)).collect();
    set("token_type", Value::Array(ValueType::I32, types));
    set("merges", Value::texts(merges.into_iter().map(|(left, right)| format!("{left} {right}"))));

    let unknown = tokenizer.config["unk_token"].as_str().or(model["unk_token"].as_str());
    let unknown = unknown.and_then(|token| tokenizer.token_to_id(token));
    let ids =
        [("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("padding", tokenizer.pad_id), ("unknown", unknown)];
    for (name, id) in ids {
        if let Some(id) = id {
            set(&format!("{name}_token_id"), Value::U32(id));
        }
    }
    let around = tokenizer.encode("", true)?.ids;
    let adds = |id: Option<u32>| Value::Bool(id.is_some_and(|id| around.contains(&id)));
    set("add_bos_token", adds(tokenizer.bos_id));
    set("add_eos_token", adds(tokenizer.eos_id.filter(|_| tokenizer.eos_id != tokenizer.bos_id)));
    Ok(pairs)
}

struct Tokens {
    texts: Vec<String>,
    types: Vec<u64>,
}

impl Tokens {
    fn new(json: &Json, size: usize) -> Result<Tokens, String> {
        let mut texts: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; size];
        let mut set = |text: &str, id: Option<u64>, kind: u64| -> Result<(), String> {
            let id =
                id.filter(|id| *id < size as u64).ok_or_else(|| format!("token {text:?} with id {id:?} of {size}"))?;
            texts[id as usize] = text.to_owned();
            types[id as usize] = kind;
            Ok(())
        };
        let model = &json["model"];
        let byte_fallback = model["byte_fallback"] == true;
        for (text, id) in model["vocab"].as_object().into_iter().flatten() {
            let byte = byte_fallback && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = match () {
                () if byte => BYTE,
                () if model["unk_token"] == text.as_str() => UNKNOWN,
                () => NORMAL,
            };
            set(text, id.as_u64(), kind)?;
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            let text = added["content"].as_str().unwrap_or_default();
            let unknown = byte_fallback && model["unk_token"] == text;
            let kind = match added["special"] == true {
                true if unknown => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            set(text, added["id"].as_u64(), kind)?;
        }
        Ok(Tokens { texts, types })
    }

    /// A score a token: the negative place of the first merge that makes it.
    fn scores(&self, merges: &[(String, String)]) -> Vec<f32> {
        let mut first: HashMap<String, usize> = HashMap::with_capacity(merges.len());
        for (place, (left, right)) in merges.iter().enumerate() {
            first.entry(format!("{left}{right}")).or_insert(place);
        }
        let score = |(text, kind): (&String, &u64)| match *kind {
            BYTE => 0.0,
            NORMAL => -(first.get(text).copied().unwrap_or(merges.len()) as f32),
            _ => NEVER,
        };
        self.texts.iter().zip(&self.types).map(score).collect()
    }

    /// Gemma's tokens of several spaces are written as spaces, and met in the text before anything is merged.
    fn respell_spaces(&mut self) {
        for (text, kind) in self.texts.iter_mut().zip(&mut self.types) {
            if text.chars().count() > 1 && text.chars().all(|c| c == '▁') {
                *text = " ".repeat(text.chars().count());
                *kind = USER_DEFINED;
            }
        }
    }
}

/// Merges as pairs: `tokenizer.json` has them as lists of two, older files as texts with a space.
fn merges(json: &Json) -> Vec<(String, String)> {
    let pair = |merge: &Json| match merge {
        Json::String(text) => text.split_once(' ').map(|(l, r)| (l.to_owned(), r.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    };
    json.as_array().into_iter().flatten().filter_map(pair).collect()
}

fn is_sentence_piece(json: &Json) -> bool {
    json["model"]["byte_fallback"] == true && rules(json).contains('▁')
}

/// Whether a space is put before the text.
fn adds_space(json: &Json) -> bool {
    let rules = rules(json);
    let ways = [r#""type":"Prepend""#, r#""prepend_scheme":"always""#, r#""prepend_scheme":"first""#];
    ways.into_iter().any(|way| rules.contains(way))
}

/// What is done to a text before merging, as JSON.
fn rules(json: &Json) -> String {
    format!("{}{}", json["normalizer"], json["pre_tokenizer"])
}
