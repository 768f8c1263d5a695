//! A tokenizer from a GGUF file's metadata.
//!
//! Two families. `tokenizer.ggml.model = gpt2` is byte-level BPE: tokens, merges and the name of a pre-tokenizer (see
//! [`super::pre`]). `llama` is a SentencePiece BPE: tokens with scores, bytes as a fallback, no merges. There the merges
//! are found again as `transformers` finds them: a token that splits into two tokens is a merge, and merges rank by the
//! score of what they make, the longer left half first. Gemma's tokens rank by their place in the vocabulary instead, and
//! its tokens of several spaces, which GGUF writes as spaces, are written as SentencePiece does.

use std::collections::HashMap;

use rayon::prelude::*;
use serde_json::{Map, Value as Json, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::pre::{KINDS, Kind};
use super::{Tokenizer, part};
use crate::error::ModelError;
use crate::gguf::Gguf;

/// Types of tokens (`tokenizer.ggml.token_type`).
pub(crate) const NORMAL: u64 = 1;
pub(crate) const UNKNOWN: u64 = 2;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;
pub(crate) const BYTE: u64 = 6;

/// Longest token whose splits are looked for; longer ones are runs of white space or damage.
const MAX_SPLIT: usize = 1024;

struct Metadata<'a> {
    gguf: &'a Gguf,
    tokens: Vec<String>,
    /// One a token.
    types: Vec<u64>,
}

/// Builds the tokenizer.
pub(crate) fn build(gguf: &Gguf) -> Result<Tokenizer, ModelError> {
    let key = "tokenizer.ggml.model";
    let model = gguf.text(key)?.ok_or_else(|| gguf.absent(key))?;
    let metadata = Metadata::read(gguf)?;
    let (inner, add_bos) = match model {
        "gpt2" => metadata.byte_level()?,
        "llama" => metadata.sentence_piece()?,
        other => {
            let expected = "gpt2 or llama; use the model's Hugging Face directory";
            return Err(metadata.bad("model", format!("`{other}`"), expected));
        }
    };
    metadata.finish(inner, add_bos)
}

impl<'a> Metadata<'a> {
    fn read(gguf: &'a Gguf) -> Result<Metadata<'a>, ModelError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = gguf.texts(key)?.ok_or_else(|| gguf.absent(key))?;
        let mut tokens: Vec<String> = tokens.into_iter().map(str::to_owned).collect();
        let types = match gguf.floats("tokenizer.ggml.token_type")? {
            Some(types) => types.into_iter().map(|t| t as u64).collect(),
            None => vec![NORMAL; tokens.len()],
        };
        if gguf.architecture()?.starts_with("gemma") {
            for token in tokens.iter_mut().filter(|t| t.len() > 1 && t.bytes().all(|b| b == b' ')) {
                *token = "▁".repeat(token.len());
            }
        }
        let metadata = Metadata { gguf, tokens, types };
        if metadata.types.len() != metadata.tokens.len() {
            return Err(metadata.bad(
                "token_type",
                format!("{} types", metadata.types.len()),
                &format!("one for each of {} tokens; convert the model again", metadata.tokens.len()),
            ));
        }
        Ok(metadata)
    }

    fn bad(&self, key: &str, found: String, expected: &str) -> ModelError {
        ModelError::malformed(self.gguf.path(), format!("metadata `tokenizer.ggml.{key}`"), found, expected)
    }

    fn library(&self, what: &str, error: impl ToString) -> ModelError {
        self.bad(what, error.to_string(), "what the tokenizers library accepts; use the model's Hugging Face directory")
    }

    /// Token to id. Padding of the embedding table (`[PAD151665]`) is no token.
    fn vocab(&self) -> Vocab {
        let used = self.tokens.iter().zip(&self.types).enumerate().filter(|(_, (_, kind))| **kind != UNUSED);
        used.map(|(id, (token, _))| (token.clone(), id as u32)).collect()
    }

