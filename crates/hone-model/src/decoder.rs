//! The decoder: one config-driven forward pass for all decoder families.
//!
//! With `h` the residual stream `[tokens, hidden]` and `N` an RMS norm, layer by layer (llama, mistral, qwen):
//!
//! `h += o(attention(rope(q(N h)), rope(k(N h)), v(N h)))`, `h += down(f(gate(N h)) * up(N h))`;
//!
//! qwen3 and gemma3 norm every query and key head before the rotation; gemma2 and gemma3 norm what attention and the MLP
//! give before it is added, and scale the embeddings by `sqrt(hidden)`. All of that stands in [`DecoderSpec`]; nothing
//! here asks for a family's name.
//!
//! Every weight is asked of the [`Context`] and every activation announced to it. The sum that closes a half block and the
//! norm that opens the next are one operation; a hook that changes the sum gets the norm of what it returned.
//!
//! It knows nothing of files (its part [`load`] does), of text, or of what the hidden states are used for: the LM head's products
//! belong to whoever knows which rows it needs.

mod load;
mod replace;

use std::sync::Arc;

use hone_engine::ops::{self, RopeAngles, RopeTable};
use hone_engine::{DType, Element, Tape, Tensor, Var, WeightRef, bf16};

use crate::context::{Context, Hooks, Linear, NoHooks, Sharing, TokenBatch};
use crate::site::{LayerPart, Site};
use crate::spec::DecoderSpec;

pub use load::{SCORE_HEAD, expected_tensors};
pub use replace::NamedWeight;

/// Name of the embedding table.
pub const EMBED_TOKENS: &str = "model.embed_tokens.weight";
/// Name of the LM head.
pub const LM_HEAD: &str = "lm_head.weight";

/// Weights of a decoder and its forward pass.
pub struct Decoder {
    /// The architecture.
    pub spec: DecoderSpec,
    /// `model.embed_tokens.weight`, `[vocab, hidden]`.
    pub embed_tokens: WeightRef,
    /// Layer by layer.
    pub layers: Vec<Layer>,
    /// `model.norm.weight`.
    pub norm: Norm,
    /// `lm_head.weight`; `None` when tied to the embedding.
    pub lm_head: Option<WeightRef>,
}

/// The weight of an RMS norm.
#[derive(Clone)]
pub struct Norm {
    /// Hugging Face tensor name, `model.layers.3.input_layernorm.weight`.
    pub name: String,
    /// `[hidden]` or `[head_dim]`, `f32`.
    pub weight: Tensor,
}

/// One decoder layer.
#[derive(Clone)]
pub struct Layer {
    /// `input_layernorm`.
    pub input_norm: Norm,
    /// `self_attn.q_proj`.
    pub q: Linear,
    /// `self_attn.k_proj`.
    pub k: Linear,
    /// `self_attn.v_proj`.
    pub v: Linear,
    /// `self_attn.o_proj`.
    pub o: Linear,
    /// `self_attn.q_norm`.
    pub q_norm: Option<Norm>,
    /// `self_attn.k_norm`.
    pub k_norm: Option<Norm>,
    /// `post_attention_layernorm` where it follows attention (gemma2, gemma3).
    pub post_attention_norm: Option<Norm>,
    /// The norm before the MLP: `post_attention_layernorm` (llama), `pre_feedforward_layernorm` (gemma2, gemma3).
    pub mlp_norm: Norm,
    /// `post_feedforward_layernorm` (gemma2, gemma3).
    pub post_mlp_norm: Option<Norm>,
    /// `mlp.gate_proj`.
    pub gate: Linear,
    /// `mlp.up_proj`.
    pub up: Linear,
    /// `mlp.down_proj`.
    pub down: Linear,
}

/// What all layers of a forward pass share.
struct Pass<'a> {
    cx: &'a Context,
    /// One a layer.
    angles: &'a [RopeAngles],
}

