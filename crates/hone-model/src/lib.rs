//! `hone-model`: model specs, sites, weights in (safetensors, GGUF) and out, tokenizer, chat template, KV cache, generation.
//!
//! Floor 1. It knows nothing of training or tasks. See [`context`] for the one idea everything stands on.

pub mod atomic;
pub mod attention;
pub mod cache;
pub mod context;
pub mod decoder;
pub mod error;
pub mod files;
pub mod generate;
pub mod gguf;
pub mod model;
pub mod pull;
pub mod site;
pub mod spec;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use context::{Context, Hooks, Linear, NoHooks, Sharing, TokenBatch};
pub use decoder::Decoder;
pub use error::ModelError;
pub use model::{GgufType, LoadOptions, Model, Quantise};
pub use site::{LayerPart, Site};
pub use weights::WeightFiles;
