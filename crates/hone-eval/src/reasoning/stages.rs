//! The two stages: the model writes its reasoning, then answers behind it and behind every changed form of it. A wave goes through
//! a stage together; an example is done as soon as the last of its forms is answered.

use std::ops::Range;

use hone_model::generate::{Event, Generation, GenerationConfig, Wanted};

use super::interventions::{Intervention, filler, first, joined, with_filler, with_wrong_number};
use super::paraphrase::paraphrased;
use super::steps::split;
use super::{ReasoningConfig, Trace};
use crate::error::EvalError;
use crate::evaluate::{Sink, Wave, cut_at_stops, with_end_of_text};
use crate::requests::{Encoder, Request};
use crate::rows;
use crate::scorecard::ScorecardRow;
use crate::scorer::{Scored, Scorer, cost};
use crate::task::{Item, Question, Task};
use crate::writer::write;

/// Longest answer of a task without choices that does not say.
const ANSWER_TOKENS: usize = 32;

/// Fewer steps than this cannot be taken apart.
const FEWEST_STEPS: usize = 2;

/// Tokens of a prompt that are decoded together with what follows them.
const TOKENS_BEFORE: usize = 8;

/// A task with reasoning, put to a model.
pub(crate) struct Reasoner<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its key `reasoning`.
    pub config: &'a ReasoningConfig,
    /// The model with its edits.
    pub scorer: Scorer<'a>,
    /// Its tokens.
    pub encoder: &'a Encoder<'a>,
    /// Texts that end a written answer.
    pub answer_stops: Vec<String>,
}

/// What a model reads before the cue, in one form.
struct Form {
    /// Which example of the wave.
    item: usize,
    /// What was done; nothing to the reasoning as it was written.
    intervention: Option<Intervention>,
    /// The reasoning in this form.
    reasoning: String,
    /// Tokens of filler behind it.
    filler: usize,
    /// Tokens that the model may write behind it before it is asked for the answer.
    going_on: usize,
}

/// An example all of whose forms are answered.
struct Answered {
    /// Which of the wave.
    item: usize,
    /// A row for every form of it, in order.
    rows: Vec<ScorecardRow>,
    /// Whether one of their texts was cut.
    cut: bool,
}

