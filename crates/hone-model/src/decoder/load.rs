//! A decoder from its files: which tensors an architecture has, under which names and shapes, and their loading.
//!
//! [`expected_tensors`] is the one list; what the files hold is held against it before anything is read, so that one
//! message names every tensor that is missing, mis-shaped, or there in vain (a bias nobody would add is another model).

use std::collections::HashMap;
use std::sync::Arc;

use hone_engine::{DType, Tensor, WeightRef};

use super::{Decoder, EMBED_TOKENS, LM_HEAD, Layer, Norm};
use crate::context::Linear;
use crate::error::ModelError;
use crate::model::LoadOptions;
use crate::spec::DecoderSpec;
use crate::weights::WeightFiles;

/// Hugging Face name and shape of every tensor of an architecture, in order of the forward pass.
pub fn expected_tensors(spec: &DecoderSpec) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (spec.hidden_size, spec.intermediate_size);
    let (queries, keys) = (spec.query_width(), spec.key_value_width());
    let mut list = vec![(EMBED_TOKENS.to_owned(), vec![spec.vocab_size, hidden])];
    for layer in 0..spec.layers.len() {
        let mut norm = |module: &str, width: usize| {
            list.push((format!("model.layers.{layer}.{module}.weight"), vec![width]));
        };
        norm("input_layernorm", hidden);
        norm("post_attention_layernorm", hidden);
        if spec.post_norms {
            norm("pre_feedforward_layernorm", hidden);
            norm("post_feedforward_layernorm", hidden);
        }
        if spec.qk_norm {
            norm("self_attn.q_norm", spec.head_dim);
            norm("self_attn.k_norm", spec.head_dim);
        }
        let mut linear = |module: &str, out: usize, inputs: usize, bias: bool| {
            list.push((format!("model.layers.{layer}.{module}.weight"), vec![out, inputs]));
            if bias {
                list.push((format!("model.layers.{layer}.{module}.bias"), vec![out]));
            }
        };
        linear("self_attn.q_proj", queries, hidden, spec.qkv_bias);
        linear("self_attn.k_proj", keys, hidden, spec.qkv_bias);
        linear("self_attn.v_proj", keys, hidden, spec.qkv_bias);
        linear("self_attn.o_proj", hidden, queries, spec.output_bias);
        linear("mlp.gate_proj", inner, hidden, spec.mlp_bias);
        linear("mlp.up_proj", inner, hidden, spec.mlp_bias);
        linear("mlp.down_proj", hidden, inner, spec.mlp_bias);
    }
    list.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !spec.tie_word_embeddings {
        list.push((LM_HEAD.to_owned(), vec![spec.vocab_size, hidden]));
    }
    list
}

/// How the decoder's tensors are called in the files: `model.` stands for one of these, the first of each pair.
const PREFIXES: [(&str, &str); 4] = [
    ("model.", "lm_head.weight"),
    ("language_model.model.", "language_model.lm_head.weight"),
    ("model.language_model.", "lm_head.weight"),
    ("", "lm_head.weight"),
];

/// Tensors beside the decoder's in multimodal checkpoints, whose text part alone is loaded.
const OTHER_MODALITIES: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

/// The head of a model that gives a text a number instead of its next token (`…ForSequenceClassification`), `[labels, hidden]`.
pub const SCORE_HEAD: &str = "score.weight";

struct Loader<'a> {
    files: &'a WeightFiles,
    options: LoadOptions,
    shapes: HashMap<String, Vec<usize>>,
    prefix: (&'static str, &'static str),
    /// Whether the files have [`SCORE_HEAD`], which somebody else reads.
    scores: bool,
}

impl Decoder {
    /// Loads the weights that `spec` asks for.
    pub fn load(spec: DecoderSpec, files: &WeightFiles, options: LoadOptions) -> Result<Decoder, ModelError> {
        if files.shape(SCORE_HEAD).is_some() {
            return Err(ModelError::ScoreHead { path: files.path().to_owned() });
        }
        Decoder::load_beside(spec, files, options, false)
    }

    /// The same of files that have a [`SCORE_HEAD`] instead of an LM head. The decoder's own head is then its embedding
    /// table, and means nothing.
    pub(crate) fn load_scoring(
        mut spec: DecoderSpec,
        files: &WeightFiles,
        options: LoadOptions,
    ) -> Result<Decoder, ModelError> {
        spec.tie_word_embeddings = true;
        Decoder::load_beside(spec, files, options, true)
    }

    fn load_beside(
        mut spec: DecoderSpec,
        files: &WeightFiles,
        options: LoadOptions,
        scores: bool,
    ) -> Result<Decoder, ModelError> {
        let has = |prefix: &str| files.shape(&format!("{prefix}embed_tokens.weight")).is_some();
        let prefix = PREFIXES.into_iter().find(|(prefix, _)| has(prefix)).unwrap_or(PREFIXES[0]);
        let mut loader = Loader { files, options, shapes: HashMap::new(), prefix, scores };
        // Some checkpoints carry a head though their config ties it. transformers uses it where it differs.
        let redundant_head = spec.tie_word_embeddings && files.shape(prefix.1).is_some();
        if redundant_head {
            spec.tie_word_embeddings = false;
        }
        loader.check(&spec)?;
        if redundant_head && loader.head_equals_embedding()? {
            spec.tie_word_embeddings = true;
        }
        loader.decoder(spec)
    }
}

