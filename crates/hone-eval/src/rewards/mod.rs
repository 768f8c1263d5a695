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

use std::ops::ControlFlow;
use std::sync::Arc;

use hone_model::template::ChatTemplate;
use hone_model::{Model, NoHooks};

use crate::error::EvalError;
use crate::evaluate::EvalOptions;
use crate::metrics::{Kind, Metric};
use crate::requests::{Encoder, Request};
use crate::rows;
use crate::scorecard::ScorecardRow;
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
    /// The rows of a wave, and how many of its questions were cut to the model's length. `report` is told how many are done.
    pub fn rows(
        &self,
        items: &[Item],
        report: &mut dyn FnMut(usize) -> Result<(), EvalError>,
    ) -> Result<(Vec<ScorecardRow>, usize), EvalError> {
        let groups = items.iter().map(|item| self.group(item)).collect::<Result<Vec<_>, _>>()?;
        let cut = groups.iter().filter(|group| group.iter().any(|request| request.truncated)).count();
        let mut worth = Vec::with_capacity(items.len());
        match self.rewards {
            Rewards::Head(head) => {
                let read = watched(report, 0, 1, |report| self.scorer.read(head, &groups, report))?;
                for (group, rewards) in groups.iter().zip(read) {
                    worth.push(worths(rewards.into_iter(), group.iter().map(|request| request.input.len())));
                }
            }
            Rewards::Implicit { reference } => {
                let tuned = watched(report, 0, 2, |report| self.scorer.score(&groups, report))?;
                let bare = Scorer { hooks: Arc::new(NoHooks), ..self.scorer.clone() };
                let before = match reference {
                    None => watched(report, 1, 2, |report| bare.score(&groups, report))?,
                    Some(model) => {
                        let encoder = Encoder::new(model, self.options.max_length)?;
                        let own = Rewarder { encoder: &encoder, scorer: Scorer { model, ..bare }, ..*self };
                        let groups = items.iter().map(|item| own.group(item)).collect::<Result<Vec<_>, _>>()?;
                        watched(report, 1, 2, |report| own.scorer.score(&groups, report))?
                    }
                };
                for (tuned, before) in tuned.iter().zip(&before) {
                    let gains = tuned.iter().zip(before).map(|(t, b)| t.log_likelihood() - b.log_likelihood());
                    worth.push(worths(gains, tuned.iter().map(|scored: &Scored| scored.log_probs.len())));
                }
            }
            // Written by whoever writes; see [`ratings`].
            Rewards::Ratings(_) => {}
        }
        if let Some((item, _)) = items.iter().zip(&worth).find(|(_, own)| own.iter().any(|w| !w.reward.is_finite())) {
            let what =
                "a reward is not a finite number: the weights, the head or the edit are damaged; fetch the model again";
            return Err(self.problem(item, what.into()));
        }
        Ok((items.iter().zip(&worth).map(|(item, worth)| rows::of_rewards(self.task, item, worth)).collect(), cut))
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
                    Ok(Request { input, targets: vec![0], truncated: cut > 0 })
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

/// Runs pass `pass` of `passes` over a wave; its share of the way is reported, and a stop asked for ends it.
fn watched<T>(
    report: &mut dyn FnMut(usize) -> Result<(), EvalError>,
    pass: usize,
    passes: usize,
    run: impl FnOnce(&mut dyn FnMut(usize) -> ControlFlow<()>) -> Result<Vec<T>, EvalError>,
) -> Result<Vec<T>, EvalError> {
    let mut stopped = None;
    // Examples of the first pass are not done yet.
    let mut told = |done: usize| match report(if pass + 1 == passes { done } else { 0 }) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            stopped = Some(error);
            ControlFlow::Break(())
        }
    };
    let done = run(&mut told)?;
    match stopped {
        Some(error) => Err(error),
        None => Ok(done),
    }
}

/// The template that questions of a task are put through: none where the model is asked about the answers, whose own question
/// goes through it.
pub(crate) fn template_of<'a>(
    rewards: Option<&Rewards>,
    template: Option<&'a ChatTemplate>,
) -> Option<&'a ChatTemplate> {
    template.filter(|_| !matches!(rewards, Some(Rewards::Ratings(_))))
}
