//! What this crate finds, as measures of a comparison: the same numbers, tables and charts that a report shows of any other
//! ([`hone_eval::measures`]).
//!
//! | measure | room |
//! |---|---|
//! | How much attention goes to the context, on a map of layers by heads? | [`attention`] |
//! | How much do answers depend on what the user gave? | [`dependency`] |
//!
//! What they do not know: whether the models that were looked at are those of the comparison; each says which they are.

pub mod attention;
pub mod dependency;

use crate::attention::Subject;

/// A model with its edit, in words.
fn named(subject: &Subject) -> String {
    match &subject.edit {
        Some(edit) => format!("{} + {edit}", subject.model),
        None => subject.model.clone(),
    }
}

/// The models that were looked at, in words.
fn models(before: Option<&Subject>, after: &Subject) -> String {
    match before {
        Some(before) => format!("{} → {}", named(before), named(after)),
        None => named(after),
    }
}
