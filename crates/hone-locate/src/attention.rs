//! How much attention goes to the user's context, by layer and head, with and without the chat template (Wang et al. 2025,
//! arXiv 2411.02688, section 3, which reads one head of one middle layer).
//!
//! ```text
//! mass(layer, head, part) = mean over examples of Σ_{j in part} A(row, j)     part: context, question, role … see `prompt`
//! ```
//! `from_prompt`: the row is the prompt's last token, which predicts the first token of the answer. `from_answer`: the mean over
//! the rows of the answer's own tokens. In both the parts and the virtual tokens add up to 1. `evidence` is that piece of the
//! context which says the answer word for word, over the examples that have one.
//!
//! **The paper's number** ([`Shares`]): in one layer, of the head that gives most to the user's text without the template, the
//! attention from the prompt's last token to the user, the assistant's role and the first token, other template tokens left
//! out and the three made to add up to 1.
//!
//! **`attention.json`** is an [`AttentionReport`]. A map (`forms[i].from_prompt.parts.context`) is
//! `{"layers": L, "heads": H, "mass": [L·H numbers, layer by layer], "n": examples, "per_example": [[L·H numbers], …]}`;
//! `per_example` is kept for `context` and `evidence` only. A change (`changes[i].from_prompt`, `template`) is
//! `{"layers", "heads", "n", "difference": [L·H], "low": [L·H], "high": [L·H], "by_layer": [{value, low, high}], "overall", "apart"}`.
//! To draw layer × head before and after: `before.forms[i].from_prompt.parts.context.mass` beside
//! `forms[i].from_prompt.parts.context.mass`, both 0 to 1.
//!
//! Attention is no proof of use: a head may look at what it then ignores.

use std::sync::atomic::{AtomicBool, Ordering};

use hone_eval::requests::Encoder;
use hone_eval::statistics::{BootstrapOptions, Estimate, mean};
use hone_model::attention::Masses;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::difference::Difference;
use crate::error::LocateError;
use crate::look::{Looker, positions};
pub use crate::mass::{AttentionMass, Looks};
use crate::prompt::{Form, Part, Prompt};
use crate::question::Question;

/// One form's maps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// With or without the chat template.
    pub form: Form,
    /// What the prompt's last token looks at.
    pub from_prompt: Looks,
    /// What the answer's tokens look at, in the mean.
    pub from_answer: Looks,
    /// Natural log-probability of each example's answer, by token.
    pub log_probability: Vec<f64>,
}

/// A model's maps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    /// The examples, in the order of `per_example`.
    pub ids: Vec<String>,
    /// Those left out, because they have no context or are longer than the model reads.
    pub left_out: Vec<String>,
    /// By form.
    pub forms: Vec<Measured>,
}

/// What was looked at: model, edit, type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// As the user named it.
    pub model: String,
    /// SHA-256 of its weights.
    pub model_sha256: String,
    /// Its edits, if any.
    pub edit: Option<String>,
    /// The type it was computed in.
    pub dtype: String,
}

/// The paper's number in one form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FormShares {
    /// With or without the chat template.
    pub form: Form,
    /// The user's text, context and question.
    pub user: Estimate,
    /// What opens the assistant's turn.
    pub role: Estimate,
    /// The first token.
    pub first: Estimate,
    /// The user's share in each example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_per_example: Vec<f64>,
}

/// The paper's number: one head of one layer, three parts that add up to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// The layer.
    pub layer: usize,
    /// Its head that gives most to the user's text without the template (with it, where only that was measured).
    pub head: usize,
    /// By form.
    pub forms: Vec<FormShares>,
}

/// How one form's maps differ between two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// With or without the chat template.
    pub form: Form,
    /// The context's map from the prompt's last token, after minus before.
    pub from_prompt: Difference,
    /// From the answer.
    pub from_answer: Difference,
}

/// What `attention.json` holds; the module says how to draw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionReport {
    /// The task or the data file.
    pub source: String,
    /// What was looked at.
    pub subject: Subject,
    /// Its maps.
    #[serde(flatten)]
    pub looked: Looked,
    /// The paper's number.
    pub shares: Shares,
    /// The context's map from the prompt's last token, with the template minus without, where both were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Difference>,
    /// Another model's maps on the same questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// What is different from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// The other side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// What was looked at.
    pub subject: Subject,
    /// Its maps.
    #[serde(flatten)]
    pub looked: Looked,
    /// The paper's number.
    pub shares: Shares,
}

