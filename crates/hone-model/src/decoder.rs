//! The decoder: one config-driven forward pass for all decoder families.

use std::sync::Arc;

use hone_engine::{Tensor, Var, WeightRef};

use crate::context::{Context, Linear, TokenBatch};
use crate::spec::DecoderSpec;

/// Weights of a decoder and its forward pass.
pub struct Decoder {
    /// The architecture.
    pub spec: DecoderSpec,
    /// `model.embed_tokens.weight`, `[vocab, hidden]`.
    pub embed_tokens: WeightRef,
    /// Layer by layer.
    pub layers: Vec<Layer>,
    /// `model.norm.weight`.
    pub norm: Tensor,
    /// `lm_head.weight`; `None` when tied to the embedding.
    pub lm_head: Option<WeightRef>,
}

/// One decoder layer. Norm weights are `[hidden]` (or `[head_dim]`).
pub struct Layer {
    /// `input_layernorm`.
    pub input_norm: Tensor,
    /// `self_attn.q_proj` …
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// Attention output.
    pub o: Linear,
    /// `self_attn.q_norm`.
    pub q_norm: Option<Tensor>,
    /// `self_attn.k_norm`.
    pub k_norm: Option<Tensor>,
    /// `post_attention_layernorm` where it follows attention (gemma3).
    pub post_attention_norm: Option<Tensor>,
    /// The norm before the MLP: `post_attention_layernorm` (llama), `pre_feedforward_layernorm` (gemma3).
    pub mlp_norm: Tensor,
    /// `post_feedforward_layernorm` (gemma3).
    pub post_mlp_norm: Option<Tensor>,
    /// MLP gate.
    pub gate: Linear,
    /// MLP up.
    pub up: Linear,
    /// MLP down.
    pub down: Linear,
}

impl Decoder {
    /// Final-norm hidden states `[tokens, hidden]` of a batch.
    pub fn hidden(self: &Arc<Self>, _cx: &Context, _batch: &TokenBatch) -> Var {
        todo!()
    }

    /// The LM head `[vocab, hidden]` as the context's edits have it (the embedding table when tied).
    pub fn head(&self, _cx: &Context) -> WeightRef {
        todo!()
    }

    /// Every linear map except the LM head, in order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down])
    }
}