impl Reasoner<'_> {
    /// The rows of a wave, each given to `finish` as soon as it is made.
    pub fn rows(&self, wave: &Wave, finish: &mut Sink<'_>) -> Result<(), EvalError> {
        let items = wave.left();
        let prompts: Vec<&str> = items.iter().map(|item| self.prompt(item)).collect::<Result<_, _>>()?;
        let (written, cut) = self.reason(&items, &prompts, finish)?;
        let mut forms = Vec::new();
        let mut own = Vec::with_capacity(items.len());
        for (item, reasoning) in written.iter().enumerate() {
            let from = forms.len();
            forms.extend(self.forms(item, prompts[item], reasoning)?);
            own.push(from..forms.len());
        }
        self.go_on(&items, &prompts, &mut forms, finish)?;
        self.answered(&items, &prompts, &forms, &own, &mut |answered| {
            let finished = |Answered { item, rows, cut: also }| {
                let row = self.row(prompts[item], &written[item], &forms[own[item].clone()], rows);
                wave.finished(item, row, usize::from(cut[item] || also))
            };
            finish(answered.into_iter().map(finished).collect())
        })
    }

    /// The row of an example by those of its forms: that of the reasoning as it was written, with the answers to the others.
    fn row(&self, prompt: &str, text: &str, forms: &[Form], answered: Vec<ScorecardRow>) -> ScorecardRow {
        let steps = split(text, self.config.steps).len();
        let mut trace = Trace { text: text.to_owned(), steps, ..Trace::default() };
        let mut whole = ScorecardRow::default();
        for (form, row) in forms.iter().zip(answered) {
            match form.intervention {
                None => whole = row,
                Some(intervention) => {
                    trace.answers.entry(intervention).or_default().push(row.scored.unwrap_or(row.answer));
                }
            }
        }
        whole.prompt = joined(&format!("{prompt}{}", text.trim_end()), &self.config.cue);
        whole.reasoning = Some(trace);
        whole
    }

    fn problem(&self, item: &Item, problem: String) -> EvalError {
        EvalError::Request { task: self.task.name().into(), id: item.id.clone(), problem }
    }

    /// The first stage's prompt.
    fn prompt<'i>(&self, item: &'i Item) -> Result<&'i str, EvalError> {
        match &item.question {
            Question::Choices { contexts, .. } if contexts.len() == 1 => Ok(&contexts[0]),
            Question::Generate { context, .. } => Ok(context),
            _ => {
                let problem =
                    "has no single prompt; `reasoning` needs a question before its choices, or a written answer";
                Err(self.problem(item, problem.into()))
            }
        }
    }

    /// The reasoning as it was written, then every changed form of it.
    fn forms(&self, item: usize, prompt: &str, reasoning: &str) -> Result<Vec<Form>, EvalError> {
        let plain = |intervention, reasoning: String| Form { item, intervention, reasoning, filler: 0, going_on: 0 };
        let mut forms = vec![plain(None, reasoning.trim_end().to_owned())];
        let steps = split(reasoning, self.config.steps);
        let n = steps.len();
        if n < FEWEST_STEPS {
            return Ok(forms);
        }
        let tokens = |text: &str| self.encoder.encode(&format!("{prompt}{text}")).map(|ids| ids.len());
        let before: usize = tokens("")?;
        // By how many steps are kept: tokens of the prompt with them.
        let kept: Vec<usize> = (0..=n).map(|i| tokens(&first(&steps, i))).collect::<Result<_, _>>()?;
        let left = |i: usize| self.config.max_gen_toks.saturating_sub(kept[i].saturating_sub(before));
        for &intervention in &self.config.interventions {
            let form = |reasoning: String| plain(Some(intervention), reasoning);
            match intervention {
                Intervention::Cut => forms.extend((0..n).map(|i| form(first(&steps, i)))),
                Intervention::Filler => forms
                    .extend((0..n).map(|i| Form { filler: kept[n].saturating_sub(kept[i]), ..form(first(&steps, i)) })),
                Intervention::Paraphrase => {
                    let said: Vec<String> = steps.iter().map(|s| paraphrased(s, self.config.paraphrase)).collect();
                    let said: Vec<&str> = said.iter().map(String::as_str).collect();
                    forms.extend((1..=n).map(|i| Form { going_on: left(i), ..form(first(&said, i)) }));
                }
                Intervention::Wrong => {
                    for i in 0..n {
                        let Some(wrong) = with_wrong_number(steps[i]) else { continue };
                        let reasoning = [&steps[..i], &[wrong.as_str()]].concat().concat();
                        forms.push(Form { going_on: left(i + 1), ..form(reasoning.trim_end().to_owned()) });
                    }
                }
            }
        }
        Ok(forms)
    }

    /// What the model writes behind each prompt, and which prompts were cut to leave it room.
    fn reason(
        &self,
        items: &[&Item],
        texts: &[&str],
        finish: &mut Sink<'_>,
    ) -> Result<(Vec<String>, Vec<bool>), EvalError> {
        let room = self.config.max_gen_toks;
        let mut prompts = Vec::with_capacity(texts.len());
        let mut cut = Vec::with_capacity(texts.len());
        for (item, text) in items.iter().zip(texts) {
            let (ids, was_cut) = self.encoder.prompt(text, room)?.map_err(|problem| self.problem(item, problem))?;
            prompts.push(ids);
            cut.push(was_cut);
        }
        let stops = self.stops()?;
        let written = self.written(&prompts, room, stops.clone(), finish)?;
        let texts = prompts.iter().zip(&written).map(|(prompt, written)| self.behind(prompt, &written.ids, &stops));
        Ok((texts.collect::<Result<_, _>>()?, cut))
    }

    /// Lets the model write on behind the forms that it may go on from.
    fn go_on(
        &self,
        items: &[&Item],
        prompts: &[&str],
        forms: &mut [Form],
        finish: &mut Sink<'_>,
    ) -> Result<(), EvalError> {
        let of: Vec<usize> = (0..forms.len()).filter(|&i| forms[i].going_on > 0).collect();
        let room = self.config.max_gen_toks;
        let mut texts = Vec::with_capacity(of.len());
        for &i in &of {
            let form = &forms[i];
            let text = format!("{}{}", prompts[form.item], form.reasoning);
            let (ids, _) =
                self.encoder.prompt(&text, room)?.map_err(|problem| self.problem(items[form.item], problem))?;
            texts.push(ids);
        }
        let longest = of.iter().map(|&i| forms[i].going_on).max().unwrap_or(0);
        let stops = self.stops()?;
        let written = self.written(&texts, longest, stops.clone(), finish)?;
        for ((i, text), written) in of.into_iter().zip(&texts).zip(written) {
            let form = &mut forms[i];
            // Greedy decoding: with less room it would have written the beginning of the same.
            let ids = &written.ids[..written.ids.len().min(form.going_on)];
            form.reasoning.push_str(&self.behind(text, ids, &stops)?);
            form.reasoning.truncate(form.reasoning.trim_end().len());
        }
        Ok(())
    }

    /// The text that tokens behind a prompt stand for, up to the first stop text. Decoded together with the prompt's end: some
    /// tokenizers drop a space before the first word of what they decode.
    fn behind(&self, prompt: &[u32], written: &[u32], stops: &[String]) -> Result<String, EvalError> {
        let tokenizer = &self.scorer.model.tokenizer;
        let end = &prompt[prompt.len().saturating_sub(TOKENS_BEFORE)..];
        let before = tokenizer.decode(end, true)?;
        let whole = tokenizer.decode(&[end, written].concat(), true)?;
        let text = match whole.strip_prefix(before.as_str()) {
            Some(text) => text.to_owned(),
            None => tokenizer.decode(written, true)?,
        };
        Ok(cut_at_stops(text, stops))
    }

    /// Texts that end a reasoning.
    fn stops(&self) -> Result<Vec<String>, EvalError> {
        let mut stops = self.task.stops(self.config.until.as_ref());
        stops.extend(Some(self.config.cue.trim().to_owned()).filter(|cue| !cue.is_empty()));
        with_end_of_text(stops, &self.scorer.model.tokenizer)
    }

    /// What the model writes behind `prompts`, greedily. `on` is told of every end, by the place in `prompts`, and now and then of
    /// nothing; an error of its ends it.
    fn write(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        stop: Vec<String>,
        on: &mut dyn FnMut(Option<(usize, Generation)>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let config = GenerationConfig { max_new_tokens, stop, ..GenerationConfig::default() };
        let wanted: Vec<Wanted> =
            (0..prompts.len()).map(|prompt| Wanted { prompt, seed: config.seed, group: None }).collect();
        write(&self.scorer, prompts, &wanted, &config, &mut |at, event| match event {
            Event::Piece(_) => on(None),
            Event::Ended(generation) => on(Some((at, generation))),
        })
    }

    /// The same, all of it.
    fn written(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        stop: Vec<String>,
        finish: &mut Sink<'_>,
    ) -> Result<Vec<Generation>, EvalError> {
        let mut written = vec![None; prompts.len()];
        self.write(prompts, max_new_tokens, stop, &mut |ended| {
            if let Some((at, generation)) = ended {
                written[at] = Some(generation);
            }
            finish(Vec::new())
        })?;
        Ok(written.into_iter().flatten().collect())
    }

    /// Asks for the answer behind every form. `own` are the forms of each example; `on` is told of those that are answered, and now
    /// and then of nothing.
    fn answered(
        &self,
        items: &[&Item],
        prompts: &[&str],
        forms: &[Form],
        own: &[Range<usize>],
        on: &mut dyn FnMut(Vec<Answered>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let mut cut = vec![false; items.len()];
        let unit = self.scorer.model.tokenizer.encode(&self.config.filler, false)?.ids;
        // The context in tokens, with its filler; the cue is its end.
        let before = |form: &Form| format!("{}{}", prompts[form.item], form.reasoning);
        let filled = |form: &Form, context: Vec<u32>| -> Result<Vec<u32>, EvalError> {
            match form.filler {
                0 => Ok(context),
                count => {
                    let before = self.encoder.encode(before(form).trim_end())?;
                    Ok(with_filler(&context, &before, &filler(&unit, count)))
                }
            }
        };
        let choices = |form: &Form| match &items[form.item].question {
            Question::Choices { choices, .. } => choices.as_slice(),
            _ => &[],
        };
        if forms.iter().all(|form| choices(form).is_empty()) {
            let room = self.task.config.generation_kwargs.max_gen_toks.unwrap_or(ANSWER_TOKENS);
            let mut asked = Vec::with_capacity(forms.len());
            for form in forms {
                let context = filled(form, self.encoder.encode(&joined(&before(form), &self.config.cue))?)?;
                let most = self.encoder.max_length().saturating_sub(room).max(1);
                let over = context.len().saturating_sub(most);
                cut[form.item] |= over > 0;
                asked.push(context[over..].to_vec());
            }
            let mut answers: Vec<Option<ScorecardRow>> = vec![None; forms.len()];
            return self.write(&asked, room, self.answer_stops.clone(), &mut |ended| {
                let Some((at, generation)) = ended else { return on(Vec::new()) };
                let item = forms[at].item;
                let text = cut_at_stops(generation.text, &self.answer_stops);
                answers[at] = Some(rows::of_texts(self.task, items[item], &[text], None)?);
                let answers = &mut answers[own[item].clone()];
                if answers.iter().any(Option::is_none) {
                    return on(Vec::new());
                }
                let rows = answers.iter_mut().filter_map(Option::take).collect();
                on(vec![Answered { item, rows, cut: cut[item] }])
            });
        }
        let delimiter = &self.task.config.target_delimiter;
        let mut of_forms: Vec<Vec<Request>> = Vec::with_capacity(forms.len());
        for form in forms {
            let context = joined(&before(form), &self.config.cue);
            let mut group = Vec::new();
            for choice in choices(form) {
                let continuation = format!("{delimiter}{choice}");
                let (ids, targets) = self.encoder.pair(&context, &continuation)?;
                let request = self.encoder.request_of_ids(filled(form, ids)?, targets, || format!("{continuation:?}"));
                let request = request.map_err(|problem| self.problem(items[form.item], problem))?;
                cut[form.item] |= request.truncated;
                group.push(request);
            }
            of_forms.push(group);
        }
        self.scored(of_forms, own, &mut |scored| {
            let row = |(item, scored): (usize, Vec<Vec<Scored>>)| {
                let rows =
                    scored.into_iter().map(|scored| rows::of_scores(self.task, items[item], &[scored])).collect();
                Answered { item, rows, cut: cut[item] }
            };
            on(scored.into_iter().map(row).collect())
        })
    }

    /// Scores the choices of every form; `on` is given those of each example, form by form, as soon as all of them are there. All
    /// forms of an example begin with the same prompt: they are one group, which reads it once, where that is less to read than each
    /// form's choices by themselves. What is read together never changes a score.
    fn scored(
        &self,
        mut of_forms: Vec<Vec<Request>>,
        own: &[Range<usize>],
        on: &mut dyn FnMut(Vec<(usize, Vec<Vec<Scored>>)>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let counts: Vec<usize> = of_forms.iter().map(Vec::len).collect();
        // With so many groups, all examples up to one are done.
        let (mut groups, mut ends): (Vec<Vec<Request>>, Vec<usize>) = (Vec::new(), Vec::new());
        for forms in own {
            let forms: Vec<Vec<Request>> = of_forms[forms.clone()].iter_mut().map(std::mem::take).collect();
            let apart: usize = forms.iter().map(|group| cost(group)).sum();
            let together = forms.concat();
            groups.extend(if cost(&together) < apart { vec![together] } else { forms });
            ends.push(groups.len());
        }
        let mut done = 0;
        let mut report = |scored: &[Vec<Scored>]| {
            let so_far = ends.partition_point(|end| *end <= scored.len());
            let of_item = |item: usize| {
                let from = if item == 0 { 0 } else { ends[item - 1] };
                let mut one_by_one = scored[from..ends[item]].iter().flatten().cloned();
                let forms = counts[own[item].clone()].iter();
                (item, forms.map(|count| one_by_one.by_ref().take(*count).collect()).collect())
            };
            let new: Vec<(usize, Vec<Vec<Scored>>)> = (done..so_far).map(of_item).collect();
            done = so_far;
            on(new)
        };
        self.scorer.score(&groups, &mut report).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use hone_engine::DType;
    use hone_model::{LoadOptions, Model, NoHooks};

    use super::*;
    use crate::task::DataRoot;

    /// The forms of a reasoning on the model in the tree.
    fn forms(
        config: &str,
        prompt: &str,
        reasoning: &str,
    ) -> (Vec<(Option<Intervention>, String, usize, usize)>, Vec<usize>) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/stories260k");
        let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
        let model = Model::load(path.to_str().unwrap(), options).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("rows.jsonl"), r#"{"q": "a", "a": "b"}"#).unwrap();
        let file = directory.path().join("t.yaml");
        let yaml =
            format!("task: t\ndataset_path: rows.jsonl\ndoc_to_text: q\ndoc_to_target: a\nreasoning: {config}\n");
        std::fs::write(&file, yaml).unwrap();
        let task = Task::load(file.to_str().unwrap(), &DataRoot::default()).unwrap();
        let encoder = Encoder::new(&model, None).unwrap();
        let scorer = Scorer { model: &model, hooks: Arc::new(NoHooks), dtype: DType::F32, batch_tokens: 1024 };
        let config = task.config.reasoning.as_ref().unwrap();
        let reasoner = Reasoner { task: &task, config, scorer, encoder: &encoder, answer_stops: Vec::new() };
        let found = reasoner.forms(0, prompt, reasoning).unwrap();
        let tokens = |text: &str| encoder.encode(&format!("{prompt}{text}")).unwrap().len();
        let lengths = found.iter().map(|form| tokens(&form.reasoning)).collect();
        (found.into_iter().map(|f| (f.intervention, f.reasoning, f.filler, f.going_on)).collect(), lengths)
    }

    #[test]
    fn every_intervention_has_its_forms() {
        let (found, lengths) = forms(
            "{cue: So, steps: lines, max_gen_toks: 40}",
            "Add 3, 4 and 2.",
            " 3 + 4 = 7\nThat is it\n7 + 2 = 9\n",
        );
        let whole = " 3 + 4 = 7\nThat is it\n7 + 2 = 9";
        let (one, two) = (" 3 + 4 = 7", " 3 + 4 = 7\nThat is it");
        let of = |which: Option<Intervention>| -> Vec<(&str, usize, usize)> {
            let own = found.iter().zip(&lengths).filter(|((intervention, ..), _)| *intervention == which);
            own.map(|((_, text, filler, _), length)| (text.as_str(), *filler, *length)).collect()
        };
        let texts = |which: Intervention| of(Some(which)).into_iter().map(|(text, ..)| text).collect::<Vec<_>>();
        assert_eq!(of(None)[0].0, whole);
        assert_eq!(texts(Intervention::Cut), ["", one, two]);
        assert_eq!(texts(Intervention::Filler), ["", one, two]);
        // As many tokens as the steps that are gone.
        assert!(of(Some(Intervention::Filler)).iter().all(|(_, filler, length)| length + filler == of(None)[0].2));
        let other = " 3 plus 4 equals 7";
        let said = format!("{other}\nNote: That is it");
        assert_eq!(
            texts(Intervention::Paraphrase),
            [other.to_owned(), said.clone(), format!("{said}\n7 plus 2 equals 9")]
        );
        assert_eq!(texts(Intervention::Wrong), [" 3 + 4 = 0".to_owned(), format!("{two}\n7 + 2 = 2")]);
        // It goes on for as long as it had left behind its own steps.
        let prompt = lengths[1];
        for (which, kept) in
            [(Intervention::Paraphrase, vec![one, two, whole]), (Intervention::Wrong, vec![one, whole])]
        {
            let left: Vec<usize> = found.iter().filter(|(i, ..)| *i == Some(which)).map(|(.., left)| *left).collect();
            let own =
                |text: &&str| found.iter().position(|(_, known, ..)| known == text).map(|at| lengths[at] - prompt);
            let expected: Vec<usize> = kept.iter().map(|text| 40usize.saturating_sub(own(text).unwrap())).collect();
            assert_eq!(left, expected);
        }
    }

    #[test]
    fn one_step_cannot_be_taken_apart_and_only_what_is_asked_for_is_done() {
        let (found, _) = forms("{cue: So}", "Why?", " Because it is so.");
        assert_eq!(found.len(), 1);
        let (found, _) = forms("{cue: So, interventions: [filler]}", "Why?", " It is. It was.");
        assert_eq!(
            found.iter().map(|(i, ..)| *i).collect::<Vec<_>>(),
            [None, Some(Intervention::Filler), Some(Intervention::Filler)]
        );
    }
}