impl Decoder {
    /// Final-norm hidden states `[tokens, hidden]` of a batch, in the context's type.
    ///
    /// With [`Context::cache`] the batch's tokens go where the cache's lanes say, and nothing is recorded.
    ///
    /// Panics on a token id outside the vocabulary (see [`crate::Model::check_batch`]), on an empty batch, and on a
    /// cache together with a recording tape.
    pub fn hidden(self: &Arc<Self>, cx: &Context, batch: &TokenBatch) -> Var {
        assert!(!batch.is_empty(), "a forward pass over no tokens");
        assert!(cx.cache.is_none() || !cx.tape.is_recording(), "a key-value cache has no gradient");
        let first_pass = cx.hooks.wants_first_pass().then(|| self.first_pass(cx, batch));
        let (cx, batch) = (&Context { first_pass, ..cx.over(Arc::new(batch.clone())) }, batch);
        let table = cx.weight(EMBED_TOKENS, &self.embed_tokens);
        let factor = rounded(self.spec.embedding_factor, cx.dtype);
        let h = ops::embedding(&cx.tape, &table, &batch.ids, factor, cx.dtype);
        let h = cx.at(Site::EmbedOut, h);
        match cx.hooks.virtual_tokens() {
            0 => self.after_embedding(cx, h),
            count => {
                let (cx, h) = behind_virtual_tokens(cx, h, count);
                let last = self.after_embedding(&cx, h);
                ops::rows(&cx.tape, &last, 0..batch.len())
            }
        }
    }

    /// What the unedited model makes of the batch; its keys and values go behind those of the edited one's layers.
    fn first_pass(self: &Arc<Self>, cx: &Context, batch: &TokenBatch) -> Var {
        let bare: Arc<dyn Hooks> = Arc::new(NoHooks);
        let cx = Context { tape: Tape::off(), hooks: bare, cache_layer: self.layers.len(), ..cx.clone() };
        self.hidden(&cx, batch)
    }

    /// Layers and final norm over the context's batch.
    fn after_embedding(self: &Arc<Self>, cx: &Context, h: Var) -> Var {
        let angles = self.angles(&cx.batch, cx.dtype);
        let last = if cx.recompute && cx.tape.is_recording() {
            self.recomputed_layers(cx, angles, h)
        } else {
            self.layers(&Pass { cx, angles: &angles }, h)
        };
        cx.at(Site::FinalNorm, last)
    }

    /// The LM head `[vocab, hidden]` as the context's edits have it. Where it is tied, an edit of the embedding table
    /// reaches it, and one that names `lm_head.weight` reaches it alone.
    pub fn head(&self, cx: &Context) -> WeightRef {
        match &self.lm_head {
            Some(head) => cx.weight(LM_HEAD, head),
            None => cx.weight(LM_HEAD, &cx.weight(EMBED_TOKENS, &self.embed_tokens)),
        }
    }

