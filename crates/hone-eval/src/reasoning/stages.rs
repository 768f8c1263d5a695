//! The two stages: the model writes its reasoning, then answers behind it and behind every changed form of it.

use std::ops::ControlFlow;

use hone_model::generate::{Generation, GenerationConfig, generate};

use super::interventions::{Intervention, filler, first, joined, with_filler, with_wrong_number};
use super::paraphrase::paraphrased;
use super::steps::split;
use super::{ReasoningConfig, Trace};
use crate::error::EvalError;
use crate::evaluate::cut_at_stops;
use crate::requests::{Encoder, Request};
use crate::rows;
use crate::scorecard::ScorecardRow;
use crate::scorer::{Scored, Scorer, cost};
use crate::task::{Item, Question, Task};

/// Longest answer of a task without choices that does not say.
const ANSWER_TOKENS: usize = 32;

/// Fewer steps than this cannot be taken apart.
const FEWEST_STEPS: usize = 2;

/// Tokens of a prompt that are decoded together with what follows them.
const TOKENS_BEFORE: usize = 8;

/// Says how many examples of the wave are done; an error if the user stops.
type Report<'a> = dyn FnMut(usize) -> Result<(), EvalError> + 'a;

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

impl Reasoner<'_> {
    /// The rows of a wave, and how many of its prompts were cut.
    pub fn rows(&self, items: &[Item], report: &mut Report<'_>) -> Result<(Vec<ScorecardRow>, usize), EvalError> {
        let prompts: Vec<&str> = items.iter().map(|item| self.prompt(item)).collect::<Result<_, _>>()?;
        let starts = prompts.iter().map(|prompt| (*prompt).to_owned()).collect::<Vec<_>>();
        let (written, mut cut) = self.write(items, &starts, report)?;
        let mut forms = Vec::new();
        for (item, reasoning) in written.iter().enumerate() {
            forms.extend(self.forms(item, prompts[item], reasoning)?);
        }
        self.go_on(items, &prompts, &mut forms, report)?;
        let (answered, over_length) = self.answered(items, &prompts, &forms, report)?;
        for (i, was_cut) in over_length.into_iter().enumerate() {
            cut[i] |= was_cut;
        }
        let mut rows: Vec<Option<ScorecardRow>> = vec![None; items.len()];
        let mut traces: Vec<Trace> = vec![Trace::default(); items.len()];
        for (form, row) in forms.iter().zip(answered) {
            match form.intervention {
                None => rows[form.item] = Some(row),
                Some(intervention) => {
                    traces[form.item].answers.entry(intervention).or_default().push(row.scored.unwrap_or(row.answer));
                }
            }
        }
        let finish = |((row, mut trace), (prompt, text)): ((Option<ScorecardRow>, Trace), (&&str, String))| {
            let mut row = row?;
            row.prompt = joined(&format!("{prompt}{}", text.trim_end()), &self.config.cue);
            trace.steps = split(&text, self.config.steps).len();
            trace.text = text;
            row.reasoning = Some(trace);
            Some(row)
        };
        let rows = rows.into_iter().zip(traces).zip(prompts.iter().zip(written)).filter_map(finish).collect();
        Ok((rows, cut.into_iter().filter(|cut| *cut).count()))
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

    /// What the model writes behind each text, and which texts were cut to leave it room.
    fn write(
        &self,
        items: &[Item],
        texts: &[String],
        report: &mut Report<'_>,
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
        let written = self.generate(&prompts, room, stops.clone(), report)?;
        let texts = prompts.iter().zip(&written).map(|(prompt, written)| self.behind(prompt, &written.ids, &stops));
        Ok((texts.collect::<Result<_, _>>()?, cut))
    }

    /// Lets the model write on behind the forms that it may go on from.
    fn go_on(
        &self,
        items: &[Item],
        prompts: &[&str],
        forms: &mut [Form],
        report: &mut Report<'_>,
    ) -> Result<(), EvalError> {
        let of: Vec<usize> = (0..forms.len()).filter(|&i| forms[i].going_on > 0).collect();
        let room = self.config.max_gen_toks;
        let mut texts = Vec::with_capacity(of.len());
        for &i in &of {
            let form = &forms[i];
            let text = format!("{}{}", prompts[form.item], form.reasoning);
            let (ids, _) =
                self.encoder.prompt(&text, room)?.map_err(|problem| self.problem(&items[form.item], problem))?;
            texts.push(ids);
        }
        let longest = of.iter().map(|&i| forms[i].going_on).max().unwrap_or(0);
        let stops = self.stops()?;
        let written = self.generate(&texts, longest, stops.clone(), report)?;
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
        let own = self.config.until.as_ref().map(|until| until.to_vec());
        let mut stops = own.unwrap_or_else(|| vec![self.task.config.fewshot_delimiter.clone()]);
        stops.push(self.config.cue.trim().to_owned());
        let tokenizer = &self.scorer.model.tokenizer;
        if let Some(eos) = tokenizer.eos_id {
            stops.push(tokenizer.decode(&[eos], false)?);
        }
        stops.retain(|stop| !stop.is_empty());
        Ok(stops)
    }

    fn generate(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        stop: Vec<String>,
        report: &mut Report<'_>,
    ) -> Result<Vec<Generation>, EvalError> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let config = GenerationConfig { max_new_tokens, stop, ..GenerationConfig::default() };
        let Scorer { model, hooks, dtype, .. } = self.scorer.clone();
        let mut stopped = None;
        let mut go_on = |_: usize, _: &str| {
            if stopped.is_none() {
                stopped = report(0).err();
            }
            stopped.is_none()
        };
        let written = generate(model, hooks, dtype, prompts, &config, &mut go_on)?;
        stopped.map_or(Ok(written), Err)
    }

    /// A row for every form, and whether an example's texts were cut.
    fn answered(
        &self,
        items: &[Item],
        prompts: &[&str],
        forms: &[Form],
        report: &mut Report<'_>,
    ) -> Result<(Vec<ScorecardRow>, Vec<bool>), EvalError> {
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
            let written = self.generate(&asked, room, self.answer_stops.clone(), report)?;
            report(items.len())?;
            let row = |(form, generation): (&Form, Generation)| {
                let text = cut_at_stops(generation.text, &self.answer_stops);
                rows::of_texts(self.task, &items[form.item], &[text], None)
            };
            return Ok((forms.iter().zip(written).map(row).collect::<Result<_, _>>()?, cut));
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
                let request = request.map_err(|problem| self.problem(&items[form.item], problem))?;
                cut[form.item] |= request.truncated;
                group.push(request);
            }
            of_forms.push(group);
        }
        let items_of_forms: Vec<usize> = forms.iter().map(|form| form.item).collect();
        let scored = self.scored(of_forms, &items_of_forms, items.len(), report)?;
        let row = |(form, scored): (&Form, Vec<Scored>)| rows::of_scores(self.task, &items[form.item], &[scored]);
        Ok((forms.iter().zip(scored).map(row).collect(), cut))
    }

    /// Scores the choices of every form. All forms of an example begin with the same prompt: they are one group, which reads it once,
    /// where that is less to read than each form's choices by themselves. What is read together never changes a score.
    fn scored(
        &self,
        of_forms: Vec<Vec<Request>>,
        items: &[usize],
        examples: usize,
        report: &mut Report<'_>,
    ) -> Result<Vec<Vec<Scored>>, EvalError> {
        let counts: Vec<usize> = of_forms.iter().map(Vec::len).collect();
        let (mut groups, mut ends): (Vec<Vec<Request>>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut forms = of_forms.into_iter().zip(items).peekable();
        while let Some((first, item)) = forms.next() {
            let mut own = vec![first];
            while let Some((next, _)) = forms.next_if(|(_, other)| *other == item) {
                own.push(next);
            }
            let apart: usize = own.iter().map(|group| cost(group)).sum();
            let together = own.concat();
            groups.extend(if cost(&together) < apart { vec![together] } else { own });
            // With so many groups, all examples up to this one are done.
            ends.push(groups.len());
        }
        let mut stopped = None;
        let scored = self.scorer.score(&groups, &mut |done| match report(
            ends.partition_point(|end| *end <= done).min(examples),
        ) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                stopped = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = stopped {
            return Err(error);
        }
        let mut one_by_one = scored.into_iter().flatten();
        Ok(counts.into_iter().map(|count| one_by_one.by_ref().take(count).collect()).collect())
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