    fn id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let key = format!("{key}_token_id");
        let Some(id) = self.gguf.unsigned(&format!("tokenizer.ggml.{key}"))? else { return Ok(None) };
        if id >= self.tokens.len() as u64 {
            let expected = format!("an id below {}; convert the model again", self.tokens.len());
            return Err(self.bad(&key, id.to_string(), &expected));
        }
        Ok(Some(id as u32))
    }

    /// The merges that the file lists, best first.
    fn merges(&self, vocab: &Vocab) -> Result<Option<Vec<(String, String)>>, ModelError> {
        let Some(lines) = self.gguf.texts("tokenizer.ggml.merges")? else { return Ok(None) };
        let mut merges = Vec::with_capacity(lines.len());
        for (rank, line) in lines.into_iter().enumerate() {
            // The library asserts what is checked here.
            let halves = line.split_once(' ').filter(|(left, right)| {
                vocab.contains_key(*left) && vocab.contains_key(*right) && vocab.contains_key(&format!("{left}{right}"))
            });
            let (left, right) = halves.ok_or_else(|| {
                let expected = "two tokens with a space between that join to a token; convert the model again";
                self.bad("merges", format!("{line:?} at {rank}"), expected)
            })?;
            merges.push((left.to_owned(), right.to_owned()));
        }
        Ok(Some(merges))
    }

    fn byte_level(&self) -> Result<(tokenizers::Tokenizer, bool), ModelError> {
        let name = self.gguf.text("tokenizer.ggml.pre")?.unwrap_or("gpt-2");
        let kind = Kind::named(name).ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().flat_map(|k| k.names).copied().collect();
            let expected = format!("one of {}; use the model's Hugging Face directory", known.join(", "));
            self.bad("pre", format!("`{name}`"), &expected)
        })?;
        let vocab = self.vocab();
        let merges = self.merges(&vocab)?.ok_or_else(|| self.gguf.absent("tokenizer.ggml.merges"))?;
        let builder = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(kind.ignore_merges);
        let bpe = builder.build().map_err(|e| self.library("merges", e))?;
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        let pre: PreTokenizerWrapper = part(kind.pre_tokenizer()).map_err(|e| self.library("pre", e))?;
        tokenizer.with_pre_tokenizer(Some(pre));
        if kind.compose {
            let nfc: NormalizerWrapper = part(json!({"type": "NFC"})).map_err(|e| self.library("pre", e))?;
            tokenizer.with_normalizer(Some(nfc)).map_err(|e| self.library("pre", e))?;
        }
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let decoder: DecoderWrapper = part(decoder).map_err(|e| self.library("model", e))?;
        tokenizer.with_decoder(Some(decoder));
        Ok((tokenizer, kind.add_bos))
    }

    fn sentence_piece(&self) -> Result<(tokenizers::Tokenizer, bool), ModelError> {
        let gemma = self.gguf.architecture()?.starts_with("gemma");
        let scores = if gemma {
            (0..self.tokens.len()).map(|place| -(place as f64)).collect()
        } else {
            let key = "tokenizer.ggml.scores";
            self.gguf.floats(key)?.ok_or_else(|| self.gguf.absent(key))?
        };
        if scores.len() != self.tokens.len() {
            let expected = format!("one for each of {} tokens; convert the model again", self.tokens.len());
            return Err(self.bad("scores", format!("{} scores", scores.len()), &expected));
        }
        let vocab: Vocab = self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
        let merges = match self.merges(&vocab)? {
            Some(merges) => merges,
            None => merges_by_score(&self.tokens, &scores),
        };
        let bytes = self.types.contains(&BYTE);
        let mut builder = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(bytes).fuse_unk(true);
        let unknown = match self.id("unknown")? {
            Some(id) => Some(id as usize),
            None => self.types.iter().position(|kind| *kind == UNKNOWN),
        };
        if let Some(id) = unknown {
            builder = builder.unk_token(self.tokens[id].clone());
        }
        let mut tokenizer = tokenizers::Tokenizer::new(builder.build().map_err(|e| self.library("tokens", e))?);

        let prefix = self.gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(!gemma);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let normalizer = if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]})
        } else {
            replace
        };
        let normalizer: NormalizerWrapper = part(normalizer).map_err(|e| self.library("model", e))?;
        tokenizer.with_normalizer(Some(normalizer)).map_err(|e| self.library("model", e))?;
        let decoder = json!({"type": "Sequence", "decoders": decoders});
        let decoder: DecoderWrapper = part(decoder).map_err(|e| self.library("model", e))?;
        tokenizer.with_decoder(Some(decoder));
        Ok((tokenizer, true))
    }

    /// Special tokens, what is added around a text, and the special ids.
    fn finish(&self, mut tokenizer: tokenizers::Tokenizer, add_bos: bool) -> Result<Tokenizer, ModelError> {
        let added = |kind: u64, special: bool| {
            let of_kind = self.tokens.iter().zip(&self.types).filter(move |(_, k)| **k == kind);
            // Tokens of spaces are made by merges: text has spaces where the vocabulary has `▁`.
            let whole = of_kind.filter(|(token, _)| !token.chars().all(|c| c == '▁'));
            whole.map(move |(token, _)| AddedToken::from(token.clone(), special).normalized(false)).collect::<Vec<_>>()
        };
        tokenizer.add_special_tokens(added(CONTROL, true)).map_err(|e| self.library("token_type", e))?;
        tokenizer.add_tokens(added(USER_DEFINED, false)).map_err(|e| self.library("token_type", e))?;

        let ids = [self.id("bos")?, self.id("eos")?, self.id("padding")?];
        let flag = |key: &str, default: bool| -> Result<bool, ModelError> {
            Ok(self.gguf.flag(&format!("tokenizer.ggml.{key}"))?.unwrap_or(default))
        };
        let bos = if flag("add_bos_token", add_bos)? { ids[0] } else { None };
        let eos = if flag("add_eos_token", false)? { ids[1] } else { None };
        if bos.is_some() || eos.is_some() {
            let processor = self.around(bos, eos).map_err(|e| self.library("add_bos_token", e))?;
            tokenizer.with_post_processor(Some(processor));
        }

        let text = |id: Option<u32>| id.map(|id| json!(self.tokens[id as usize]));
        let mut config = Map::new();
        let unknown = self.id("unknown")?;
        let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
        for (name, id) in names.into_iter().zip(ids.into_iter().chain([unknown])) {
            config.extend(text(id).map(|token| (name.to_owned(), token)));
        }
        config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        let config = Json::Object(config);
        Ok(Tokenizer::new(tokenizer, ids, config, self.gguf.path().to_owned()))
    }

    /// A template of `bos`, the text, `eos`.
    fn around(&self, bos: Option<u32>, eos: Option<u32>) -> Result<PostProcessorWrapper, String> {
        let mut special = Map::new();
        let mut token = |id: u32, type_id: u32| {
            let text = &self.tokens[id as usize];
            special.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
            json!({"SpecialToken": {"id": text, "type_id": type_id}})
        };
        let mut template = |name: &str, type_id: u32| -> Vec<Json> {
            let start = bos.map(|id| token(id, type_id));
            let end = eos.map(|id| token(id, type_id));
            let text = json!({"Sequence": {"id": name, "type_id": type_id}});
            start.into_iter().chain([text]).chain(end).collect()
        };
        let single = template("A", 0);
        let pair: Vec<Json> = single.iter().cloned().chain(template("B", 1)).collect();
        part(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}))
    }
}

