//! `hone generate`: continue a prompt.

use hone_model::generate::{FinishReason, GenerationConfig, generate};
use hone_model::template::Message;
use serde::Serialize;

use super::load::{ModelArguments, chat_text};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{out, outln};

/// How to pick tokens; shared by `generate` and `chat`.
#[derive(clap::Args, Debug, Clone)]
pub struct Sampling {
    /// Always the most likely token (the default; kept as a word for scripts).
    #[arg(long, conflicts_with = "temperature")]
    pub greedy: bool,
    /// Softmax temperature; 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Keep the k most likely tokens (0: all).
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Keep the smallest set of tokens with at least this probability together.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Make tokens already seen less likely (1: off).
    #[arg(long, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Longest answer, in tokens.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// Stop where this text appears (may be given several times).
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl Sampling {
    /// As the library wants it.
    pub fn config(&self) -> GenerationConfig {
        GenerationConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
        }
    }
}

/// Arguments of `hone generate`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  hone generate smollm2-135m-instruct --chat --prompt 'Name three rivers.' --max-new-tokens 40"
)]
pub struct Generate {
    #[command(flatten)]
    model: ModelArguments,
    /// The text to continue.
    #[arg(long)]
    prompt: String,
    /// Keep a GGUF's weights in their blocks and multiply in 8-bit integers, as llama.cpp does: faster and smaller, a little
    /// less exact.
    #[arg(long)]
    int8: bool,
    /// Put the prompt through the model's chat template as a user's message.
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    sampling: Sampling,
}

#[derive(Serialize)]
struct Output<'a> {
    text: &'a str,
    ids: &'a [u32],
    finish_reason: FinishReason,
}

impl Generate {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let ready = self.model.load_for_writing(self.int8, common)?;
        let model = &ready.model;
        let ids = if self.chat {
            let message =
                Message { role: "user".into(), content: self.prompt.clone(), extra: serde_json::Map::default() };
            let text = chat_text(model, &[message], true)?;
            // The template writes its own special tokens.
            model.tokenizer.encode(&text, false)?.ids
        } else {
            model.tokenizer.encode(&self.prompt, true)?.ids
        };
        if ids.is_empty() {
            return Err(Failure::user("the prompt is empty", "give `--prompt` some text"));
        }
        let json = common.json;
        let mut show = |_: usize, piece: &str| {
            if !json {
                // A closed pipe ends the generation.
                return out!("{piece}").is_ok();
            }
            true
        };
        let made = generate(model, ready.hooks, ready.dtype, &[ids], &self.sampling.config(), &mut show)?;
        let Some(made) = made.first() else { return Err(Failure::ours("nothing came back from the generation")) };
        if json {
            let output = Output { text: &made.text, ids: &made.ids, finish_reason: made.finish_reason };
            outln!("{}", serde_json::to_string(&output)?)?;
        } else {
            out!("\n")?;
        }
        Ok(0)
    }
}
