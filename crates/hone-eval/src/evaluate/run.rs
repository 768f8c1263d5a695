//! An evaluation under way: the rows of one wave of examples, by the kind of task and what is asked of the model.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_model::generate::{GenerationConfig, generate};
use hone_model::template::ChatTemplate;

use super::{EvalOptions, MAX_GEN_TOKS, Progress};
use crate::error::EvalError;
use crate::metrics::Metric;
use crate::reasoning::{Reasoner, ReasoningConfig};
use crate::requests::{Encoder, Request};
use crate::rewards::{Rewarder, Rewards};
use crate::rows;
use crate::scorecard::ScorecardRow;
use crate::scorer::Scorer;
use crate::task::{Item, Question, Task};

/// An evaluation under way.
pub(super) struct Run<'a, 'p> {
    pub task: &'a Task,
    pub scorer: Scorer<'a>,
    pub encoder: Encoder<'a>,
    pub options: &'a EvalOptions,
    pub progress: &'p mut dyn FnMut(&Progress<'_>),
    pub stop: &'a AtomicBool,
    pub total: usize,
    /// Examples of earlier waves.
    pub done: usize,
    /// Those whose prompt was cut.
    pub truncated: usize,
}

impl Run<'_, '_> {
    /// Says how far this wave is; an error if the user stops.
    pub fn report(&mut self, in_wave: usize) -> Result<(), EvalError> {
        reports(self.task, self.progress, self.stop, self.done, self.total)(in_wave)
    }

    fn problem(&self, item: &Item, problem: String) -> EvalError {
        EvalError::Request { task: self.task.name().into(), id: item.id.clone(), problem }
    }

