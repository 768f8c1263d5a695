//! Question and answer. With a chat template a turn of the user and one of the assistant; without one the text
//! `Question: …\nAnswer: …`, lm-evaluation-harness's usual prompt.

use super::{Fields, Format, ReadOptions};
use crate::error::RowError;
use crate::example::{Body, Message};

pub(super) struct QuestionAnswer;

impl Format for QuestionAnswer {
    fn name(&self) -> &'static str {
        "question_answer"
    }

    fn columns(&self) -> &'static str {
        "`question` and `answer` (texts)"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["question", "answer"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        row.is_text("question") && row.is_text("answer")
    }

    fn read(&self, row: &Fields, options: &ReadOptions) -> Result<Body, Box<RowError>> {
        let (question, answer) = (row.text("question")?, row.text("answer")?);
        if options.instructions_as_chat() && !answer.trim().is_empty() {
            return Ok(Body::conversation(vec![Message::new("user", question), Message::new("assistant", answer)]));
        }
        let completion = if answer.trim().is_empty() { String::new() } else { format!(" {answer}") };
        Ok(Body::PromptCompletion { prompt: format!("Question: {question}\nAnswer:"), completion })
    }
}
