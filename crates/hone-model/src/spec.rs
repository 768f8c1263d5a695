//! Architecture specs: what a `config.json` (or GGUF metadata) says, in one form for all decoder families.

use hone_engine::ops::{Activation, RopeTable};

/// A decoder-only transformer: llama, qwen2, qwen3, gemma3 (text).
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
    /// Norms after attention and after the MLP as well as before (gemma3: four a block).
    pub post_norms: bool,
    /// Soft cap on attention scores.
    pub attention_soft_cap: Option<f32>,
    /// Soft cap on logits.
    pub logit_soft_cap: Option<f32>,
    /// Layer by layer.
    pub layers: Vec<LayerSpec>,
    /// The raw `config.json`, written back unchanged when the model is saved.
    pub config: serde_json::Value,
}

/// What differs between layers.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// Sliding window, `None` for global attention.
    pub window: Option<usize>,
    /// Rotary frequencies.
    pub rope: RopeTable,
}
