//! `hone score`: log-probabilities of a text, token by token.

use std::path::PathBuf;
use std::sync::Arc;

use hone_eval::{EvalOptions, Scorer, score_text};

use super::load::ModelArguments;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;

/// Arguments of `hone score`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  hone score smollm2-135m-instruct --text 'The capital of France is Paris.' --json")]
pub struct Score {
    #[command(flatten)]
    model: ModelArguments,
    /// The text.
    #[arg(long, required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,
    /// A file with the text (UTF-8).
    #[arg(long)]
    file: Option<PathBuf>,
}

impl Score {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let text = match (&self.text, &self.file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|error| Failure::from(error).doing(format!("reading {}", path.display())))?,
            (None, None) => return Err(Failure::user("no text", "give `--text` or `--file`")),
        };
        let ready = self.model.load(common)?;
        let scorer = Scorer {
            model: &ready.model,
            hooks: Arc::clone(&ready.hooks),
            dtype: ready.dtype,
            batch_tokens: EvalOptions::default().batch_tokens,
        };
        let score = score_text(&scorer, &text)?;
        if score.logprobs.is_empty() {
            let what = format!("the text has {} tokens, of which none has a token before it", score.ids.len());
            return Err(Failure::user(what, "give it more text: a token is predicted from those before it"));
        }
        if common.json {
            outln!("{}", serde_json::to_string(&score)?)?;
            return Ok(0);
        }
        // The first token has nothing before it and no log-probability.
        let logprobs = std::iter::once(None).chain(score.logprobs.iter().map(Some));
        for ((token, id), logprob) in score.tokens.iter().zip(&score.ids).zip(logprobs) {
            outln!("{id:>8}  {:>9}  {token}", logprob.map_or_else(|| "–".into(), |p| format!("{p:.4}")))?;
        }
        outln!("perplexity {:.4} over {} predicted tokens", score.perplexity, score.logprobs.len())?;
        Ok(0)
    }
}