    /// Every linear map except the LM head, in order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down])
    }

    /// From now on steps of at most 32 rows multiply weights that were kept quantised in 8-bit integers, the activations
    /// rounded to them: writing a text gets several times faster, logits move by a per cent or so
    /// (`hone_engine::Weight::round_activations`). Nothing happens to other weights; how many matrices it is for.
    pub fn round_activations(&self) -> usize {
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        let linears = self.linears().map(|linear| &linear.weight);
        let rounds = |weight: &&WeightRef| matches!(weight, WeightRef::Frozen(weight) if weight.round_activations());
        linears.chain([head]).filter(rounds).count()
    }

    /// Cosines and sines of the batch's positions, one a layer; layers with equal tables share them.
    fn angles(&self, batch: &TokenBatch, dtype: DType) -> Vec<RopeAngles> {
        let mut made: Vec<(&RopeTable, RopeAngles)> = Vec::new();
        let of_layer = |table| match made.iter().find(|(other, _)| *other == table) {
            Some((_, angles)) => angles.clone(),
            None => {
                made.push((table, table.angles(&batch.positions, dtype)));
                made[made.len() - 1].1.clone()
            }
        };
        self.spec.layers.iter().map(|layer| &layer.rope).map(of_layer).collect()
    }

    /// All layers and the final norm, every sum fused with the norm after it.
    fn layers(&self, pass: &Pass, h: Var) -> Var {
        let cx = pass.cx;
        let Some(first) = self.layers.first() else { return self.norm(cx, &h, &self.norm) };
        let mut h = cx.at(Site::Layer { layer: 0, part: LayerPart::ResidPre }, h);
        let mut normed = self.norm(cx, &h, &first.input_norm);
        for layer in 0..self.layers.len() {
            let (middle, out) = self.block(pass, layer, h, normed);
            let after = Site::Layer { layer, part: LayerPart::ResidPost };
            (h, normed) = match self.layers.get(layer + 1) {
                Some(next) => {
                    let before = Site::Layer { layer: layer + 1, part: LayerPart::ResidPre };
                    self.add_norm(cx, &middle, &out, &[after, before], &next.input_norm)
                }
                None => self.add_norm(cx, &middle, &out, &[after], &self.norm),
            };
        }
        normed
    }

    /// The same, each block kept as its input only and run again when its gradient is due. Hooks see a block once more
    /// then.
    fn recomputed_layers(self: &Arc<Self>, cx: &Context, angles: Vec<RopeAngles>, mut h: Var) -> Var {
        let shared = Arc::new(angles);
        for layer in 0..self.layers.len() {
            let (this, cx_of_block, shared) = (self.clone(), cx.clone(), shared.clone());
            h = ops::recompute(&cx.tape, &h, move |tape, h| {
                let cx = cx_of_block.on_tape(tape);
                let pass = Pass { cx: &cx, angles: &shared };
                let h = cx.at(Site::Layer { layer, part: LayerPart::ResidPre }, h.clone());
                let normed = this.norm(&cx, &h, &this.layers[layer].input_norm);
                let (middle, out) = this.block(&pass, layer, h, normed);
                let sum = ops::add(tape, &middle, &out);
                cx.at(Site::Layer { layer, part: LayerPart::ResidPost }, sum)
            });
        }
        self.norm(cx, &h, &self.norm)
    }

    /// One layer without its last sum: the residual stream between attention and MLP, and what the MLP adds to it.
    fn block(&self, pass: &Pass, layer: usize, h: Var, normed: Var) -> (Var, Var) {
        let (cx, weights) = (pass.cx, &self.layers[layer]);
        let at = |part, value| cx.at(Site::Layer { layer, part }, value);
        let attended = self.attention(pass, layer, &normed);
        let attended = match &weights.post_attention_norm {
            Some(norm) => self.norm(cx, &attended, norm),
            None => attended,
        };
        let attended = at(LayerPart::AttnOut, attended);
        let middle = Site::Layer { layer, part: LayerPart::ResidMid };
        let (middle, normed) = self.add_norm(cx, &h, &attended, &[middle], &weights.mlp_norm);

        let normed = at(LayerPart::MlpIn, normed);
        let [gate, up] = cx.linears([&weights.gate, &weights.up], &normed);
        let activated = at(LayerPart::MlpAct, ops::gated(&cx.tape, &gate, &up, self.spec.activation));
        let out = cx.linear(&weights.down, &activated);
        let out = match &weights.post_mlp_norm {
            Some(norm) => self.norm(cx, &out, norm),
            None => out,
        };
        (middle, at(LayerPart::MlpOut, out))
    }

    fn attention(&self, pass: &Pass, layer: usize, normed: &Var) -> Var {
        let (cx, weights) = (pass.cx, &self.layers[layer]);
        let at = |part, value| cx.at(Site::Layer { layer, part }, value);
        let rotated = |x: Var, norm: &Option<Norm>| {
            let x = match norm {
                Some(norm) => {
                    let weight = cx.vector(&norm.name, &norm.weight);
                    ops::head_rms_norm(&cx.tape, &x, &weight, self.spec.rms_norm_eps, self.spec.norm_offset)
                }
                None => x,
            };
            ops::rope(&cx.tape, &x, self.spec.head_dim, &pass.angles[layer])
        };
        let normed = at(LayerPart::AttnIn, normed.clone());
        let [q, k, v] = cx.linears([&weights.q, &weights.k, &weights.v], &normed);
        let q = at(LayerPart::Query, rotated(q, &weights.q_norm));
        let k = at(LayerPart::Key, rotated(k, &weights.k_norm));
        let v = at(LayerPart::Value, v);
        let spec = self.spec.attention(layer);
        let heads = match &cx.cache {
            None => ops::attention(&cx.tape, &q, &k, &v, &cx.batch.segments, &spec, None),
            Some(step) => {
                let mut step = step.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                Var::constant(step.attend(cx.cache_layer + layer, &q.value, &k.value, &v.value, &spec))
            }
        };
        cx.linear(&weights.o, &at(LayerPart::HeadOut, heads))
    }

    fn norm(&self, cx: &Context, x: &Var, norm: &Norm) -> Var {
        let weight = cx.vector(&norm.name, &norm.weight);
        ops::rms_norm(&cx.tape, x, &weight, self.spec.rms_norm_eps, self.spec.norm_offset)
    }

    /// `residual + x`, announced at `sites`, and its norm.
    fn add_norm(&self, cx: &Context, residual: &Var, x: &Var, sites: &[Site], norm: &Norm) -> (Var, Var) {
        let weight = cx.vector(&norm.name, &norm.weight);
        let (eps, offset) = (self.spec.rms_norm_eps, self.spec.norm_offset);
        let (sum, normed) = ops::add_rms_norm(&cx.tape, residual, x, &weight, eps, offset);
        let announced = sites.iter().fold(sum.clone(), |sum, site| cx.at(*site, sum));
        if is_same(&announced, &sum) {
            return (sum, normed);
        }
        let normed = ops::rms_norm(&cx.tape, &announced, &weight, eps, offset);
        (announced, normed)
    }
}

