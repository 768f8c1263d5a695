//! Tasks that are answered after a written reasoning, and what becomes of the answer when the reasoning is changed.
//!
//! A task with the key `reasoning` is asked in two stages. First the model writes: the prompt is the task's own, decoded greedily.
//! Then it answers: the prompt, the reasoning and a fixed cue are read, and the choices scored by the one scorer (or a text
//! written, where the task has no choices). The second stage is repeated with the reasoning cut short, filled, paraphrased and with
//! a wrong number ([`interventions`]); the row of an example keeps the reasoning and all answers ([`Trace`]), and
//! [`crate::measures::reasoning`] reads them. As one of a task's `variants` it stands beside the same questions without reasoning:
//!
//! ```yaml
//! variants:
//!   - {name: direct}
//!   - name: reasoned
//!     doc_to_text: "Q: {{question}}\nA: Let's think step by step."
//!     reasoning: {cue: "\nSo the answer is", max_gen_toks: 96, steps: sentences}
//! ```
//!
//! The answer given all of the reasoning is asked for with the same cue as the others, so that nothing but the reasoning differs.
//! Where the model itself writes the cue, its reasoning ends there. Prompts of two models are the same question: a row's hash is of
//! the first stage's prompt, not of what the model wrote.
//!
//! Everything but filler is put together as text and split into tokens anew. A model that wrote its text in other tokens than the
//! tokenizer would is then read a little differently from how it wrote; the control `paraphrase: identity` measures that.

pub mod faithfulness;
pub mod instance;
pub mod interventions;
pub mod paraphrase;
mod stages;
pub mod steps;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::config::OneOrMany;
use interventions::Intervention;
use paraphrase::Paraphrase;
pub(crate) use stages::Reasoner;
use steps::Splitter;

/// The key `reasoning` of a task file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasoningConfig {
    /// What stands between the reasoning and the answer: `"\nSo the answer is"`.
    pub cue: String,
    /// Most tokens of a reasoning.
    #[serde(default = "max_gen_toks")]
    pub max_gen_toks: usize,
    /// Texts that end it, besides the cue and the end of text; the shots' delimiter where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<OneOrMany>,
    /// What a step is.
    #[serde(default)]
    pub steps: Splitter,
    /// What is done to the reasoning; everything there is where not given.
    #[serde(default = "all_interventions")]
    pub interventions: Vec<Intervention>,
    /// How steps are put into other words.
    #[serde(default)]
    pub paraphrase: Paraphrase,
    /// The filler's text, whose tokens are repeated.
    #[serde(default = "filler")]
    pub filler: String,
}

fn max_gen_toks() -> usize {
    128
}

fn all_interventions() -> Vec<Intervention> {
    Intervention::ALL.to_vec()
}

fn filler() -> String {
    " ...".into()
}

impl ReasoningConfig {
    /// What is wrong with the settings, with the key at fault.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if self.cue.trim().is_empty() {
            return Some((
                "reasoning.cue",
                "is empty; write what stands before the answer, such as \"\\nSo the answer is\"".into(),
            ));
        }
        if self.cue.ends_with(char::is_whitespace) {
            let problem = "ends with white space; leave it out, `target_delimiter` stands before the answer";
            return Some(("reasoning.cue", problem.into()));
        }
        if self.max_gen_toks == 0 {
            return Some(("reasoning.max_gen_toks", "is 0, expected at least 1".into()));
        }
        if self.filler.trim().is_empty() {
            return Some(("reasoning.filler", "is empty; write a text that says nothing, such as \" ...\"".into()));
        }
        let twice = |(i, known): (usize, &Intervention)| self.interventions[..i].contains(known);
        self.interventions
            .iter()
            .enumerate()
            .any(twice)
            .then(|| ("reasoning.interventions", "one is named twice".into()))
    }
}

/// A written reasoning, and the answers that followed it and its changed forms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// What the model wrote, up to the cue.
    pub text: String,
    /// Its steps.
    pub steps: usize,
    /// By what was done to it, the answers in order of the steps: `cut` and `filler` with the first 0, 1 … n − 1 steps kept,
    /// `paraphrase` with the first 1, 2 … n in other words, `wrong` with each step that has a number. Nothing of a reasoning of fewer
    /// than two steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<Intervention, Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Result<ReasoningConfig, String> {
        let config: ReasoningConfig = serde_yaml_ng::from_str(yaml).map_err(|e| e.to_string())?;
        config.problem().map_or(Ok(config), |(place, problem)| Err(format!("{place}: {problem}")))
    }

    #[test]
    fn settings_have_defaults_and_mistakes_are_named() {
        let found = config("cue: '\nSo it is'").unwrap();
        assert_eq!((found.max_gen_toks, found.filler.as_str(), found.interventions.len()), (128, " ...", 4));
        let found = config("{cue: So, steps: lines, interventions: [cut, wrong], paraphrase: identity}").unwrap();
        assert_eq!((found.steps, found.paraphrase), (Splitter::Lines, Paraphrase::Identity));
        assert_eq!(found.interventions, [Intervention::Cut, Intervention::Wrong]);
        for (yaml, expected) in [
            ("{}", "missing field `cue`"),
            ("cue: ' '", "reasoning.cue: is empty"),
            ("cue: 'So '", "ends with white space"),
            ("{cue: So, max_gen_toks: 0}", "reasoning.max_gen_toks"),
            ("{cue: So, filler: ''}", "reasoning.filler"),
            ("{cue: So, interventions: [cut, cut]}", "named twice"),
            ("{cue: So, interventions: [trim]}", "unknown variant `trim`"),
            ("{cue: So, step: lines}", "unknown field `step`"),
        ] {
            let message = config(yaml).unwrap_err();
            assert!(message.contains(expected), "{yaml}: {message}");
        }
    }

    #[test]
    fn a_trace_is_written_and_read() {
        let mut trace = Trace { text: "One. Two.".into(), steps: 2, ..Trace::default() };
        trace.answers.insert(Intervention::Cut, vec!["yes".into(), "no".into()]);
        let written = serde_json::to_string(&trace).unwrap();
        assert!(written.contains(r#""answers":{"cut":["yes","no"]}"#), "{written}");
        assert_eq!(serde_json::from_str::<Trace>(&written).unwrap(), trace);
    }
}