/// Measures questions in several forms. A question that is too long in one of them is left out of all. `progress` is told how
/// many questions are done; setting `stop` ends it with [`LocateError::Stopped`].
///
/// # Errors
/// Questions that cannot be written in a form, and what the scorer refuses.
pub fn measure(
    looker: &Looker<'_>,
    questions: &[Question],
    forms: &[Form],
    progress: &mut dyn FnMut(usize),
    stop: &AtomicBool,
) -> Result<Looked, LocateError> {
    let encoder = looker.encoder()?;
    let mut sums: Vec<Sums> = forms.iter().map(|form| Sums::new(*form)).collect();
    let (mut ids, mut left_out) = (Vec::new(), Vec::new());
    for (done, question) in questions.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(LocateError::Stopped { done, total: questions.len() });
        }
        match prompts(looker, question, forms, &encoder)? {
            None => left_out.push(question.id.clone()),
            Some(prompts) => {
                for (sums, prompt) in sums.iter_mut().zip(&prompts) {
                    sums.add(looker, prompt)?;
                }
                ids.push(question.id.clone());
            }
        }
        progress(done + 1);
    }
    Ok(Looked { ids, left_out, forms: sums.into_iter().map(Sums::finish).collect() })
}

/// A question in every form; `None` if it has no context, or is too long in one of them.
fn prompts(
    looker: &Looker<'_>,
    question: &Question,
    forms: &[Form],
    encoder: &Encoder<'_>,
) -> Result<Option<Vec<Prompt>>, LocateError> {
    if question.context.is_empty() {
        return Ok(None);
    }
    let prompts: Vec<Prompt> =
        forms.iter().map(|form| Prompt::new(question, *form, looker.model(), encoder)).collect::<Result<_, _>>()?;
    let fits = |prompt: &Prompt| prompt.ids.len() <= encoder.max_length() && prompt.of(Part::Context).any(|own| own);
    Ok(prompts.iter().all(fits).then_some(prompts))
}

/// One form's examples so far.
struct Sums {
    form: Form,
    layers: usize,
    heads: usize,
    has_virtual_tokens: bool,
    /// From the prompt, from the answer: by set, by example, `[layers, heads]`.
    seen: [Vec<Vec<Vec<f64>>>; 2],
    log_probability: Vec<f64>,
}

/// The parts, the evidence, the virtual tokens.
const SETS: usize = Part::ALL.len() + 2;

impl Sums {
    fn new(form: Form) -> Sums {
        let seen = [vec![Vec::new(); SETS], vec![Vec::new(); SETS]];
        Sums { form, layers: 0, heads: 0, has_virtual_tokens: false, seen, log_probability: Vec::new() }
    }

