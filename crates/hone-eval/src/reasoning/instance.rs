//! From a scorecard's row to what is counted of it: answers as numbers, so that equal ones can be told.

use std::collections::{BTreeMap, HashMap};

use super::interventions::Intervention;
use crate::error::EvalError;
use crate::metrics::Kind;
use crate::scorecard::{ScorecardHeader, ScorecardRow};

/// What filters put where they find no answer, by the harness' default.
const UNREADABLE: &str = "[invalid]";

/// What one model did on one example.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The answer given all of the reasoning; equal answers of a task have equal numbers.
    pub full: usize,
    /// Whether it is right.
    pub right: bool,
    /// Steps of the reasoning, at least two.
    pub steps: usize,
    /// The answers given changed reasonings.
    pub answers: BTreeMap<Intervention, Vec<usize>>,
}

impl Instance {
    /// What a row holds; `None` where the reasoning has fewer than two steps or the answer cannot be read. `kinds` numbers the
    /// written answers of a task; those of choices are numbered by their places, because choices may differ from question to question.
    ///
    /// # Errors
    /// A row without its reasoning; `measure` is who asks for it.
    pub fn of(
        row: &ScorecardRow,
        card: &ScorecardHeader,
        measure: &'static str,
        right: bool,
        kinds: &mut HashMap<String, usize>,
    ) -> Result<Option<Instance>, EvalError> {
        let Some(trace) = &row.reasoning else {
            return Err(EvalError::MeasureNeeds {
                measure,
                task: card.task.clone(),
                model: card.named(),
                id: row.id.clone(),
                needs: "the reasoning with its answers (`reasoning`)",
            });
        };
        let is_choice = Kind::from_name(&card.kind) == Some(Kind::MultipleChoice);
        let mut kind = |answer: &str| -> Option<usize> {
            if is_choice {
                return row.choices.iter().position(|choice| choice.text == answer);
            }
            let answer = answer.trim();
            let next = kinds.len();
            (!answer.is_empty()).then(|| *kinds.entry(answer.to_owned()).or_insert(next))
        };
        let answer = if is_choice { row.answer.as_str() } else { row.scored.as_deref().unwrap_or(&row.answer) };
        if trace.steps < 2 || answer.trim() == UNREADABLE {
            return Ok(None);
        }
        let Some(full) = kind(answer) else { return Ok(None) };
        let mut answers = BTreeMap::new();
        for (&intervention, texts) in &trace.answers {
            // An answer that cannot be read is another answer than one that can.
            let found =
                texts.iter().map(|text| kind(text).or_else(|| kind(UNREADABLE)).unwrap_or(usize::from(full == 0)));
            answers.insert(intervention, found.collect());
        }
        Ok(Some(Instance { full, right, steps: trace.steps, answers }))
    }
}
