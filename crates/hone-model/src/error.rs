//! What can go wrong with a model's files. Every variant names the place, what was found and what to do.

use std::path::PathBuf;

/// Errors of `hone-model`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose contents are not what they should be.
    #[error("{path}: {place}: found {found}, expected {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Header, tensor name, field …
        place: String,
        /// What was found.
        found: String,
        /// What was expected, and what to do.
        expected: String,
    },
    /// A tensor the model needs and the files do not have.
    #[error(
        "{path}: tensor `{name}` is missing{hint}; the files are incomplete or belong to another architecture: download the model again or check `model_type` in config.json"
    )]
    MissingTensor {
        /// The directory or file.
        path: PathBuf,
        /// The tensor's Hugging Face name.
        name: String,
        /// A similar name, if there is one.
        hint: String,
    },
    /// A tensor whose shape is not the one that the config asks for.
    #[error(
        "{path}: tensor `{name}` has shape {found:?}, but config.json asks for {expected:?}; weights and config belong to different models"
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the config asks for.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error(
        "{path}: tensor `{name}` is stored as {found}; readable types: {known}. Convert the model to one of them first"
    )]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
        /// The types that are read.
        known: String,
    },
    /// Tensors that do not fit the config: missing, mis-shaped, or there in vain.
    #[error(
        "{path}: the tensors are not those that config.json asks for: {problems}. Weights and config belong to different models, or the model is a variant that is not supported"
    )]
    Tensors {
        /// The directory or file.
        path: PathBuf,
        /// Every kind of problem with its first few tensors and their shapes.
        problems: String,
    },
    /// A model with a head for numbers where one for tokens was needed.
    #[error(
        "{path}: the model gives texts a number (it has `score.weight`) and writes none; it can be asked as a reward model: `hone eval … --rewards head`"
    )]
    ScoreHead {
        /// The directory.
        path: PathBuf,
    },
    /// A sequence that the model cannot read.
    #[error(
        "sequence {sequence}: {tokens} tokens, but the model reads from 1 to {limit} ({why}): cut the text or lower `max_length`"
    )]
    SequenceLength {
        /// Which of the batch.
        sequence: usize,
        /// Its length, with what it continues.
        tokens: usize,
        /// The longest there may be.
        limit: usize,
        /// What the limit is made of.
        why: String,
    },
    /// A token that the model does not have.
    #[error(
        "token {position} of the batch is {id}, but the model has ids below {vocabulary}: the tokenizer belongs to another model"
    )]
    UnknownToken {
        /// Where in the flat batch.
        position: usize,
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// A setting out of range.
    #[error("`{field}`: found {found}, expected {expected}")]
    Setting {
        /// The setting.
        field: String,
        /// Its value.
        found: String,
        /// Values that make sense.
        expected: String,
    },
    /// A model whose numbers overflowed.
    #[error(
        "prompt {prompt}, token {position}: every logit is infinite or not a number; the weights are damaged or were tuned until they overflowed"
    )]
    NoFiniteLogits {
        /// Which of the prompts.
        prompt: usize,
        /// Tokens read before.
        position: usize,
    },
    /// A model that is no path and not in the cache.
    #[error("no model `{name}`: {next}")]
    NoSuchModel {
        /// What was asked for.
        name: String,
        /// What to do.
        next: String,
    },
    /// A model that could not be fetched.
    #[error("`{name}` could not be fetched. {}. Check the network, or give the path of a model that is here", causes.join(". "))]
    OutOfReach {
        /// What was asked for.
        name: String,
        /// Why, for each way that was tried.
        causes: Vec<String>,
    },
    /// A chat template that does not compile, or does not take a conversation.
    #[error("{path}: chat template: {reason}")]
    Template {
        /// The file that has it.
        path: PathBuf,
        /// What is wrong, in the template's or the renderer's words.
        reason: String,
    },
    /// An architecture without code.
    #[error("{path}: architecture `{found}` is not known; known architectures: {known}")]
    UnknownArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name found.
        found: String,
        /// The known ones.
        known: String,
    },
}

impl ModelError {
    /// [`ModelError::Io`] for `map_err`.
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> ModelError + '_ {
        move |source| ModelError::Io { path: path.to_owned(), source }
    }

    /// [`ModelError::Malformed`].
    pub(crate) fn malformed(
        path: &std::path::Path,
        place: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelError {
        let path = path.to_owned();
        ModelError::Malformed { path, place: place.into(), found: found.into(), expected: expected.into() }
    }
}