/// Merges between tokens, best first; see the module's words.
pub(crate) fn merges_by_score(tokens: &[String], scores: &[f64]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    struct Merge<'a> {
        left: &'a str,
        right: &'a str,
        score: f64,
        lengths: (usize, usize),
    }
    let of_token = |(token, score): (&'_ String, &f64)| -> Vec<(usize, f64)> {
        if token.len() > MAX_SPLIT {
            return Vec::new();
        }
        let mut splits: Vec<(usize, f64)> = token
            .char_indices()
            .skip(1)
            .filter(|(at, _)| ids.contains_key(&token[..*at]) && ids.contains_key(&token[*at..]))
            .map(|(at, _)| (at, score + 0.0))
            .collect();
        splits.sort_by_key(|(at, _)| (ids[&token[..*at]], ids[&token[*at..]]));
        splits
    };
    let splits: Vec<Vec<(usize, f64)>> = tokens.par_iter().zip(scores).map(of_token).collect();
    let mut merges: Vec<Merge> = Vec::new();
    for (token, splits) in tokens.iter().zip(&splits) {
        for (at, score) in splits {
            let (left, right) = token.split_at(*at);
            merges.push(Merge { left, right, score: *score, lengths: (left.chars().count(), right.chars().count()) });
        }
    }
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.lengths.cmp(&a.lengths)));
    merges.into_iter().map(|m| (m.left.to_owned(), m.right.to_owned())).collect()
}
