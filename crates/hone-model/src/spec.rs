//! Architecture specs: what a `config.json` says, in one form for all decoder families. (GGUF metadata is turned into the
//! same `config.json` fields by its reader.)
//!
//! Families differ in a handful of numbers and switches, all of them here; the forward pass in [`crate::decoder`] never
//! asks for a family's name. Both spellings of the rotary settings are read: `rope_theta` + `rope_scaling`, and
//! `rope_parameters` (transformers 5), flat or by layer type. A field that would change the numbers and is not honoured
//! is refused by name: a model that loads computes what its authors computed.

mod fields;
mod rope;

use std::path::Path;

use hone_engine::ops::{Activation, AttentionSpec, RopeTable};
use serde_json::Value;

use crate::error::ModelError;
use fields::Fields;

/// A decoder-only transformer: llama, mistral, qwen2, qwen3, gemma2, gemma3 (text).
#[derive(Clone, Debug)]
pub struct DecoderSpec {
    /// Hugging Face `model_type`.
    pub model_type: String,
    /// Vocabulary size.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Epsilon of the norms.
    pub rms_norm_eps: f32,
    /// 1 for Gemma (weights stored around zero), else 0.
    pub norm_offset: f32,
    /// MLP activation.
    pub activation: Activation,
    /// LM head shares the embedding table.
    pub tie_word_embeddings: bool,
    /// Factor on embeddings (Gemma: `sqrt(hidden_size)`), else 1.
    pub embedding_factor: f32,
    /// Factor on attention scores.
    pub attention_scale: f32,
    /// Biases on q, k, v (qwen2).
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub output_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// RMS norm on each query and key head (qwen3, gemma3).
    pub qk_norm: bool,
    /// Norms after attention and after the MLP as well as before (gemma2, gemma3: four a block).
    pub post_norms: bool,
    /// Soft cap on attention scores.
    pub attention_soft_cap: Option<f32>,
    /// Soft cap on logits.
    pub logit_soft_cap: Option<f32>,
    /// Layer by layer.
    pub layers: Vec<LayerSpec>,
    /// The raw `config.json`, written back unchanged when the model is saved. For a multimodal checkpoint its text part.
    pub config: Value,
}

/// What differs between layers.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Sliding window, `None` for global attention.
    pub window: Option<usize>,
    /// Rotary frequencies.
    pub rope: RopeTable,
}

/// `model_type`s with code, as they are named to the user.
pub const KNOWN_MODEL_TYPES: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
}

/// Upper bounds that no real model comes near; they keep a hostile file from asking for absurd allocations.
const MAX_WIDTH: usize = 1 << 20;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_LAYERS: usize = 4096;
const MAX_POSITIONS: usize = 1 << 30;

impl DecoderSpec {
    /// Reads a `config.json` already parsed; `path` is named in errors.
    pub fn from_config(path: &Path, config: &Value) -> Result<DecoderSpec, ModelError> {
        let top = Fields::new(path, config)?;
        let model_type = top.text("model_type")?;
        let family = match model_type {
            "llama" => Family::Llama,
            "mistral" => Family::Mistral,
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            "gemma2" => Family::Gemma2,
            "gemma3_text" => Family::Gemma3,
            "gemma3" => return gemma3_text_part(&top),
            other => {
                return Err(ModelError::UnknownArchitecture {
                    path: path.to_owned(),
                    found: other.to_owned(),
                    known: KNOWN_MODEL_TYPES.join(", "),
                });
            }
        };
        read(&top, family)
    }

