//! Rewards that a model writes: each answer is shown apart, and the reply's number is its reward.
//!
//! The question is a task file like any judge's ([`crate::judge`]): its examples have the columns `prompt` and `answer`, and one
//! filter list leaves of a reply the number. Where it leaves none, the reward is −1, below every rating, as in RewardBench 2
//! (Malik et al. 2025, arXiv 2506.01937); replies stand in the scorecard. Ratings are whole numbers, so ties are frequent and
//! share their credit.
//!
//! What it does not know: whether the model can judge. A small one gives most answers the same number.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use hone_data::example::SourceRef;
use hone_model::template::ChatTemplate;
use serde_json::{Map, Value};

use super::Worth;
use crate::error::EvalError;
use crate::filters::FilterList;
use crate::judge;
use crate::rows;
use crate::scorecard::ScorecardRow;
use crate::task::data::{Doc, Split};
use crate::task::{Item, PromptOptions, Prompts, Question, Task, TaskConfig};

/// The question that is asked when nobody names another.
pub const DEFAULT: &str = "judge_rating";

/// The reward of an answer whose rating could not be read.
pub const UNPARSED: f64 = -1.0;

/// What the model is asked about an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RatingQuestion {
    config: TaskConfig,
    file: String,
}

/// What is asked about the answers of some examples: one question an answer.
pub(crate) struct Asked {
    /// The judge's task, whose examples are the answers.
    pub task: Task,
    /// The questions, example by example.
    pub questions: Vec<Item>,
    /// Where those of each example end.
    ends: Vec<usize>,
}

impl Asked {
    /// Questions about the example at `at`.
    pub fn of(&self, at: usize) -> Range<usize> {
        let from = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        from..self.ends[at]
    }
}

impl RatingQuestion {
    /// By the name of one that ships with the program, or by a task file's path.
    ///
    /// # Errors
    /// A file that is none, or that is no judge's: it must write, and have one filter list.
    pub fn load(reference: &str) -> Result<RatingQuestion, EvalError> {
        let (file, keys) = judge::question(reference)?;
        let config = judge::checked(TaskConfig::from_keys(&file, keys)?, &file)?;
        Ok(RatingQuestion { config, file })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.task
    }

    /// Whether it goes through the chat template when nobody says.
    pub fn chat_template(&self) -> Option<bool> {
        self.config.chat_template
    }

    pub(super) fn identity(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_default()
    }

    /// What is asked about the answers of `items`, whose task's file is `file`.
    pub(crate) fn about(
        &self,
        items: &[Item],
        file: &str,
        template: Option<&ChatTemplate>,
    ) -> Result<Asked, EvalError> {
        let place = SourceRef { file: Arc::from(Path::new(file)), row: 1, line: None };
        let shown = |item: &Item| -> Vec<Doc> {
            let Question::Choices { choices, .. } = &item.question else { return Vec::new() };
            let doc = |answer: &String| Doc {
                columns: Map::from_iter([
                    ("prompt".to_owned(), Value::from(item.prompt.clone())),
                    ("answer".to_owned(), Value::from(answer.clone())),
                ]),
                place: place.clone(),
            };
            choices.iter().map(doc).collect()
        };
        let counts: Vec<usize> = items.iter().map(|item| shown(item).len()).collect();
        let split = Split { docs: items.iter().flat_map(shown).collect(), sha256: String::new() };
        let task = Task::over(self.config.clone(), self.file.clone(), split)?;
        let mut questions = {
            let mut prompts = Prompts::new(&task, template, &PromptOptions::default())?;
            (0..task.docs.len()).map(|i| prompts.item(i)).collect::<Result<Vec<_>, _>>()?
        };
        // What goes wrong with a question is said of the example and the answer that it is about.
        let about = items.iter().zip(&counts).flat_map(|(item, count)| (1..=*count).map(move |n| (item, n)));
        for (question, (item, answer)) in questions.iter_mut().zip(about) {
            question.id = format!("{}, answer {answer}", item.id);
        }
        let ends = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        Ok(Asked { ends: ends.collect(), task, questions })
    }

    /// The row of an `item` of `task` by the `replies` to what was asked about its answers.
    pub(crate) fn row<'r>(
        &self,
        asked: &Asked,
        task: &Task,
        item: &Item,
        replies: impl Iterator<Item = &'r Vec<String>>,
    ) -> Result<ScorecardRow, EvalError> {
        let filter = &asked.task.filters[0];
        let worth = replies.map(|reply| self.worth(filter, reply)).collect::<Result<Vec<_>, _>>()?;
        Ok(rows::of_rewards(task, item, &worth))
    }

    /// The number in a reply.
    fn worth(&self, filter: &FilterList, reply: &[String]) -> Result<Worth, EvalError> {
        let left = filter.apply(reply, &[]).map_err(|source| EvalError::TaskFile {
            file: self.file.clone(),
            place: "filter_list".into(),
            problem: source.to_string(),
        })?;
        let reward = left.trim().parse().ok().filter(|reward: &f64| reward.is_finite()).unwrap_or(UNPARSED);
        Ok(Worth { reward, tokens: 0, reply: reply.first().cloned() })
    }
}