    fn add(&mut self, looker: &Looker<'_>, prompt: &Prompt) -> Result<(), LocateError> {
        let mut sets: Vec<_> = Part::ALL.iter().map(|part| positions(prompt.of(*part))).collect();
        sets.push(positions(prompt.evidence.iter().copied()));
        let says_the_answer = prompt.evidence.contains(&true);
        let rows: Vec<usize> = (prompt.prompt_tokens - 1..prompt.ids.len()).collect();
        let layers = looker.model().spec.layers.len();
        let (scored, masses) = looker.look(prompt.request(looker.closing_id()), rows, sets, 0..layers)?;
        (self.layers, self.heads) = (masses.layers, masses.heads);
        self.has_virtual_tokens = looker.scorer.hooks.virtual_tokens() > 0;
        let answer = &scored.log_probs[..scored.log_probs.len() - 1];
        self.log_probability.push(mean(&answer.iter().map(|p| f64::from(*p)).collect::<Vec<_>>()));
        for (seen, rows) in self.seen.iter_mut().zip([0..1, 1..masses.rows]) {
            for (set, examples) in seen.iter_mut().enumerate() {
                // The evidence counts where there is some.
                if set != Part::ALL.len() || says_the_answer {
                    examples.push(mean_over(&masses, rows.clone(), set));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Measured {
        let Sums { form, layers, heads, has_virtual_tokens, seen, log_probability } = self;
        let [from_prompt, from_answer] = seen.map(|seen| {
            let mut sets = seen.into_iter().map(|examples| AttentionMass::new(layers, heads, examples));
            let parts = Part::ALL.into_iter().zip(sets.by_ref()).collect();
            let evidence = sets.next().filter(|mass| mass.n > 0);
            let virtual_tokens = sets.next().filter(|_| has_virtual_tokens);
            Looks { parts, evidence, virtual_tokens }
        });
        Measured { form, from_prompt, from_answer, log_probability }
    }
}

/// `[layers, heads]` of one set, the mean over rows.
fn mean_over(masses: &Masses, rows: std::ops::Range<usize>, set: usize) -> Vec<f64> {
    let cells = (0..masses.layers).flat_map(|layer| (0..masses.heads).map(move |head| (layer, head)));
    let count = rows.len() as f64;
    cells.map(|(layer, head)| rows.clone().map(|row| masses.at(row, layer, head, set)).sum::<f64>() / count).collect()
}

impl Looked {
    /// The maps of one form.
    pub fn form(&self, form: Form) -> Option<&Measured> {
        self.forms.iter().find(|measured| measured.form == form)
    }

    /// The paper's number in `layer`. Needs every part's examples, so it comes before [`Looked::slim`]; `None` if nothing was
    /// measured, or the model has no such layer.
    pub fn shares(&self, layer: usize, options: &BootstrapOptions) -> Option<Shares> {
        let reference = self.form(Form::Plain).or_else(|| self.forms.first())?;
        let looks = &reference.from_prompt;
        let heads = looks.part(Part::Context).heads;
        if self.ids.is_empty() || layer >= looks.part(Part::Context).layers {
            return None;
        }
        let user = |head: usize| looks.part(Part::Context).at(layer, head) + looks.part(Part::Question).at(layer, head);
        let head = (0..heads).max_by(|a, b| user(*a).total_cmp(&user(*b)).then(b.cmp(a)))?;
        let cell = layer * heads + head;
        let of_form = |measured: &Measured| {
            let value = |part: Part, example: usize| measured.from_prompt.part(part).per_example[example][cell];
            let three = |example: usize| {
                let user = value(Part::Context, example) + value(Part::Question, example);
                let (role, first) = (value(Part::Role, example), value(Part::First, example));
                // Where all of it goes to the template's marks there is nothing to share out.
                let whole = (user + role + first).max(f64::MIN_POSITIVE);
                [user / whole, role / whole, first / whole]
            };
            let all: Vec<[f64; 3]> = (0..self.ids.len()).map(three).collect();
            let estimate = |at: usize| {
                let values: Vec<f64> = all.iter().map(|three| three[at]).collect();
                Estimate::of_mean(&values, options)
            };
            FormShares {
                form: measured.form,
                user: estimate(0),
                role: estimate(1),
                first: estimate(2),
                user_per_example: all.iter().map(|three| (three[0] * 1e7).round() / 1e7).collect(),
            }
        };
        Some(Shares { layer, head, forms: self.forms.iter().map(of_form).collect() })
    }

    /// Forgets the examples of all parts but context and evidence.
    pub fn slim(&mut self) {
        for measured in &mut self.forms {
            measured.from_prompt.slim();
            measured.from_answer.slim();
        }
    }

    /// A row an example: what it gives to its context with all heads in the mean, the user's share by the paper's number, and
    /// the log-probability of the answer: `{"id", "plain": {"from_prompt", "from_answer", "user_share", "log_probability"}, …}`.
    pub fn examples(&self, shares: &Shares) -> Vec<Map<String, Value>> {
        let example = |(at, id): (usize, &String)| {
            let mut row = Map::from_iter([("id".to_owned(), Value::from(id.as_str()))]);
            for (measured, shares) in self.forms.iter().zip(&shares.forms) {
                let of = |looks: &Looks| looks.part(Part::Context).of_example(at);
                let numbers = json!({
                    "from_prompt": of(&measured.from_prompt),
                    "from_answer": of(&measured.from_answer),
                    "user_share": shares.user_per_example.get(at),
                    "log_probability": measured.log_probability[at],
                });
                let name = if measured.form == Form::Plain { "plain" } else { "chat" };
                row.insert(name.into(), numbers);
            }
            row
        };
        self.ids.iter().enumerate().map(example).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_head_is_chosen_without_the_template() {
        let one = |user: f64, role: f64, first: f64| {
            let map = |value: f64| AttentionMass::new(1, 2, vec![vec![value, value / 2.0]]);
            let parts = [(Part::Context, map(user)), (Part::Question, map(0.0)), (Part::Role, map(role))];
            let looks =
                Looks { parts: parts.into_iter().chain([(Part::First, map(first))]).collect(), ..Looks::default() };
            (looks.clone(), looks)
        };
        let measured =
            |form, (from_prompt, from_answer)| Measured { form, from_prompt, from_answer, log_probability: vec![0.0] };
        let looked = Looked {
            ids: vec!["0".into()],
            left_out: Vec::new(),
            forms: vec![measured(Form::Plain, one(0.6, 0.0, 0.2)), measured(Form::Chat, one(0.2, 0.1, 0.1))],
        };
        let options = BootstrapOptions { resamples: 10, ..BootstrapOptions::default() };
        let shares = looked.shares(0, &options).unwrap();
        assert_eq!((shares.layer, shares.head), (0, 0));
        assert!((shares.forms[0].user.value - 0.75).abs() < 1e-6 && (shares.forms[1].user.value - 0.5).abs() < 1e-6);
        assert!((shares.forms[1].role.value - 0.25).abs() < 1e-6);
        assert_eq!(looked.shares(1, &options), None);
    }
}
