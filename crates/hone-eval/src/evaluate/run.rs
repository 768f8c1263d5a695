//! An evaluation under way: one wave of examples, by the kind of task and what is asked of the model. Rows are handed over as
//! soon as they are made: behind each batch, or where a text ends.

use hone_model::generate::{Event, GenerationConfig, Wanted};
use hone_model::template::ChatTemplate;
use hone_model::tokenizer::Tokenizer;

use super::course::{Course, Wave};
use super::{EvalOptions, MAX_GEN_TOKS};
use crate::error::EvalError;
use crate::metrics::Metric;
use crate::reasoning::{Reasoner, ReasoningConfig};
use crate::requests::{Encoder, Request};
use crate::rewards::ratings::RatingQuestion;
use crate::rewards::{Rewarder, Rewards};
use crate::rows;
use crate::scorer::{Scored, Scorer};
use crate::task::{Item, Question, Task};
use crate::writer::write;

/// An evaluation under way.
pub(super) struct Run<'a> {
    pub task: &'a Task,
    pub scorer: Scorer<'a>,
    pub encoder: &'a Encoder<'a>,
    pub options: &'a EvalOptions,
    pub course: Course<'a>,
}

impl Run<'_> {
    fn problem(&self, item: &Item, problem: String) -> EvalError {
        EvalError::Request { task: self.task.name().into(), id: item.id.clone(), problem }
    }

    /// A wave whose answers are log-likelihoods.
    pub fn scored(&mut self, wave: &Wave) -> Result<(), EvalError> {
        // Groups of all items, and behind how many an item is done.
        let mut groups: Vec<Vec<Request>> = Vec::new();
        let mut ends = Vec::with_capacity(wave.left.len());
        let mut cut = Vec::with_capacity(wave.left.len());
        let items = wave.left();
        for item in &items {
            let own = self.groups(item)?;
            cut.push(own.iter().flatten().any(|request| request.truncated));
            groups.extend(own);
            ends.push(groups.len());
        }
        let scorer = self.scorer.clone();
        let mut handed = 0;
        let mut hand_over = |scored: &[Vec<Scored>]| {
            let mut finished = Vec::new();
            for n in handed..ends.partition_point(|end| *end <= scored.len()) {
                let own = &scored[if n == 0 { 0 } else { ends[n - 1] }..ends[n]];
                if own.iter().flatten().flat_map(|s| &s.log_probs).any(|p| p.is_nan()) {
                    let problem =
                        "the model's log-probabilities are not numbers (NaN): its weights or its edit are broken";
                    return Err(self.problem(items[n], problem.into()));
                }
                finished.push(wave.finished(n, rows::of_scores(self.task, items[n], own), usize::from(cut[n])));
            }
            handed += finished.len();
            self.course.finish(finished)
        };
        if groups.is_empty() {
            // Documents without a token.
            return hand_over(&[]);
        }
        scorer.score(&groups, &mut hand_over).map(drop)
    }

    /// What must be scored for an item: one group of choices, or one group a window of a document.
    fn groups(&self, item: &Item) -> Result<Vec<Vec<Request>>, EvalError> {
        let request = |context: &str, continuation: &str| {
            let made = self.encoder.request(context, continuation)?.map_err(|problem| self.problem(item, problem))?;
            Ok::<_, EvalError>(Request { edit_group: item.edit_group, ..made })
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
                let routed = |window| vec![Request { edit_group: item.edit_group, ..window }];
                Ok(self.encoder.document(text)?.into_iter().map(routed).collect())
            }
            Question::Generate { .. } => Ok(Vec::new()),
        }
    }

    /// A wave whose answers are written by the model.
    pub fn generated(&mut self, wave: &Wave) -> Result<(), EvalError> {
        let (task, runner) = (self.task, self.options.code.as_deref());
        let first = wave.from * task.config.repeats;
        self.written(task, &wave.items, &wave.left, first, &mut |run, n, texts, cut| {
            let row = rows::of_texts(task, &wave.items[wave.left[n]], &texts, runner)?;
            run.course.finish(vec![wave.finished(n, row, usize::from(cut))])
        })
    }

    /// What the model writes to some of the `items` of `task`, those at `places`, as often as the task says. `ended` gets the texts
    /// of the `n`-th place as soon as all of them are there, and whether its prompt was cut. The seed counts on from `first`.
    ///
    /// A text does not depend on which others are still to be written: items that are done count all the same.
    fn written(
        &mut self,
        task: &Task,
        items: &[Item],
        places: &[usize],
        first: usize,
        ended: &mut dyn FnMut(&mut Self, usize, Vec<String>, bool) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let settings = &task.config.generation_kwargs;
        let room = settings.max_gen_toks.unwrap_or(MAX_GEN_TOKS);
        let mut prompts = Vec::with_capacity(items.len());
        let mut cut = Vec::with_capacity(items.len());
        for item in items {
            let Question::Generate { context, .. } = &item.question else {
                return Err(self.problem(item, "is no question for a written answer".into()));
            };
            let (ids, was_cut) = self.encoder.prompt(context, room)?.map_err(|problem| self.problem(item, problem))?;
            prompts.push(ids);
            cut.push(was_cut);
        }
        let stops = self.stops(task)?;
        let config = GenerationConfig { max_new_tokens: room, stop: stops.clone(), ..settings.picking() };
        let repeats = task.config.repeats;
        // An item's texts one behind the other, so that it is done early.
        let seed = |repeat| self.options.seed.wrapping_add((first + repeat) as u64);
        let wanted: Vec<Wanted> = (places.iter())
            .flat_map(|&prompt| {
                let group = items[prompt].edit_group;
                (0..repeats).map(move |repeat| Wanted { prompt, seed: seed(repeat), group })
            })
            .collect();
        let mut texts: Vec<Vec<Option<String>>> = vec![vec![None; repeats]; places.len()];
        let scorer = self.scorer.clone();
        write(&scorer, &prompts, &wanted, &config, &mut |at, event| {
            let Event::Ended(generation) = event else { return self.course.stopped() };
            let n = at / repeats;
            texts[n][at % repeats] = Some(cut_at_stops(generation.text, &stops));
            if texts[n].iter().any(Option::is_none) {
                return self.course.stopped();
            }
            let own = std::mem::take(&mut texts[n]).into_iter().flatten().collect();
            ended(self, n, own, cut[places[n]])
        })
    }

    /// A wave whose choices are given rewards.
    pub fn rewarded(&mut self, wave: &Wave, template: Option<&ChatTemplate>) -> Result<(), EvalError> {
        let (task, options, encoder) = (self.task, self.options, self.encoder);
        match &options.rewards {
            None => self.scored(wave),
            Some(Rewards::Ratings(question)) => self.rated(wave, question, template),
            Some(rewards) => {
                let scorer = self.scorer.clone();
                let rewarder = Rewarder { task, rewards, scorer, encoder, options };
                rewarder.rows(wave, &mut |examples| self.course.finish(examples))
            }
        }
    }

    /// A wave whose choices the model rates, each in a text of its own.
    fn rated(
        &mut self,
        wave: &Wave,
        question: &RatingQuestion,
        template: Option<&ChatTemplate>,
    ) -> Result<(), EvalError> {
        let task = self.task;
        let asked = question.about(&wave.items, &task.file, template)?;
        // Questions about what is left, and which example each is about.
        let about = |n: usize| asked.of(wave.left[n]).map(move |place| (place, n));
        let (places, owners): (Vec<usize>, Vec<usize>) = (0..wave.left.len()).flat_map(about).unzip();
        let mut replies: Vec<Option<Vec<String>>> = vec![None; asked.questions.len()];
        let mut truncated = vec![0; wave.left.len()];
        self.written(&asked.task, &asked.questions, &places, 0, &mut |run, at, texts, cut| {
            let n = owners[at];
            replies[places[at]] = Some(texts);
            truncated[n] += usize::from(cut);
            let own = &replies[asked.of(wave.left[n])];
            if own.iter().any(Option::is_none) {
                return run.course.stopped();
            }
            let row = question.row(&asked, task, &wave.items[wave.left[n]], own.iter().flatten())?;
            run.course.finish(vec![wave.finished(n, row, truncated[n])])
        })
    }

    /// A wave whose answers come after a written reasoning.
    pub fn reasoned(&mut self, wave: &Wave, config: &ReasoningConfig) -> Result<(), EvalError> {
        let (task, encoder) = (self.task, self.encoder);
        let answer_stops = self.stops(task)?;
        let reasoner = Reasoner { task, config, scorer: self.scorer.clone(), encoder, answer_stops };
        reasoner.rows(wave, &mut |examples| self.course.finish(examples))
    }

    /// Texts that end a generation: the task's, and the end-of-text token's.
    fn stops(&self, task: &Task) -> Result<Vec<String>, EvalError> {
        with_end_of_text(task.answer_stops(), &self.scorer.model.tokenizer)
    }
}

/// Stop texts, and the text of the end-of-text token.
pub(crate) fn with_end_of_text(mut stops: Vec<String>, tokenizer: &Tokenizer) -> Result<Vec<String>, EvalError> {
    if let Some(eos) = tokenizer.eos_id {
        let text = tokenizer.decode(&[eos], false)?;
        if !text.is_empty() && !stops.contains(&text) {
            stops.push(text);
        }
    }
    Ok(stops)
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
