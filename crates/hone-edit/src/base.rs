//! What of a model can be edited: the names, shapes and values of its weights, as plain data.
//!
//! Methods plan against a [`Base`], not against a model's structs, so a method knows nothing of architectures.

use std::sync::Arc;

use hone_engine::{DType, Tensor, WeightRef};
use hone_model::decoder::{EMBED_TOKENS, LM_HEAD, NamedWeight};
use hone_model::tokenizer::Tokenizer;
use hone_model::{Model, Quantise};

/// The word for a base that is not rounded, beside those of `quantize`.
pub const UNROUNDED: &str = "none";

/// What kind of weight stands at a name: what hooks can do with it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightKind {
    /// `[out, in]` of a linear map inside the layers.
    Linear,
    /// `[vocabulary, hidden]`: the embedding table.
    Embedding,
    /// `[vocabulary, hidden]`: the LM head. Listed also when it is the embedding table (see [`Base::tied_head`]).
    Head,
    /// A norm's weight.
    Norm,
    /// A linear map's bias.
    Bias,
}

/// The numbers of a weight.
#[derive(Clone)]
pub enum BaseValue {
    /// A linear map, an embedding table or a head, in the layouts its products want.
    Matrix(WeightRef),
    /// A norm or a bias.
    Vector(Tensor),
    /// Not known: see [`Base::before`].
    Unknown,
}

/// One weight.
#[derive(Clone)]
pub struct BaseWeight {
    /// Hugging Face tensor name: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// What it is.
    pub kind: WeightKind,
    /// The numbers.
    pub value: BaseValue,
    /// Its axes.
    pub shape: Vec<usize>,
}

impl BaseWeight {
    /// The module the weight belongs to: its name without `.weight` or `.bias`.
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(module, _)| module)
    }

    /// Bytes its numbers take, in whatever form they are held.
    pub fn bytes(&self) -> usize {
        match &self.value {
            BaseValue::Matrix(WeightRef::Frozen(weight)) => weight.bytes(),
            BaseValue::Matrix(WeightRef::Trained(var)) => var.value.as_bytes().len(),
            BaseValue::Vector(tensor) => tensor.as_bytes().len(),
            BaseValue::Unknown => 0,
        }
    }

    /// Whether there are numbers, and not a name and a shape alone.
    pub fn is_known(&self) -> bool {
        !matches!(self.value, BaseValue::Unknown)
    }

    /// The values in `f32`, copied (expanded if quantised); NaN where they are not known, so that what is made of them shows it.
    pub fn to_f32(&self) -> Tensor {
        match &self.value {
            BaseValue::Matrix(WeightRef::Frozen(weight)) => weight.to_dense(DType::F32),
            BaseValue::Matrix(WeightRef::Trained(var)) => var.value.to_dtype(DType::F32),
            BaseValue::Vector(tensor) => tensor.to_dtype(DType::F32),
            BaseValue::Unknown => Tensor::full(self.shape.as_slice(), DType::F32, f32::NAN),
        }
    }
}

/// A model as edits see it.
#[derive(Clone)]
pub struct Base {
    /// Hugging Face `model_type`.
    pub model_type: String,
    /// What the user typed to name the model.
    pub reference: String,
    /// SHA-256 of its weights; empty where they are not known.
    pub sha256: String,
    /// What its linear maps were rounded to as they were read, by the word of `quantize`; [`UNROUNDED`] where they are as its
    /// files have them.
    pub quantize: String,
    /// Whether the LM head is the embedding table.
    pub tied_head: bool,
    /// Every weight, in order of the forward pass.
    pub weights: Vec<BaseWeight>,
    /// Widths and counts, for methods that act on activations.
    pub geometry: Geometry,
    /// What the model multiplies its embeddings by (Gemma: `√hidden`).
    pub embedding_factor: f32,
    /// The tokenizer, for prompts that start from a text.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

/// Widths and counts of a decoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub query_heads: usize,
    /// Key and value heads.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
}

impl Geometry {
    /// Width of all keys (or values) of a token.
    pub fn key_value_width(&self) -> usize {
        self.key_value_heads * self.head_dim
    }
}

