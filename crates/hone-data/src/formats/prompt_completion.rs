//! Prompt and completion: two texts that follow each other as they are, without a space or template between them (a set
//! whose completions need one begins them with it). `completion` may be called `response`.

use super::{Fields, Format, ReadOptions};
use crate::error::RowError;
use crate::example::Body;

pub(super) struct PromptCompletion;

impl Format for PromptCompletion {
    fn name(&self) -> &'static str {
        "prompt_completion"
    }

    fn columns(&self) -> &'static str {
        "`prompt` and `completion` (or `response`)"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["prompt", "completion", "response"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        row.is_text("prompt") && (row.is_text("completion") || row.is_text("response"))
    }

    fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Body, Box<RowError>> {
        let completion = match row.get("completion").is_none() && row.get("response").is_some() {
            true => row.text("response")?,
            false => row.text("completion")?,
        };
        Ok(options.prompt_completion(row.text("prompt")?.into(), completion.into()))
    }
}