    /// Rows of a wave whose answers are log-likelihoods.
    pub fn scored(&mut self, items: &[Item]) -> Result<Vec<ScorecardRow>, EvalError> {
        // Groups of all items, and how many each item has.
        let mut groups: Vec<Vec<Request>> = Vec::new();
        let mut counts = Vec::with_capacity(items.len());
        for item in items {
            let own = self.groups(item)?;
            self.truncated += usize::from(own.iter().flatten().any(|request| request.truncated));
            counts.push(own.len());
            groups.extend(own);
        }
        // Groups end with an item's last one: so many items are done with that many groups.
        let ends: Vec<usize> = counts
            .iter()
            .scan(0, |end, count| {
                *end += count;
                Some(*end)
            })
            .collect();
        let scorer = self.scorer.clone();
        let mut stopped = None;
        let scored =
            scorer.score(&groups, &mut |done| match self.report(ends.partition_point(|end| *end <= done)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    stopped = Some(error);
                    ControlFlow::Break(())
                }
            })?;
        if let Some(error) = stopped {
            return Err(error);
        }
        let mut rest = scored.as_slice();
        let mut rows = Vec::with_capacity(items.len());
        for (item, count) in items.iter().zip(counts) {
            let (own, left) = rest.split_at(count);
            rest = left;
            if own.iter().flatten().flat_map(|s| &s.log_probs).any(|p| p.is_nan()) {
                let problem = "the model's log-probabilities are not numbers (NaN): its weights or its edit are broken";
                return Err(self.problem(item, problem.into()));
            }
            rows.push(rows::of_scores(self.task, item, own));
        }
        Ok(rows)
    }

    /// What must be scored for an item: one group of choices, or one group a window of a document.
    fn groups(&self, item: &Item) -> Result<Vec<Vec<Request>>, EvalError> {
        let request = |context: &str, continuation: &str| {
            self.encoder.request(context, continuation)?.map_err(|problem| self.problem(item, problem))
        };
        match &item.question {
            Question::Choices { contexts, continuations, .. } => {
                let mut group = Vec::new();
                for i in 0..contexts.len().max(continuations.len()) {
                    let context = if contexts.len() == 1 { &contexts[0] } else { &contexts[i] };
                    let continuation = if continuations.len() == 1 { &continuations[0] } else { &continuations[i] };
                    group.push(request(context, continuation)?);
                }
                if !self.task.metrics.iter().any(Metric::needs_unconditional) {
                    return Ok(vec![group]);
                }
                let alone = continuations.iter().map(|c| request("", c)).collect::<Result<_, _>>()?;
                Ok(vec![group, alone])
            }
            Question::Target { context, continuation } => Ok(vec![vec![request(context, continuation)?]]),
            Question::Document { text, .. } => {
                Ok(self.encoder.document(text)?.into_iter().map(|window| vec![window]).collect())
            }
            Question::Generate { .. } => Ok(Vec::new()),
        }
    }

    /// Rows of a wave whose answers are written by the model.
    pub fn generated(&mut self, items: &[Item]) -> Result<Vec<ScorecardRow>, EvalError> {
        let repeats = self.task.config.repeats;
        let first = self.done * repeats;
        let responses = self.written(self.task, items, first, &mut |run, repeat| {
            run.report(if repeat + 1 == repeats { items.len() } else { 0 })
        })?;
        items
            .iter()
            .zip(responses)
            .map(|(item, responses)| rows::of_texts(self.task, item, &responses, self.options.code.as_deref()))
            .collect()
    }

    /// What the model writes to the items of `task`, as often as the task says. The seed counts on from `first`; `report` is told
    /// of each time.
    fn written(
        &mut self,
        task: &Task,
        items: &[Item],
        first: usize,
        report: &mut dyn FnMut(&mut Self, usize) -> Result<(), EvalError>,
    ) -> Result<Vec<Vec<String>>, EvalError> {
        let settings = &task.config.generation_kwargs;
        let room = settings.max_gen_toks.unwrap_or(MAX_GEN_TOKS);
        let mut prompts = Vec::with_capacity(items.len());
        for item in items {
            let Question::Generate { context, .. } = &item.question else { continue };
            let (ids, cut) = self.encoder.prompt(context, room)?.map_err(|problem| self.problem(item, problem))?;
            self.truncated += usize::from(cut);
            prompts.push(ids);
        }
        let stops = self.stops(task)?;
        let samples = settings.do_sample == Some(true);
        let mut config = GenerationConfig {
            temperature: if samples { settings.temperature.unwrap_or(1.0) } else { 0.0 },
            top_p: settings.top_p.unwrap_or(1.0),
            top_k: settings.top_k.unwrap_or(0),
            max_new_tokens: room,
            stop: stops.clone(),
            ..GenerationConfig::default()
        };
        let mut responses: Vec<Vec<String>> = vec![Vec::new(); items.len()];
        for repeat in 0..task.config.repeats {
            config.seed = self.options.seed.wrapping_add((first + repeat) as u64);
            let Scorer { model, hooks, dtype, .. } = self.scorer.clone();
            let stop = self.stop;
            let mut go_on = |_: usize, _: &str| !stop.load(Ordering::Relaxed);
            let generations = generate(model, hooks, dtype, &prompts, &config, &mut go_on)?;
            report(self, repeat)?;
            for (responses, generation) in responses.iter_mut().zip(generations) {
                responses.push(cut_at_stops(generation.text, &stops));
            }
        }
        Ok(responses)
    }

    /// Rows of a wave whose choices are given rewards.
    pub fn rewarded(
        &mut self,
        items: &[Item],
        template: Option<&ChatTemplate>,
    ) -> Result<Vec<ScorecardRow>, EvalError> {
        let task = self.task;
        match &self.options.rewards {
            None => self.scored(items),
            Some(Rewards::Ratings(question)) => question.rows(task, items, template, &mut |asked, questions| {
                self.written(asked, questions, 0, &mut |run, _| run.report(items.len()))
            }),
            Some(rewards) => {
                let scorer = self.scorer.clone();
                let Run { encoder, options, progress, stop, done, total, truncated, .. } = self;
                let mut report = reports(task, progress, stop, *done, *total);
                let (rows, cut) = Rewarder { task, rewards, scorer, encoder, options }.rows(items, &mut report)?;
                *truncated += cut;
                Ok(rows)
            }
        }
    }

    /// Rows of a wave whose answers come after a written reasoning.
    pub fn reasoned(&mut self, items: &[Item], config: &ReasoningConfig) -> Result<Vec<ScorecardRow>, EvalError> {
        let answer_stops = self.stops(self.task)?;
        let scorer = self.scorer.clone();
        // The reasoner reads with the run's encoder while the run says how far it is.
        let Run { task, encoder, progress, stop, done, total, truncated, .. } = self;
        let task = *task;
        let mut report = reports(task, progress, stop, *done, *total);
        let reasoner = Reasoner { task, config, scorer, encoder, answer_stops };
        let (rows, cut) = reasoner.rows(items, &mut report)?;
        *truncated += cut;
        Ok(rows)
    }

    /// Texts that end a generation: the task's, and the end-of-text token's.
    fn stops(&self, task: &Task) -> Result<Vec<String>, EvalError> {
        let config = &task.config;
        let own = config.generation_kwargs.until.as_ref().map(|until| until.to_vec());
        let mut stops = own.unwrap_or_else(|| vec![config.fewshot_delimiter.clone()]);
        let tokenizer = &self.scorer.model.tokenizer;
        if let Some(eos) = tokenizer.eos_id {
            let text = tokenizer.decode(&[eos], false)?;
            if !stops.contains(&text) {
                stops.push(text);
            }
        }
        stops.retain(|stop| !stop.is_empty());
        Ok(stops)
    }
}

/// Says how far a wave of `task` is that begins behind `earlier` of `total` examples; an error if the user stops.
fn reports<'a>(
    task: &'a Task,
    progress: &'a mut dyn FnMut(&Progress<'_>),
    stop: &'a AtomicBool,
    earlier: usize,
    total: usize,
) -> impl FnMut(usize) -> Result<(), EvalError> + 'a {
    move |in_wave| {
        let done = (earlier + in_wave).min(total);
        progress(&Progress { task: task.name(), done, total });
        match stop.load(Ordering::Relaxed) {
            true => Err(EvalError::Stopped { task: task.name().into(), done, total }),
            false => Ok(()),
        }
    }
}

/// Cuts at the first occurrence of each stop text, one after another.
pub(crate) fn cut_at_stops(mut text: String, stops: &[String]) -> String {
    for stop in stops {
        if let Some(at) = text.find(stop.as_str()) {
            text.truncate(at);
        }
    }
    text
}