impl Base {
    /// The view of a loaded model.
    pub fn of(model: &Model) -> Base {
        let decoder = &model.decoder;
        let mut base = Base {
            model_type: model.spec.model_type.clone(),
            reference: model.source.reference.clone(),
            sha256: model.source.sha256.clone(),
            quantize: match model.quantise {
                Some(Quantise::To(kind)) => kind.to_string().to_lowercase(),
                Some(Quantise::Keep) | None => UNROUNDED.into(),
            },
            tied_head: decoder.lm_head.is_none(),
            weights: Vec::new(),
            geometry: Geometry {
                layers: decoder.layers.len(),
                hidden: model.spec.hidden_size,
                intermediate: model.spec.intermediate_size,
                query_heads: model.spec.num_attention_heads,
                key_value_heads: model.spec.num_key_value_heads,
                head_dim: model.spec.head_dim,
                vocabulary: model.spec.vocab_size,
            },
            embedding_factor: model.spec.embedding_factor,
            tokenizer: Some(model.tokenizer.clone()),
        };
        for (name, weight) in decoder.tensors() {
            let kind = match weight {
                NamedWeight::Matrix(_) if name == EMBED_TOKENS => WeightKind::Embedding,
                NamedWeight::Matrix(_) if name == LM_HEAD => WeightKind::Head,
                NamedWeight::Matrix(_) => WeightKind::Linear,
                NamedWeight::Vector(_) if name.ends_with(".bias") => WeightKind::Bias,
                NamedWeight::Vector(_) => WeightKind::Norm,
            };
            let value = match weight {
                NamedWeight::Matrix(matrix) => BaseValue::Matrix(matrix.clone()),
                NamedWeight::Vector(vector) => BaseValue::Vector(vector.clone()),
            };
            base.push(name, kind, value);
        }
        if base.tied_head {
            base.push(LM_HEAD.into(), WeightKind::Head, BaseValue::Matrix(decoder.embed_tokens.clone()));
        }
        base
    }

    /// The model that `merged` was before edits were merged into it, as far as that tells: the same names and shapes, and no
    /// numbers. Edits are read for it without the check that it is the base they were made for, and what is made of the base's
    /// weights fails.
    pub fn before(merged: &Model) -> Base {
        let mut base = Base::of(merged);
        base.sha256.clear();
        base.weights.iter_mut().for_each(|weight| weight.value = BaseValue::Unknown);
        base
    }

    /// Whether the numbers of its weights are known.
    pub fn is_known(&self) -> bool {
        self.weights.iter().all(BaseWeight::is_known)
    }

    /// Numbers in all weights, a head that is the embedding table counted once.
    pub fn parameter_count(&self) -> usize {
        let counted = self.weights.iter().filter(|w| !(self.tied_head && w.kind == WeightKind::Head));
        counted.map(|w| w.shape.iter().product::<usize>()).sum()
    }

    /// The weight of this tensor name.
    pub fn weight(&self, name: &str) -> Option<&BaseWeight> {
        self.weights.iter().find(|w| w.name == name)
    }

    /// Whether any linear map is kept in few bits.
    pub fn is_quantised(&self) -> bool {
        let in_blocks = |w: &BaseWeight| matches!(&w.value, BaseValue::Matrix(WeightRef::Frozen(weight)) if weight.quantised().is_some());
        self.linears().any(in_blocks)
    }

    /// The linear maps inside the layers, in order of the forward pass.
    pub fn linears(&self) -> impl Iterator<Item = &BaseWeight> {
        self.weights.iter().filter(|w| w.kind == WeightKind::Linear)
    }

    /// Adds a weight; its shape is read from the value.
    pub fn push(&mut self, name: String, kind: WeightKind, value: BaseValue) {
        let shape = match &value {
            BaseValue::Matrix(WeightRef::Frozen(weight)) => vec![weight.out_features(), weight.in_features()],
            BaseValue::Matrix(WeightRef::Trained(var)) => var.value.dims().to_vec(),
            BaseValue::Vector(tensor) => tensor.dims().to_vec(),
            BaseValue::Unknown => Vec::new(),
        };
        self.weights.push(BaseWeight { name, kind, value, shape });
    }
}