/// The context and the embeddings with `count` virtual tokens before every sequence; with a cache, before those that begin.
fn behind_virtual_tokens(cx: &Context, h: Var, count: usize) -> (Context, Var) {
    let shared = match cx.hooks.virtual_token_sharing() {
        Sharing::All => true,
        Sharing::Group => cx.batch.groups.is_empty(),
        Sharing::Sequence => false,
    };
    let batch = match &cx.cache {
        None => cx.batch.behind_virtual_tokens(count, shared),
        Some(step) => {
            let mut step = step.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            step.behind_virtual_tokens(&cx.batch, count)
        }
    };
    let rows = batch.virtual_rows;
    let cx = cx.over(Arc::new(batch));
    if rows == 0 {
        return (cx, h);
    }
    let zeros = || Var::constant(Tensor::zeros([rows, h.value.rows_cols().1], cx.dtype));
    let embeddings = cx.hooks.virtual_embeddings(&cx).unwrap_or_else(zeros);
    let h = ops::concat_rows(&cx.tape, &[h, embeddings]);
    (cx, h)
}

/// Whether a hook handed back the very value it was given. (Writing to a shared tensor copies it, so a change shows.)
fn is_same(a: &Var, b: &Var) -> bool {
    a.origin == b.origin && std::ptr::eq(a.value.as_bytes(), b.value.as_bytes())
}

/// A factor as the compute type holds it: Gemma was trained with `sqrt(hidden)` rounded to bf16 in bf16.
fn rounded(factor: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => factor,
        DType::BF16 => Element::widen(<bf16 as Element>::rounded(factor)),
    }
}
