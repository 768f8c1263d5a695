//! `hone judge`: a model's opinion of written answers, kept beside their scores.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hone_eval::files::{check_writable, read_scorecard, read_scorecards, write_scorecard};
use hone_eval::judge::{self, Words};
use hone_eval::resume::ask_into;
use hone_eval::scorecard::{Scorecard, ScorecardHeader};
use hone_eval::{Endpoint, EvalOptions, evaluate_to};

use super::eval::{card_path, endpoint, watched};
use super::load::{ModelArguments, Ready, With};
use crate::args::Common;
use crate::fail::{Failure, INTERRUPTED};
use crate::interrupt;
use crate::print::{outln, remark};

/// Arguments of `hone judge`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone judge cards/base --with qwen2.5-0.5b-instruct --out judged/base
  hone judge cards/base --with gpt-4o-mini --against openai:https://api.openai.com/v1 --out judged/base
  hone judge cards/tuned/safety_harmful.jsonl --with my-guard --question guard.yaml --out judged

The judge's question is a task file: its examples are the scorecard's rows (`prompt`, `target`, `answer`), one filter list leaves the
verdict of a reply, and `metadata` says which words mean yes and no. Replies without a verdict are counted apart, never as either.
The judged cards have the metrics `judge` and `judge_unparsed`; compare them like any others.")]
pub struct Judge {
    /// A scorecard, or a directory of them; cards without written answers are copied as they are.
    cards: PathBuf,
    /// The judge: a Hugging Face directory, a GGUF file, a name that `hone pull` knows, or the model's name on a server.
    #[arg(long = "with", value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    with: With,
    /// What is asked: `right`, `supported`, `harmful`, or a task file.
    #[arg(long, default_value = "right", value_name = "QUESTION")]
    question: String,
    /// Ask a server that speaks OpenAI's protocol: `openai:http://localhost:8000/v1`. The key is taken from `OPENAI_API_KEY`.
    #[arg(long, value_name = "openai:URL", conflicts_with_all = ["edit", "quantize", "task_group"])]
    against: Option<String>,
    /// Requests to the server at once.
    #[arg(long, default_value = "4", value_name = "N", requires = "against")]
    in_flight: NonZeroUsize,
    /// How long an answer of the server may take.
    #[arg(long, default_value = "120", value_name = "SECONDS", requires = "against")]
    answer_timeout: NonZeroU64,
    /// At most so many answers of a card (the first ones).
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Put the question through the judge's chat template (default: what the task file says).
    #[arg(long, value_name = "BOOL")]
    chat_template: Option<bool>,
    /// Where the judged cards go; the judge's own replies are in `replies/` there. The same command goes on where it was stopped.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Who replies.
enum JudgedBy {
    Server(Endpoint),
    /// A model here, with the hash of what it is made of.
    Model(String, Ready),
}

impl Judge {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let cards = self.cards()?;
        check_writable(&self.out)?;
        let question = match self.question.as_str() {
            short @ ("right" | "supported" | "harmful") => format!("judge_{short}"),
            file => file.to_owned(),
        };
        let tasks = cards
            .iter()
            .map(|(path, card)| match card.header.kind.as_str() {
                "generate_until" => judge::task(&question, path, card).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if tasks.iter().all(Option::is_none) {
            let hint = "judge the cards of `generate_until` tasks";
            return Err(Failure::user(format!("{}: no card has written answers", self.cards.display()), hint));
        }
        let stop = interrupt::stop_flag();
        let arguments = ModelArguments { model: self.model.clone(), with: self.with.clone() };
        let judge = match &self.against {
            Some(server) => JudgedBy::Server(Endpoint {
                in_flight: self.in_flight.get(),
                timeout: Duration::from_secs(self.answer_timeout.get()),
                ..endpoint(server, &self.model)?
            }),
            None => JudgedBy::Model(arguments.contents()?, arguments.load(common)?),
        };
        let options = EvalOptions { limit: self.limit.map(NonZeroUsize::get), ..EvalOptions::default() };
        let mut judged: Vec<ScorecardHeader> = Vec::new();
        for ((_, card), task) in cards.into_iter().zip(tasks) {
            let Some(task) = task else {
                write_scorecard(&card_path(&self.out, &card.header.task), &card)?;
                continue;
            };
            let place = card_path(&self.out.join("replies"), task.name());
            let chat_template = self.chat_template.or(task.config.chat_template).unwrap_or(false);
            let options = EvalOptions { chat_template, ..options.clone() };
            let done = watched(&task, options, "judging", common, |options, shown| match &judge {
                JudgedBy::Server(server) => ask_into(&place, server, &task, options, shown, &stop),
                JudgedBy::Model(contents, ready) => {
                    let hooks = Arc::clone(&ready.hooks);
                    evaluate_to(&place, contents, &ready.model, hooks, ready.dtype, &task, options, shown, &stop)
                }
            })?;
            if done.is_none() {
                remark!("stopped; what is done is kept; the same command goes on");
                return Ok(INTERRUPTED);
            }
            let card = judge::apply(card, &read_scorecard(&place)?, &Words::of(&task.config.metadata))?;
            write_scorecard(&card_path(&self.out, &card.header.task), &card)?;
            judged.push(card.header);
        }
        if common.json {
            outln!("{}", serde_json::to_string(&judged)?)?;
            return Ok(0);
        }
        for header in &judged {
            let metric =
                |name: &str| header.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value);
            let shown = match metric(judge::JUDGE) {
                Some(value) => format!("{:.1} % yes", 100.0 * value),
                None => "no reply had a verdict".into(),
            };
            let unparsed = 100.0 * metric(judge::UNPARSED).unwrap_or_default();
            outln!("{}: {shown}, {unparsed:.1} % of the replies without a verdict", header.task)?;
        }
        Ok(0)
    }

    /// The cards to judge, with their files.
    fn cards(&self) -> Result<Vec<(PathBuf, Scorecard)>, Failure> {
        if self.cards.is_file() {
            return Ok(vec![(self.cards.clone(), read_scorecard(&self.cards)?)]);
        }
        let at = |card: Scorecard| (place_of(&self.cards, &card.header.task), card);
        Ok(read_scorecards(&self.cards)?.into_iter().map(at).collect())
    }
}

/// A card's file in a directory of cards, or in the one that a run keeps them in.
fn place_of(directory: &Path, task: &str) -> PathBuf {
    let own = card_path(directory, task);
    if own.is_file() { own } else { card_path(&directory.join("scorecards"), task) }
}
