//! A loaded model: spec, weights, tokenizer, chat template, and where it all came from.

mod fingerprint;
pub mod reward;
mod save;

use std::path::PathBuf;
use std::sync::Arc;

use hone_engine::DType;
use hone_engine::quant::{BlockType, QuantType};
use serde_json::Map;

use crate::context::TokenBatch;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::files::ModelFiles;
use crate::pull;
use crate::spec::DecoderSpec;
use crate::template::{ChatTemplate, Message};
use crate::tokenizer::{Tokenizer, end_ids};
use crate::weights::WeightFiles;
use crate::weights::mapped::ResidentPages;

pub use save::GgufType;

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Type weights and activations are computed in.
    pub dtype: DType,
    /// Keep a GGUF's quantised blocks as they are (inference) instead of expanding them at load.
    pub keep_quantised: bool,
}

/// A base whose linear maps are kept in few bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantise {
    /// Round them as they are read.
    To(QuantType),
    /// A GGUF's blocks as they are in the file.
    Keep,
}

impl Quantise {
    /// The words for it on a command line.
    pub const WORDS: &str = "nf4|q8_0|q4_0|keep";
}

impl std::fmt::Display for Quantise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantise::To(kind) => kind.fmt(f),
            Quantise::Keep => f.write_str("keep"),
        }
    }
}

impl std::str::FromStr for Quantise {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "nf4" => Ok(Quantise::To(QuantType::Nf4 { double: true })),
            "q8_0" => Ok(Quantise::To(QuantType::Gguf(BlockType::Q8_0))),
            "q4_0" => Ok(Quantise::To(QuantType::Gguf(BlockType::Q4_0))),
            "keep" => Ok(Quantise::Keep),
            _ => Err("expected `nf4`, `q8_0`, `q4_0`, or `keep` (a GGUF's own blocks)".into()),
        }
    }
}

/// Where a model came from.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ModelSource {
    /// What the user typed.
    pub reference: String,
    /// The directory or GGUF file.
    pub path: PathBuf,
    /// SHA-256 over the weights' files, in hexadecimal.
    pub sha256: String,
}

/// A loaded model.
pub struct Model {
    /// The architecture.
    pub spec: DecoderSpec,
    /// The weights and the forward pass.
    pub decoder: Arc<Decoder>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// The chat template, if the model has one.
    pub template: Option<ChatTemplate>,
    /// Ids that end a generation: end-of-text and every end-of-turn token.
    pub end_ids: Vec<u32>,
    /// `generation_config.json` as it was found, written back when the model is saved.
    pub generation_config: Option<serde_json::Value>,
    /// Where it came from.
    pub source: ModelSource,
    /// What its linear maps are kept in, where not in the compute type.
    pub quantise: Option<Quantise>,
    /// What of its files is in memory.
    pub pages: ResidentPages,
}

impl Model {
    /// Loads a Hugging Face directory, a GGUF file, or a name that [`crate::pull`] knows and has in the cache.
    pub fn load(reference: &str, options: LoadOptions) -> Result<Model, ModelError> {
        Model::load_files(reference, options, Ok)
    }

    /// The same with the linear maps in few bits, computed in `dtype`. `Keep` of files without blocks is an error.
    pub fn load_quantised(reference: &str, dtype: DType, quantise: Quantise) -> Result<Model, ModelError> {
        let options = LoadOptions { dtype, keep_quantised: true };
        let model = Model::load_files(reference, options, |weights| match quantise {
            Quantise::To(kind) => Ok(weights.rounded_to(kind)),
            Quantise::Keep if weights.holds_blocks()? => Ok(weights),
            Quantise::Keep => {
                let expected = "a GGUF file with quantised blocks; round this one (`nf4`, `q8_0`)";
                Err(ModelError::malformed(weights.path(), "weights", "no quantised blocks to keep", expected))
            }
        })?;
        Ok(Model { quantise: Some(quantise), ..model })
    }

    fn load_files(
        reference: &str,
        options: LoadOptions,
        as_wanted: impl FnOnce(WeightFiles) -> Result<WeightFiles, ModelError>,
    ) -> Result<Model, ModelError> {
        let files = ModelFiles::open(&pull::find(reference)?)?;
        let weights = as_wanted(files.weights()?)?;
        Model::of_files(reference, &files, &weights, |spec| Decoder::load(spec, &weights, options))
    }

    /// A model whose decoder `load` makes.
    fn of_files(
        reference: &str,
        files: &ModelFiles,
        weights: &WeightFiles,
        load: impl FnOnce(DecoderSpec) -> Result<Decoder, ModelError>,
    ) -> Result<Model, ModelError> {
        let config = files.config()?;
        let spec = DecoderSpec::from_config(&files.config_path(), &config)?;
        let tokenizer = Tokenizer::from_files(files)?;
        let generation_config = files.generation_config()?;
        let template = ChatTemplate::from_files(files, &tokenizer)?;
        let end_of_turn = template.as_ref().and_then(|template| template.end_of_turn(&tokenizer));
        let end_ids = end_ids(&spec.config, generation_config.as_ref(), &tokenizer, end_of_turn);
        let decoder = Arc::new(load(spec)?);
        let sha256 = fingerprint::fingerprint(&weights.files())?;
        let source = ModelSource { reference: reference.to_owned(), path: files.path().to_owned(), sha256 };
        let spec = decoder.spec.clone();
        let tokenizer = Arc::new(tokenizer);
        let pages = weights.resident_pages();
        let quantise = None;
        Ok(Model { spec, decoder, tokenizer, template, end_ids, generation_config, source, quantise, pages })
    }

    /// Gives back the memory of weights that were read but lie as the file has them: full tuning computes with its own
    /// copies and leaves the base weights alone until somebody asks for them, when they are read again.
    pub fn release_pages(&self) {
        self.pages.release();
    }

    /// A conversation as the model's chat template writes it; `add_generation_prompt` opens the assistant's turn. A model
    /// without a template is an error.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
        let Some(template) = &self.template else {
            let expected = "a model that was tuned for conversations; give this one plain text";
            return Err(ModelError::malformed(&self.source.path, "chat template", "none", expected));
        };
        template.render(messages, add_generation_prompt, &Map::new())
    }

    /// Tokens the longest sequence can have behind so many virtual tokens.
    pub fn room_behind(&self, virtual_tokens: usize) -> usize {
        self.spec.max_position_embeddings.saturating_sub(virtual_tokens)
    }

    /// Whether every sequence of a batch is one the model can read: known tokens, at least one, and no more (with the
    /// parents it continues) than the model has positions for behind so many virtual tokens.
    pub fn check_batch(&self, batch: &TokenBatch, virtual_tokens: usize) -> Result<(), ModelError> {
        let limit = self.room_behind(virtual_tokens);
        let mut lengths: Vec<usize> = Vec::with_capacity(batch.segments.len());
        for (sequence, segment) in batch.segments.iter().enumerate() {
            let before = segment.parent.map_or(0, |parent| lengths[parent]);
            let tokens = before + segment.len;
            lengths.push(tokens);
            if segment.len == 0 || tokens > limit {
                let why = match virtual_tokens {
                    0 => "max_position_embeddings".into(),
                    count => format!("max_position_embeddings less {count} virtual tokens"),
                };
                return Err(ModelError::SequenceLength { sequence, tokens, limit, why });
            }
        }
        let vocabulary = self.spec.vocab_size;
        match batch.ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(position) => Err(ModelError::UnknownToken { position, id: batch.ids[position], vocabulary }),
            None => Ok(()),
        }
    }
}
