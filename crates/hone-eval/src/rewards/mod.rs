//! Models as judges of completions that are there already: rewards in place of log-likelihoods.
//!
//! A best-of-n item is a multiple-choice question whose choices are whole answers. What [`crate::scorer`] gives each choice is
//! then not what is wanted; [`Rewards`] says what is:
//!
//! ```text
//! head      r(x, y) = w · h_T(x, y)                        a reward model's own number (Ouyang et al. 2022, arXiv 2203.02155)
//! implicit  r(x, y) = ln π(y | x) − ln π_ref(y | x)        what a tuned model's tuning says (Rafailov et al. 2023, "DPO", arXiv
//!                                                          2305.18290; its factor β > 0 changes no order)
//! ratings   r(x, y) = the number in the model's reply      asked about each answer apart; −1 where there is none
//! ```
//!
//! Every answer is scored on its own, as the whole conversation that the chat template makes of it. Scorecards have the rewards
//! in their rows, so the metric `best_of` and the measure `rewards` ([`crate::measures::rewards`]) read them without the model.
//! Rules of scoring: Malik et al. 2025, "RewardBench 2", arXiv 2506.01937.
//!
//! What it does not know: whether a higher reward means a better answer. Reward models prefer answers of their own family, and
//! sums of log-probabilities depend on length; the measure says what a scorer that looks at length alone would get.

pub mod ratings;

use std::sync::Arc;

use hone_model::template::ChatTemplate;
use hone_model::{Model, NoHooks};

use crate::error::EvalError;
use crate::evaluate::{EvalOptions, Sink, Wave};
use crate::metrics::{Kind, Metric};
use crate::requests::{Encoder, Request};
use crate::rows;
use crate::scorer::{Scored, Scorer};
use crate::task::{Item, Question, Task};
use ratings::RatingQuestion;

/// Where rewards come from.
#[derive(Clone)]
pub enum Rewards {
    /// A reward model's head, `[hidden]`; see [`hone_model::model::reward`].
    Head(Arc<Vec<f32>>),
    /// What the edits of the model make of an answer, against the model without them, or against another.
    Implicit {
        /// The other model.
        reference: Option<Arc<Model>>,
    },
    /// A number that the model writes about each answer.
    Ratings(Arc<RatingQuestion>),
}

impl std::fmt::Debug for Rewards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Rewards {
    /// The words for them on a command line.
    pub const WORDS: [&str; 3] = ["head", "implicit", "ratings"];

    /// What a scorecard says of them.
    pub fn describe(&self) -> String {
        match self {
            Rewards::Head(_) => "head".into(),
            Rewards::Implicit { reference: None } => "implicit, against the model without its edit".into(),
            Rewards::Implicit { reference: Some(other) } => format!("implicit, against {}", other.source.reference),
            Rewards::Ratings(question) => format!("ratings by {}", question.name()),
        }
    }

    /// Everything besides the model that decides what they are.
    pub(crate) fn identity(&self) -> String {
        match self {
            Rewards::Head(head) => format!("head of {}", head.len()),
            Rewards::Implicit { reference } => {
                format!("implicit {}", reference.as_ref().map_or("", |other| other.source.sha256.as_str()))
            }
            Rewards::Ratings(question) => format!("ratings {}", question.identity()),
        }
    }

    /// Whether the task can be scored by rewards: choices, and metrics that ask for their order alone.
    ///
    /// # Errors
    /// Another kind of task, a metric of log-likelihoods, or ways of answering that rewards do not have.
    pub fn check(&self, task: &Task) -> Result<(), EvalError> {
        let problem = |place: &str, problem: String| EvalError::TaskFile {
            file: task.file.clone(),
            place: place.into(),
            problem,
        };
        if task.kind != Kind::MultipleChoice {
            let what = format!(
                "rewards are for multiple_choice tasks, whose choices are answers; this one is {}",
                task.kind.name()
            );
            return Err(problem("output_type", what));
        }
        if let Some(metric) = task.metrics.iter().find(|metric| !Metric::takes_any_score(metric)) {
            let what = format!(
                "`{}` needs log-likelihoods, and rewards are none; `best_of` and `acc` take either",
                metric.name
            );
            return Err(problem("metric_list", what));
        }
        if task.config.reasoning.is_some() {
            return Err(problem(
                "reasoning",
                "answers that are there already are not reasoned about; leave it out".into(),
            ));
        }
        Ok(())
    }
}

/// An answer with what it was worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Worth {
    /// The reward.
    pub reward: f64,
    /// Tokens of the answer; of the whole text where that is what was read. 0 where nobody counted.
    pub tokens: usize,
    /// What the model wrote about it, of ratings.
    pub reply: Option<String>,
}

