//! `--rewards`: choices scored by a reward model, by what tuning made of them, or by a rating, instead of their likelihood.

use std::sync::Arc;

use hone_eval::rewards::Rewards;
use hone_eval::rewards::ratings::{DEFAULT, RatingQuestion};

use super::load::{With, load_model};
use crate::args::Common;
use crate::fail::Failure;

/// Where rewards come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// A reward model's own number: MODEL, or its edit, has a head for it (`…ForSequenceClassification`, `SEQ_CLS`; one label).
    Head,
    /// How much likelier the edit (or the model, against `--reference`) makes an answer: what DPO calls the implicit reward.
    Implicit,
    /// A number from 1 to 10 that the model writes about each answer.
    Ratings,
}

/// Arguments of verbs that give rewards.
#[derive(clap::Args, Debug)]
pub struct RewardArguments {
    /// Score whole answers by rewards instead of likelihood (for tasks with `best_of`, as `rewards` and `rewardbench2`).
    #[arg(long, value_enum, value_name = "SOURCE")]
    rewards: Option<Source>,
    /// With `--rewards implicit`: the model that MODEL is held against (default: MODEL without its edits).
    #[arg(long, value_name = "MODEL", requires = "rewards")]
    reference: Option<String>,
    /// With `--rewards ratings`: what is asked about an answer, a task file over `prompt` and `answer`.
    #[arg(long, value_name = "FILE", requires = "rewards")]
    rating_question: Option<String>,
}

impl RewardArguments {
    /// Whether the model is a reward model.
    pub fn by_head(&self) -> bool {
        self.rewards == Some(Source::Head)
    }

    /// What was asked for, before any model of the verb's own is loaded. A head is not known yet and stands empty.
    pub fn asked(&self, with: &With, common: &Common) -> Result<Option<Rewards>, Failure> {
        if self.reference.is_some() && self.rewards != Some(Source::Implicit) {
            let hint = "leave it out, or say `--rewards implicit`";
            return Err(Failure::user("`--reference` is for implicit rewards", hint));
        }
        if self.rating_question.is_some() && self.rewards != Some(Source::Ratings) {
            let hint = "leave it out, or say `--rewards ratings`";
            return Err(Failure::user("`--rating-question` is for ratings", hint));
        }
        Ok(match self.rewards {
            None => None,
            Some(Source::Head) => Some(Rewards::Head(Arc::default())),
            Some(Source::Implicit) => {
                if self.reference.is_none() && with.edit.is_empty() {
                    let hint =
                        "name the tuned model's edit (`--edit DIR`), or what it was tuned from (`--reference MODEL`)";
                    return Err(Failure::user("implicit rewards are what tuning changed, and nothing is tuned", hint));
                }
                let reference =
                    self.reference.as_deref().map(|name| load_model(name, with.dtype, common)).transpose()?;
                Some(Rewards::Implicit { reference })
            }
            Some(Source::Ratings) => {
                let question = self.rating_question.as_deref().unwrap_or(DEFAULT);
                Some(Rewards::Ratings(Arc::new(RatingQuestion::load(question)?)))
            }
        })
    }
}
