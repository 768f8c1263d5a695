//! Training data: from files to token ids with a loss mask, and from those to the rows of each training step.
//!
//! | question | room |
//! |---|---|
//! | Which files, and how are they read? | [`readers`] |
//! | What do a row's columns mean? | [`formats`] |
//! | Which tokens are trained? | [`encode`], [`spans`] |
//! | What was left out, and why? | [`drops`], [`report`] |
//! | Which examples are held out? Which come twice? Which does the evaluation hold? | [`split`], [`duplicates`], [`leaks`] |
//! | Which tasks and rows of a collection are trained on, and which say how far that reaches? | [`levels`] |
//! | Which examples share a row, and which rows does step `s` read? | [`packing`], [`batches`], [`next_token`] |
//! | On which line of a YAML file does a key stand? | [`yaml`] |
//!
//! [`load`](load::load) and [`tokenise`](load::tokenise) are the way through: a [`DataConfig`] in, [`TokenisedExample`]s
//! and a [`DataReport`] out. The model's tokenizer and chat template come in through [`Codec`]; this crate knows nothing of
//! models.

pub mod batches;
pub mod codec;
pub mod config;
pub mod drops;
pub mod duplicates;
pub mod encode;
pub mod error;
pub mod example;
pub mod formats;
pub mod leaks;
pub mod levels;
pub mod load;
pub mod next_token;
pub mod packing;
pub mod preview;
pub mod readers;
pub mod report;
pub mod shots;
pub mod spans;
pub mod split;
pub mod yaml;

pub use batches::{BatchPlan, PlanOptions};
pub use codec::{Abilities, Codec, Encoded};
pub use config::{DataConfig, SourceConfig, TrainOn};
pub use drops::{DropReason, Drops};
pub use encode::{EncodeOptions, TokenisedExample, encode_all};
pub use error::{CodecError, DataError, RowError};
pub use example::{Body, Example, Message, Prompt, SourceRef};
pub use formats::Detection;
pub use leaks::{LeakReport, find_leaks};
pub use load::{Loaded, Tokenised, load, tokenise};
pub use next_token::{DocumentRange, FlatBatch, StepBatch};
pub use packing::{Packing, TrainRow, pack};
pub use preview::{PreviewExample, preview};
pub use report::DataReport;
