//! GGUF metadata to a Hugging Face `config.json`, and back.
//!
//! Keys are `ARCHITECTURE.attention.head_count` and so on. Two settings need more than a rename. Llama 3's rotary scaling
//! is not in the keys: the file has a tensor `rope_freqs.weight` of divisors, from which the four numbers of the scheme
//! are found again (and checked: they must give the tensor back). And Gemma 3's pattern of sliding and global layers is
//! not in the file at all where it is the usual one.

use std::f64::consts::PI;

use hone_engine::quant::BlockType;
use serde_json::{Map, Value as Json, json};

use super::{Gguf, Value};
use crate::error::ModelError;

/// Gemma 3: one global layer in so many.
const GEMMA3_PATTERN: u64 = 6;
/// Layers of a model; real ones have up to a few hundred.
const MAX_LAYERS: u64 = 4096;

impl Gguf {
    /// `ARCHITECTURE.key` as a whole number that must be there.
    fn size(&self, key: &str) -> Result<u64, ModelError> {
        let key = self.key(key)?;
        self.unsigned(&key)?.ok_or_else(|| self.absent(&key))
    }

    fn key(&self, key: &str) -> Result<String, ModelError> {
        Ok(format!("{}.{key}", self.architecture()?))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.float(&self.key(key)?)
    }

    /// Query heads.
    pub(crate) fn heads(&self) -> Result<usize, ModelError> {
        self.positive("attention.head_count", None)
    }

    /// Key and value heads.
    pub(crate) fn key_heads(&self) -> Result<usize, ModelError> {
        self.positive("attention.head_count_kv", Some(self.heads()?))
    }

    fn positive(&self, key: &str, default: Option<usize>) -> Result<usize, ModelError> {
        let key = self.key(key)?;
        match (self.unsigned(&key)?, default) {
            (Some(n), _) if (1..=u32::MAX.into()).contains(&n) => Ok(n as usize),
            (Some(n), _) => {
                let expected = "a positive number; convert the model again";
                Err(ModelError::malformed(self.path(), format!("metadata `{key}`"), n.to_string(), expected))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.absent(&key)),
        }
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.tensors.iter().any(|t| t.name == name)
    }

    fn vocab_size(&self) -> Result<usize, ModelError> {
        let table = self.tensors.iter().find(|t| t.name == "token_embd.weight");
        table.map(|t| t.shape[0]).ok_or_else(|| {
            let expected = "the embedding table; fetch the file again";
            ModelError::malformed(self.path(), "tensor `token_embd.weight`", "no such tensor", expected)
        })
    }