impl Loader<'_> {
    /// The name in the files of a tensor.
    fn stored(&self, name: &str) -> String {
        if name == LM_HEAD {
            return self.prefix.1.to_owned();
        }
        format!("{}{}", self.prefix.0, name.strip_prefix("model.").unwrap_or(name))
    }

    /// Holds the files' tensors against the architecture's.
    fn check(&mut self, spec: &DecoderSpec) -> Result<(), ModelError> {
        let expected = expected_tensors(spec);
        let mut mismatch = TensorMismatch::default();
        for (name, shape) in &expected {
            let stored = self.stored(name);
            match self.files.shape(&stored) {
                None => mismatch.missing.push(format!("`{stored}` {shape:?}")),
                Some(found) if found != *shape => {
                    mismatch.misshaped.push(format!("`{stored}` is {found:?}, expected {shape:?}"));
                }
                Some(_) => {}
            }
        }
        self.shapes = expected.into_iter().collect();
        let known: std::collections::HashSet<String> = self.shapes.keys().map(|name| self.stored(name)).collect();
        for name in self.files.tensor_names() {
            // Buffers that old versions of transformers saved; they follow from the config.
            let derived = name.ends_with("rotary_emb.inv_freq") || name.ends_with("self_attn.masked_bias");
            let other = OTHER_MODALITIES.iter().any(|modality| name.starts_with(modality));
            let other = other || (self.scores && name == SCORE_HEAD);
            if !known.contains(&name) && !derived && !other {
                let shape = self.files.shape(&name).unwrap_or_default();
                mismatch.unexpected.push(format!("`{name}` {shape:?}"));
            }
        }
        mismatch.into_result(self.files.path())
    }

    fn head_equals_embedding(&self) -> Result<bool, ModelError> {
        let load = |name: &str| self.files.load(&self.stored(name), &self.shapes[name], DType::F32);
        Ok(load(EMBED_TOKENS)?.as_bytes() == load(LM_HEAD)?.as_bytes())
    }

    fn decoder(&self, spec: DecoderSpec) -> Result<Decoder, ModelError> {
        let layers = (0..spec.layers.len()).map(|l| self.layer(l, &spec)).collect::<Result<_, _>>()?;
        Ok(Decoder {
            embed_tokens: self.matrix(EMBED_TOKENS)?,
            layers,
            norm: self.norm("model.norm")?,
            lm_head: if spec.tie_word_embeddings { None } else { Some(self.matrix(LM_HEAD)?) },
            spec,
        })
    }

    fn layer(&self, layer: usize, spec: &DecoderSpec) -> Result<Layer, ModelError> {
        let linear = |module: &str| self.linear(format!("model.layers.{layer}.{module}"));
        let norm = |module: &str| self.norm(&format!("model.layers.{layer}.{module}"));
        let norm_if = |there: bool, module: &str| if there { norm(module).map(Some) } else { Ok(None) };
        let mlp_norm = if spec.post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            q: linear("self_attn.q_proj")?,
            k: linear("self_attn.k_proj")?,
            v: linear("self_attn.v_proj")?,
            o: linear("self_attn.o_proj")?,
            q_norm: norm_if(spec.qk_norm, "self_attn.q_norm")?,
            k_norm: norm_if(spec.qk_norm, "self_attn.k_norm")?,
            post_attention_norm: norm_if(spec.post_norms, "post_attention_layernorm")?,
            mlp_norm: norm(mlp_norm)?,
            post_mlp_norm: norm_if(spec.post_norms, "post_feedforward_layernorm")?,
            gate: linear("mlp.gate_proj")?,
            up: linear("mlp.up_proj")?,
            down: linear("mlp.down_proj")?,
        })
    }

    fn linear(&self, name: String) -> Result<Linear, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = self.shapes.contains_key(&bias).then(|| self.vector(&bias, self.options.dtype)).transpose()?;
        Ok(Linear { name, weight, bias })
    }

    /// Norms are a few numbers that every token passes through: kept in `f32` in every compute type.
    fn norm(&self, module: &str) -> Result<Norm, ModelError> {
        let name = format!("{module}.weight");
        Ok(Norm { weight: self.vector(&name, DType::F32)?, name })
    }

    fn matrix(&self, name: &str) -> Result<WeightRef, ModelError> {
        let LoadOptions { dtype, keep_quantised } = self.options;
        let weight = self.files.load_weight(&self.stored(name), &self.shapes[name], dtype, keep_quantised)?;
        Ok(WeightRef::Frozen(Arc::new(weight)))
    }

    fn vector(&self, name: &str, dtype: DType) -> Result<Tensor, ModelError> {
        self.files.load(&self.stored(name), &self.shapes[name], dtype)
    }
}

/// Everything that does not fit, for one message.
#[derive(Default)]
struct TensorMismatch {
    missing: Vec<String>,
    misshaped: Vec<String>,
    unexpected: Vec<String>,
}

impl TensorMismatch {
    fn into_result(self, path: &std::path::Path) -> Result<(), ModelError> {
        let kinds = [("missing", self.missing), ("mis-shaped", self.misshaped), ("unexpected", self.unexpected)];
        let told: Vec<String> =
            kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| told(kind, names)).collect();
        if told.is_empty() {
            return Ok(());
        }
        Err(ModelError::Tensors { path: path.to_owned(), problems: told.join("; ") })
    }
}

/// `missing (12): a, b, c, d, e …`: a wrong config can make hundreds, and the first few tell the story.
fn told(kind: &str, names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if names.len() > SHOWN { " …" } else { "" };
    format!("{kind} ({}): {}{more}", names.len(), names[..names.len().min(SHOWN)].join(", "))
}
