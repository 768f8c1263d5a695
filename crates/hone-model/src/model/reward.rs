//! Reward models: a decoder whose last hidden state a linear map turns into one number (`…ForSequenceClassification` with
//! one label).
//!
//! `r(x) = w · h_T(x)`, with `h_T` the final-norm hidden state of the text's last token and `w` the tensor `score.weight`
//! `[1, hidden]` (Ouyang et al. 2022, arXiv 2203.02155; `transformers`' layout for decoders, which has no bias).
//!
//! What it does not know: how the text was written when the head was trained. The number is read at the last real token, so a
//! chat template that ends in another one shifts all numbers.

use hone_engine::DType;

use super::{LoadOptions, Model};
use crate::decoder::{Decoder, SCORE_HEAD};
use crate::error::ModelError;
use crate::files::ModelFiles;
use crate::pull;

/// A model that gives texts a number.
pub struct RewardModel {
    /// Decoder, tokenizer and template. Its next tokens mean nothing.
    pub model: Model,
    /// The head, `[hidden]`.
    pub head: Vec<f32>,
}

impl RewardModel {
    /// Loads a Hugging Face directory with `score.weight` `[1, hidden]`.
    ///
    /// # Errors
    /// Files without such a head, or with one of several labels; whatever loading a model may say.
    pub fn load(reference: &str, options: LoadOptions) -> Result<RewardModel, ModelError> {
        let files = ModelFiles::open(&pull::find(reference)?)?;
        let weights = files.weights()?;
        let Some(shape) = weights.shape(SCORE_HEAD) else {
            let expected = format!(
                "`{SCORE_HEAD}`, as reward models have it; a tuned model is asked with `--rewards implicit`, one that writes \
                 with `--rewards ratings`"
            );
            return Err(ModelError::malformed(files.path(), "weights", "no head for numbers", expected));
        };
        let mut hidden = 0;
        let model = Model::of_files(reference, &files, &weights, |spec| {
            hidden = spec.hidden_size;
            if shape != [1, hidden] {
                let expected = format!("[1, {hidden}]: one number a text (`num_labels: 1`)");
                let found = format!("{shape:?}");
                return Err(ModelError::malformed(files.path(), format!("`{SCORE_HEAD}`"), found, expected));
            }
            Decoder::load_scoring(spec, &weights, options)
        })?;
        let head = weights.load(SCORE_HEAD, &shape, DType::F32)?.to_vec_f32();
        Ok(RewardModel { model, head })
    }
}