    /// The `config.json` that this file's metadata amounts to.
    pub fn config(&self) -> Result<Json, ModelError> {
        let architecture = self.architecture()?;
        let (model_type, class) = match architecture {
            "llama" => ("llama", "LlamaForCausalLM"),
            "qwen2" => ("qwen2", "Qwen2ForCausalLM"),
            "qwen3" => ("qwen3", "Qwen3ForCausalLM"),
            "gemma3" => ("gemma3_text", "Gemma3ForCausalLM"),
            other => {
                return Err(ModelError::UnknownArchitecture {
                    path: self.path().to_owned(),
                    found: other.to_owned(),
                    known: super::names::ARCHITECTURES.join(", "),
                });
            }
        };
        let heads = self.heads()?;
        let hidden = self.size("embedding_length")?;
        let head_dim = match self.unsigned(&self.key("attention.key_length")?)? {
            Some(length) => length,
            None => self.unsigned(&self.key("rope.dimension_count")?)?.unwrap_or(hidden / heads as u64),
        };
        let mut config = Map::new();
        let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
        set("architectures", json!([class]));
        set("model_type", json!(model_type));
        set("vocab_size", json!(self.vocab_size()?));
        set("hidden_size", json!(hidden));
        set("intermediate_size", json!(self.size("feed_forward_length")?));
        set("num_hidden_layers", json!(self.size("block_count")?));
        set("num_attention_heads", json!(heads));
        set("num_key_value_heads", json!(self.key_heads()?));
        set("head_dim", json!(head_dim));
        set("max_position_embeddings", json!(self.size("context_length")?));
        set("rms_norm_eps", json!(self.optional_float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6)));
        set("tie_word_embeddings", json!(!self.has_tensor("output.weight")));
        let theta = if architecture == "gemma3" { 1e6 } else { 1e4 };
        set("rope_theta", json!(self.optional_float("rope.freq_base")?.unwrap_or(theta)));
        if let Some(scaling) = self.rope_scaling(head_dim)? {
            set("rope_scaling", scaling);
        }
        match architecture {
            "gemma3" => self.gemma3(&mut config, head_dim)?,
            "llama" => {
                config.insert("hidden_act".into(), json!("silu"));
                config.insert("attention_bias".into(), json!(self.has_tensor("blk.0.attn_q.bias")));
                config.insert("mlp_bias".into(), json!(self.has_tensor("blk.0.ffn_gate.bias")));
            }
            "qwen3" => {
                config.insert("hidden_act".into(), json!("silu"));
                config.insert("attention_bias".into(), json!(self.has_tensor("blk.0.attn_q.bias")));
            }
            _ => {
                config.insert("hidden_act".into(), json!("silu"));
                config.insert("use_sliding_window".into(), json!(false));
            }
        }
        for (key, name) in [("bos", "bos"), ("eos", "eos"), ("padding", "pad")] {
            if let Some(id) = self.unsigned(&format!("tokenizer.ggml.{key}_token_id"))? {
                config.insert(format!("{name}_token_id"), json!(id));
            }
        }
        Ok(Json::Object(config))
    }

    fn gemma3(&self, config: &mut Map<String, Json>, head_dim: u64) -> Result<(), ModelError> {
        let layers = self.size("block_count")?;
        if layers > MAX_LAYERS {
            let expected = format!("at most {MAX_LAYERS}; fetch the file again");
            return Err(ModelError::malformed(
                self.path(),
                "metadata `gemma3.block_count`",
                layers.to_string(),
                expected,
            ));
        }
        let pattern = match self.get(&self.key("attention.sliding_window_pattern")?) {
            Some(Value::Array(_, sliding)) => sliding.iter().map(|v| v.as_flag().unwrap_or(false)).collect(),
            Some(every) => every_so_many(layers, every.as_unsigned().unwrap_or(GEMMA3_PATTERN)),
            None => every_so_many(layers, GEMMA3_PATTERN),
        };
        let kinds = pattern.iter().map(|sliding| if *sliding { "sliding_attention" } else { "full_attention" });
        config.insert("layer_types".into(), kinds.collect());
        config.insert("sliding_window".into(), json!(self.size("attention.sliding_window")?));
        config.insert("rope_local_base_freq".into(), json!(self.optional_float("rope.freq_base_swa")?.unwrap_or(1e4)));
        config.insert("hidden_activation".into(), json!("gelu_pytorch_tanh"));
        config.insert("attention_bias".into(), json!(false));
        config.insert("attn_logit_softcapping".into(), json!(self.optional_float("attn_logit_softcapping")?));
        config.insert("final_logit_softcapping".into(), json!(self.optional_float("final_logit_softcapping")?));
        // The 27B model, known by its 62 layers as in llama.cpp, scales scores by hidden size over heads instead.
        let scalar = if layers == 62 { self.size("embedding_length")? / self.heads()? as u64 } else { head_dim };
        config.insert("query_pre_attn_scalar".into(), json!(scalar));
        Ok(())
    }

    fn rope_scaling(&self, head_dim: u64) -> Result<Option<Json>, ModelError> {
        if let Some(scaling) = self.llama3_scaling(head_dim)? {
            return Ok(Some(scaling));
        }
        let key = self.key("rope.scaling.type")?;
        let factor = self.optional_float("rope.scaling.factor")?;
        match (self.text(&key)?, factor) {
            (None | Some("none"), _) | (_, None) => Ok(None),
            (Some("linear"), Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            (Some("yarn"), Some(factor)) => {
                let original = self.size("rope.scaling.original_context_length")?;
                let scaling =
                    json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original});
                Ok(Some(scaling))
            }
            (Some(other), _) => {
                let expected = "none, linear or yarn; this model's rotary embedding is not known here";
                Err(ModelError::malformed(self.path(), format!("metadata `{key}`"), format!("`{other}`"), expected))
            }
        }
    }

    /// Llama 3's four numbers from the divisors in `rope_freqs.weight` (arXiv 2407.21783; the rule is in transformers'
    /// `_compute_llama3_parameters`): the largest divisor is `factor`, and the others are tried from those in use.
    fn llama3_scaling(&self, head_dim: u64) -> Result<Option<Json>, ModelError> {
        let Some(tensor) = self.tensors.iter().find(|t| t.name == "rope_freqs.weight") else { return Ok(None) };
        let bad = |found: String, expected: String| {
            Err(ModelError::malformed(self.path(), "tensor `rope_freqs.weight`", found, expected))
        };
        if tensor.kind != BlockType::F32 || tensor.shape != [head_dim as usize / 2] {
            let expected = format!("F32 [{}]; convert the model again", head_dim / 2);
            return bad(format!("{} {:?}", tensor.kind, tensor.shape), expected);
        }
        let mut divisors = vec![0f32; tensor.shape[0]];
        let bytes = &self.file.bytes()[tensor.range.clone()];
        if let Err(e) = tensor.kind.dequantise(bytes, &mut divisors) {
            return bad(e.to_string(), "F32 values; fetch the file again".to_owned());
        }
        if divisors.iter().all(|d| *d == 1.0) {
            return Ok(None);
        }
        let theta = self.optional_float("rope.freq_base")?.unwrap_or(1e4);
        let factor = divisors.iter().copied().fold(1.0, f32::max);
        for original in [8192u32, 4096, 2048, 16_384, 32_768, 65_536, 131_072] {
            let rule = Llama3 { factor: f64::from(factor), low: 1.0, high: 4.0, original: f64::from(original) };
            let fits = |(i, d): (usize, &f32)| {
                let ours = rule.divisor(theta.powf(-2.0 * i as f64 / head_dim as f64));
                (ours - f64::from(*d)).abs() <= 1e-4 * ours
            };
            if divisors.iter().enumerate().all(fits) {
                return Ok(Some(json!({
                    "rope_type": "llama3", "factor": rule.factor, "low_freq_factor": rule.low,
                    "high_freq_factor": rule.high, "original_max_position_embeddings": original,
                })));
            }
        }
        bad(
            format!("divisors from {} to {factor}", divisors.iter().copied().fold(f32::MAX, f32::min)),
            "those of Llama 3's rule; this model's rotary embedding is not known here".to_owned(),
        )
    }
}

struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    fn divisor(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * PI / frequency;
        if wavelength < self.original / self.high {
            return 1.0;
        }
        if wavelength > self.original / self.low {
            return self.factor;
        }
        let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }
}

fn every_so_many(layers: u64, every: u64) -> Vec<bool> {
    (1..=layers).map(|layer| every == 0 || layer % every != 0).collect()
}

/// What a config becomes in a GGUF file.
pub(crate) struct Metadata {
    /// GGUF's architecture.
    pub architecture: &'static str,
    /// Key–value pairs, `general.architecture` first.
    pub pairs: Vec<(String, Value)>,
    /// `rope_freqs.weight`, where the config scales as Llama 3.
    pub rope_freqs: Option<Vec<f32>>,
    /// Rows of a head.
    pub head_dim: usize,
}

/// `config.json` to metadata, the inverse of [`Gguf::config`]. `path` is named in errors.
pub(crate) fn to_metadata(path: &std::path::Path, config: &Json) -> Result<Metadata, ModelError> {
    let bad = |field: &str, found: String, expected: &str| {
        ModelError::malformed(path, format!("config.json `{field}`"), found, expected)
    };
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let architecture = match model_type {
        "llama" | "mistral" => "llama",
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        "gemma3_text" => "gemma3",
        other => {
            return Err(ModelError::UnknownArchitecture {
                path: path.to_owned(),
                found: other.to_owned(),
                known: "llama, mistral, qwen2, qwen3, gemma3_text (for writing GGUF)".to_owned(),
            });
        }
    };
    let optional = |field: &str| config[field].as_u64();
    let size = |field: &str| {
        let value = optional(field).and_then(|v| u32::try_from(v).ok());
        value.ok_or_else(|| bad(field, config[field].to_string(), "a whole number; the config is incomplete"))
    };
    let heads = size("num_attention_heads")?;
    if heads == 0 {
        return Err(bad("num_attention_heads", "0".to_owned(), "a positive number"));
    }
    let hidden = size("hidden_size")?;
    let head_dim = if optional("head_dim").is_some() { size("head_dim")? } else { hidden / heads };
    let layers = size("num_hidden_layers")?;
    if u64::from(layers) > MAX_LAYERS {
        return Err(bad("num_hidden_layers", layers.to_string(), &format!("at most {MAX_LAYERS}")));
    }

    let mut pairs = vec![("general.architecture".to_owned(), Value::Text(architecture.to_owned()))];
    let mut set = |key: &str, value: Value| pairs.push((format!("{architecture}.{key}"), value));
    set("block_count", Value::U32(layers));
    set("context_length", Value::U32(size("max_position_embeddings")?));
    set("embedding_length", Value::U32(hidden));
    set("feed_forward_length", Value::U32(size("intermediate_size")?));
    set("attention.head_count", Value::U32(heads));
    let key_heads = if optional("num_key_value_heads").is_some() { size("num_key_value_heads")? } else { heads };
    set("attention.head_count_kv", Value::U32(key_heads));
    set("attention.key_length", Value::U32(head_dim));
    set("attention.value_length", Value::U32(head_dim));
    let epsilon = config["rms_norm_eps"].as_f64().unwrap_or(1e-6);
    set("attention.layer_norm_rms_epsilon", Value::F32(epsilon as f32));
    set("vocab_size", Value::U32(size("vocab_size")?));
    set("rope.dimension_count", Value::U32(head_dim));

    // transformers 5 writes `rope_parameters`, flat or by layer type; older configs `rope_theta` and `rope_scaling`.
    let parameters = match &config["rope_parameters"] {
        nested if nested["full_attention"].is_object() => &nested["full_attention"],
        flat => flat,
    };
    let theta = parameters["rope_theta"].as_f64().or(config["rope_theta"].as_f64());
    let theta = theta.unwrap_or(if architecture == "gemma3" { 1e6 } else { 1e4 });
    set("rope.freq_base", Value::F32(theta as f32));
    let scaling = if config["rope_scaling"].is_object() { &config["rope_scaling"] } else { parameters };
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    let number = |field: &str| {
        let value = scaling[field].as_f64();
        value.ok_or_else(|| bad(&format!("rope_scaling.{field}"), scaling[field].to_string(), "a number"))
    };
    let mut rope_freqs = None;
    match kind {
        "default" => {}
        "linear" | "yarn" => {
            set("rope.scaling.type", Value::Text(kind.to_owned()));
            set("rope.scaling.factor", Value::F32(number("factor")? as f32));
            if kind == "yarn" {
                let original = number("original_max_position_embeddings")? as u32;
                set("rope.scaling.original_context_length", Value::U32(original));
            }
        }
        "llama3" => {
            let rule = Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: number("original_max_position_embeddings")?,
            };
            let divisor = |i: u32| rule.divisor(theta.powf(-2.0 * f64::from(i) / f64::from(head_dim))) as f32;
            rope_freqs = Some((0..head_dim / 2).map(divisor).collect());
        }
        other => {
            let expected = "default, linear, yarn or llama3; GGUF has no place for others";
            return Err(bad("rope_scaling.rope_type", format!("`{other}`"), expected));
        }
    }
    if architecture == "gemma3" {
        set("attention.sliding_window", Value::U32(size("sliding_window")?));
        let every =
            optional("sliding_window_pattern").or(optional("_sliding_window_pattern")).unwrap_or(GEMMA3_PATTERN);
        let sliding: Vec<bool> = match config["layer_types"].as_array() {
            Some(kinds) => kinds.iter().map(|k| k == "sliding_attention").collect(),
            None => every_so_many(layers.into(), every),
        };
        if sliding != every_so_many(layers.into(), GEMMA3_PATTERN) {
            let flags = sliding.into_iter().map(Value::Bool).collect();
            set("attention.sliding_window_pattern", Value::Array(super::ValueType::Bool, flags));
        }
        let local = config["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64();
        let local = local.or(config["rope_local_base_freq"].as_f64()).unwrap_or(1e4);
        if local != 1e4 {
            set("rope.freq_base_swa", Value::F32(local as f32));
        }
        for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = config[field].as_f64() {
                set(field, Value::F32(cap as f32));
            }
        }
    }
    Ok(Metadata { architecture, pairs, rope_freqs, head_dim: head_dim as usize })
}