    /// What kind of attention layer `layer` has.
    pub fn attention(&self, layer: usize) -> AttentionSpec {
        AttentionSpec {
            query_heads: self.num_attention_heads,
            key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            scale: self.attention_scale,
            causal: true,
            window: self.layers[layer].window,
            soft_cap: self.attention_soft_cap,
        }
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// The text model inside a multimodal `gemma3` checkpoint, as the `gemma3_text` config it would be saved with.
fn gemma3_text_part(top: &Fields) -> Result<DecoderSpec, ModelError> {
    let Some(text) = top.value("text_config") else {
        return Err(top.malformed("text_config", "nothing", "the text model's settings"));
    };
    let mut text = text.clone();
    let Some(map) = text.as_object_mut() else {
        return Err(top.malformed("text_config", &text, "an object"));
    };
    map.insert("model_type".into(), "gemma3_text".into());
    map.insert("architectures".into(), serde_json::json!(["Gemma3ForCausalLM"]));
    for inherited in ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"] {
        if let (Some(value), false) = (top.value(inherited), map.contains_key(inherited)) {
            map.insert(inherited.into(), value.clone());
        }
    }
    read(&Fields::new(top.path, &text)?, Family::Gemma3)
}

fn read(fields: &Fields, family: Family) -> Result<DecoderSpec, ModelError> {
    let gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    refuse_what_is_not_honoured(fields, family)?;

    // Gemma 3's multimodal configs leave out whatever equals transformers' defaults; other families spell sizes out.
    let default = |value: usize| (family == Family::Gemma3).then_some(value);
    let hidden_size = fields.size("hidden_size", default(2304), MAX_WIDTH)?;
    let heads = fields.size("num_attention_heads", default(8), MAX_WIDTH)?;
    let key_value_default = match family {
        Family::Gemma3 | Family::Gemma2 => 4,
        Family::Mistral => 8,
        _ => heads,
    };
    let key_value_heads = fields.size("num_key_value_heads", Some(key_value_default), MAX_WIDTH)?;
    if heads % key_value_heads != 0 {
        let expected = format!("a divisor of num_attention_heads ({heads})");
        return Err(fields.malformed("num_key_value_heads", key_value_heads, expected));
    }
    let head_dim_default = match family {
        Family::Gemma2 | Family::Gemma3 => 256,
        Family::Qwen3 => 128,
        _ if hidden_size % heads == 0 => hidden_size / heads,
        _ => {
            let expected = format!("a multiple of num_attention_heads ({heads}), or a head_dim");
            return Err(fields.malformed("hidden_size", hidden_size, expected));
        }
    };
    let head_dim = fields.size("head_dim", Some(head_dim_default), MAX_HEAD_DIM)?;
    if head_dim % 2 != 0 {
        return Err(fields.malformed("head_dim", head_dim, "an even number (rotary embedding turns pairs)"));
    }
    if heads.saturating_mul(head_dim) > MAX_WIDTH {
        return Err(fields.malformed("num_attention_heads", heads, format!("heads * head_dim up to {MAX_WIDTH}")));
    }
    let max_positions_default = match family {
        Family::Llama => 2048,
        Family::Mistral | Family::Gemma3 => 131_072,
        Family::Qwen2 | Family::Qwen3 => 32_768,
        Family::Gemma2 => 8192,
    };
    let attention_bias = matches!(family, Family::Llama | Family::Qwen3 | Family::Gemma2 | Family::Gemma3)
        && fields.flag("attention_bias", false)?;
    let (activation_field, activation_default) =
        if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    let vocab_size = fields.size("vocab_size", default(262_208), MAX_VOCABULARY)?;
    let score_divisor = if gemma { fields.positive("query_pre_attn_scalar", Some(256.0))? } else { head_dim as f64 };
    let max_position_embeddings = fields.size("max_position_embeddings", Some(max_positions_default), MAX_POSITIONS)?;
    let (attention_cap_default, logit_cap_default) =
        if family == Family::Gemma2 { (Some(50.0), Some(30.0)) } else { (None, None) };

    Ok(DecoderSpec {
        model_type: fields.text("model_type")?.to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", default(9216), MAX_WIDTH)?,
        num_attention_heads: heads,
        num_key_value_heads: key_value_heads,
        head_dim,
        max_position_embeddings,
        rms_norm_eps: fields.positive("rms_norm_eps", Some(1e-6))? as f32,
        norm_offset: if gemma { 1.0 } else { 0.0 },
        activation: activation(fields, activation_field, activation_default)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings", gemma)?,
        embedding_factor: if gemma { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
        attention_scale: score_divisor.sqrt().recip() as f32,
        qkv_bias: attention_bias || family == Family::Qwen2,
        output_bias: attention_bias,
        mlp_bias: family == Family::Llama && fields.flag("mlp_bias", false)?,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        post_norms: gemma,
        attention_soft_cap: soft_cap(fields, "attn_logit_softcapping", attention_cap_default)?,
        logit_soft_cap: soft_cap(fields, "final_logit_softcapping", logit_cap_default)?,
        layers: layers(fields, family, head_dim, max_position_embeddings)?,
        config: fields.to_value(),
    })
}

/// Fields that change the numbers, are not honoured here, and stand at another than their neutral value.
fn refuse_what_is_not_honoured(fields: &Fields, family: Family) -> Result<(), ModelError> {
    if let Some(factor) = fields.value("partial_rotary_factor").and_then(Value::as_f64)
        && factor != 1.0
    {
        return Err(fields.malformed("partial_rotary_factor", factor, "1 (rotating part of a head is not supported)"));
    }
    if fields.flag("use_bidirectional_attention", false)? {
        return Err(fields.malformed("use_bidirectional_attention", true, "false (decoders here are causal)"));
    }
    if !fields.flag("is_causal", true)? {
        return Err(fields.malformed("is_causal", false, "true (decoders here are causal)"));
    }
    if fields.value("quantization_config").is_some() {
        let expected = "no quantised safetensors; load the unquantised checkpoint or a GGUF file";
        return Err(fields.malformed("quantization_config", "a quantised checkpoint", expected));
    }
    // transformers has the field but its Gemma 3 attention never applies it, so no model can mean it.
    if family == Family::Gemma3 && fields.value("attn_logit_softcapping").is_some() {
        let found = fields.number("attn_logit_softcapping", None)?;
        return Err(fields.malformed("attn_logit_softcapping", found, "null for gemma3"));
    }
    Ok(())
}

fn activation(fields: &Fields, name: &'static str, default: &str) -> Result<Activation, ModelError> {
    match fields.optional_text(name)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "tanh" => Ok(Activation::Tanh),
        "sigmoid" => Ok(Activation::Sigmoid),
        other => Err(fields.malformed(name, other, "silu, gelu, gelu_pytorch_tanh, gelu_new, relu, tanh or sigmoid")),
    }
}

fn soft_cap(fields: &Fields, name: &'static str, default: Option<f32>) -> Result<Option<f32>, ModelError> {
    if fields.is_null(name) {
        return Ok(None);
    }
    if fields.value(name).is_none() {
        return Ok(default);
    }
    Ok(Some(fields.positive(name, None)? as f32))
}

/// Windows and rotary tables, layer by layer.
fn layers(
    fields: &Fields,
    family: Family,
    head_dim: usize,
    max_positions: usize,
) -> Result<Vec<LayerSpec>, ModelError> {
    let count = fields.size("num_hidden_layers", if family == Family::Gemma3 { Some(26) } else { None }, MAX_LAYERS)?;
    let window = window(fields, family)?;
    let default_is_sliding: Box<dyn Fn(usize) -> bool> = match family {
        Family::Llama => Box::new(|_| false),
        Family::Mistral => Box::new(|_| window.is_some()),
        Family::Qwen2 | Family::Qwen3 => {
            let from = fields.count("max_window_layers", 28)?;
            Box::new(move |layer| window.is_some() && layer >= from)
        }
        Family::Gemma2 => Box::new(|layer| (layer + 1) % 2 != 0),
        Family::Gemma3 => {
            // Saved by some versions of transformers with a leading underscore.
            let pattern = fields.size("_sliding_window_pattern", Some(6), MAX_LAYERS)?;
            let pattern = fields.size("sliding_window_pattern", Some(pattern), MAX_LAYERS)?;
            Box::new(move |layer| (layer + 1) % pattern != 0)
        }
    };
    let sliding = match fields.layer_types(count)? {
        None => (0..count).map(default_is_sliding).collect(),
        // transformers gives every Mistral layer the window, or none: a list that says otherwise is another model.
        Some(types) if family == Family::Mistral && types.iter().any(|&s| s != window.is_some()) => {
            let expected = "the same attention in every layer, with a sliding_window or without";
            return Err(fields.malformed("layer_types", "mixed attention", expected));
        }
        // Llama has no windows in transformers, whatever its config lists.
        Some(types) if family == Family::Llama && types.contains(&true) => {
            return Err(fields.malformed("layer_types", "sliding_attention", "full_attention for llama"));
        }
        Some(types) => types,
    };
    let tables = rope::tables(fields, family, head_dim, max_positions)?;
    let layer = |sliding: bool| -> Result<LayerSpec, ModelError> {
        if !sliding {
            return Ok(LayerSpec { window: None, rope: tables.full.clone() });
        }
        let Some(window) = window else {
            return Err(fields.malformed("sliding_window", "nothing", "a window, as layer_types asks for one"));
        };
        Ok(LayerSpec { window: Some(window), rope: tables.sliding.clone() })
    };
    sliding.into_iter().map(layer).collect()
}

fn window(fields: &Fields, family: Family) -> Result<Option<usize>, ModelError> {
    let used = match family {
        Family::Llama => false,
        Family::Qwen2 | Family::Qwen3 => fields.flag("use_sliding_window", false)?,
        _ => !fields.is_null("sliding_window"),
    };
    if !used {
        return Ok(None);
    }
    Ok(Some(fields.size("sliding_window", Some(4096), MAX_POSITIONS)?))
}

#[cfg(test)]
mod tests;