/// Scores answers by rewards that need no text of the model: a head's or implicit ones.
pub(crate) struct Rewarder<'a, 'e> {
    pub task: &'a Task,
    pub rewards: &'a Rewards,
    pub scorer: Scorer<'a>,
    pub encoder: &'e Encoder<'a>,
    pub options: &'a EvalOptions,
}

impl Rewarder<'_, '_> {
    /// The rows of a wave, each given to `finish` as soon as it is made; of implicit rewards that is when the other model has read its
    /// batch, and the wave is read by the first before.
    pub fn rows(&self, wave: &Wave, finish: &mut Sink<'_>) -> Result<(), EvalError> {
        let items = wave.left();
        let groups = items.iter().map(|item| self.group(item)).collect::<Result<Vec<_>, _>>()?;
        let mut handed = 0;
        // So many are read; what the `n`-th is worth, `worth` says.
        let mut hand_over = |read: usize, worth: &dyn Fn(usize) -> Vec<Worth>| {
            let row = |n: usize| {
                let (worth, cut) = (worth(n), groups[n].iter().any(|request| request.truncated));
                match worth.iter().all(|worth| worth.reward.is_finite()) {
                    true => Ok(wave.finished(n, rows::of_rewards(self.task, items[n], &worth), usize::from(cut))),
                    false => Err(self.problem(
                        items[n],
                        "a reward is not a finite number: the weights, the head or the edit are damaged; fetch the model \
                         again"
                            .into(),
                    )),
                }
            };
            let finished = (handed..read).map(row).collect::<Result<Vec<_>, _>>()?;
            handed = read;
            finish(finished)
        };
        match self.rewards {
            Rewards::Head(head) => self
                .scorer
                .read(head, &groups, &mut |read| {
                    hand_over(read.len(), &|n| {
                        worths(read[n].iter().copied(), groups[n].iter().map(|request| request.input.len()))
                    })
                })
                .map(drop),
            Rewards::Implicit { reference } => {
                let tuned = self.scorer.score(&groups, &mut |_| hand_over(0, &|_| Vec::new()))?;
                let mut compared = |before: &[Vec<Scored>]| {
                    hand_over(before.len(), &|n| {
                        let both = tuned[n].iter().zip(&before[n]);
                        let gains = both.map(|(t, b)| t.log_likelihood() - b.log_likelihood());
                        worths(gains, tuned[n].iter().map(|scored| scored.log_probs.len()))
                    })
                };
                let bare = Scorer { hooks: Arc::new(NoHooks), ..self.scorer.clone() };
                match reference {
                    None => bare.score(&groups, &mut compared).map(drop),
                    Some(model) => {
                        let encoder = Encoder::new(model, self.options.max_length)?;
                        let own = Rewarder { encoder: &encoder, scorer: Scorer { model, ..bare }, ..*self };
                        let groups = items.iter().map(|item| own.group(item)).collect::<Result<Vec<_>, _>>()?;
                        own.scorer.score(&groups, &mut compared).map(drop)
                    }
                }
            }
            // Written by whoever writes; see [`ratings`].
            Rewards::Ratings(_) => Ok(()),
        }
    }

    /// The answers of an item: what a head reads whole, or what is likely after the question.
    fn group(&self, item: &Item) -> Result<Vec<Request>, EvalError> {
        let Question::Choices { contexts, continuations, .. } = &item.question else { return Ok(Vec::new()) };
        let one = |i: usize| {
            let context = if contexts.len() == 1 { &contexts[0] } else { &contexts[i] };
            let continuation = if continuations.len() == 1 { &continuations[0] } else { &continuations[i] };
            match self.rewards {
                Rewards::Head(_) => {
                    let mut input = self.encoder.encode(&format!("{context}{continuation}"))?;
                    if input.is_empty() {
                        return Err(self.problem(item, "question and answer have no tokens".into()));
                    }
                    let cut = input.len().saturating_sub(self.encoder.max_length());
                    input.drain(..cut);
                    Ok(Request { input, targets: vec![0], truncated: cut > 0, edit_group: None })
                }
                _ => self.encoder.request(context, continuation)?.map_err(|problem| self.problem(item, problem)),
            }
        };
        (0..contexts.len().max(continuations.len())).map(one).collect()
    }

    fn problem(&self, item: &Item, problem: String) -> EvalError {
        EvalError::Request { task: self.task.name().into(), id: item.id.clone(), problem }
    }
}

fn worths(rewards: impl Iterator<Item = f64>, tokens: impl Iterator<Item = usize>) -> Vec<Worth> {
    rewards.zip(tokens).map(|(reward, tokens)| Worth { reward, tokens, reply: None }).collect()
}

/// The template that questions of a task are put through: none where the model is asked about the answers, whose own question
/// goes through it.
pub(crate) fn template_of<'a>(
    rewards: Option<&Rewards>,
    template: Option<&'a ChatTemplate>,
) -> Option<&'a ChatTemplate> {
    template.filter(|_| !matches!(rewards, Some(Rewards::Ratings(_))))
}
