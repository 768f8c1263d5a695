//! A model that edits were merged into, with the edits taken out of it again: the rest of `hone export --take-out`.
//!
//! What an edit added to a weight is taken away, or its map inverted, in `f32`; the last edit first. Most edits say by themselves what
//! that is. One that is made of the base's own weights (DoRA, a mask, a weight trained whole) does not, and is refused unless the base is
//! named. How near the result comes to the model before is measured where the base is named: what is farther from it than the merged model
//! was did not hold the edits, and is not written; what is nearer, but not the base as rounding leaves it, is warned of. Else the
//! edits are applied to the result, which says what rounding does and no more.
//!
//! It does not know what else was merged in. Added changes come out from among others; a rotation or a scaling is undone wholly only
//! where nothing was merged after it.

use std::path::Path;
use std::sync::Arc;

use hone_edit::files::{base_reference, read_edit};
use hone_edit::merge::{LogitDifference, Merger};
use hone_edit::{Base, EditError, EditStack, StackEntry};
use hone_engine::DType;
use hone_model::{Decoder, Hooks, Model, NoHooks};
use serde::Serialize;

use super::load::{With, load_model};
use super::merge::split_weight;
use super::verify::{self, Limit};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::remark;

/// What is left of a merged model.
pub struct TakenOut {
    /// Its weights.
    pub decoder: Arc<Decoder>,
    /// Tensors that the edits had changed.
    pub tensors: usize,
    /// How near it comes to what it should be.
    pub proof: Proof,
}

/// A difference that should be rounding alone.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The base that was named, beside what is left.
    FromBase(LogitDifference),
    /// The merged model, beside what is left with the edits applied to it: no evidence that they were in there, since what is taken away
    /// and put back is always the same.
    Rounding(LogitDifference),
}

impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Proof::FromBase(difference) => write!(f, "from the base: {}", verify::shown(difference)),
            Proof::Rounding(difference) => {
                let shown = verify::shown(difference);
                write!(f, "rounding:      {shown}, the edits applied again; `--base` tells whether they were in there")
            }
        }
    }
}

/// `merged` without the edits that `with` names; `base` is the model before, where the user names it.
pub fn taken_out(merged: &Model, with: &With, base: Option<&str>, common: &Common) -> Result<TakenOut, Failure> {
    let before = base.map(|reference| load_model(reference, with.dtype, common)).transpose()?;
    let known = match &before {
        Some(before) => same_architecture(before, merged)?,
        None => Base::before(merged),
    };
    let mut stack = EditStack::new();
    let named: Vec<(&Path, f32)> = with.edit.iter().map(|named| weighted(named)).collect::<Result<_, _>>()?;
    for &(dir, strength) in &named {
        let edit = read_edit(dir, &known).map_err(|error| refused(error, &named))?;
        if !common.quiet {
            edit.warnings.iter().for_each(|warning| remark!("note: {}: {warning}", dir.display()));
        }
        stack.push(StackEntry { strength, ..StackEntry::new(edit) })?;
    }
    let merger = Merger::new(&stack, &known)?;
    let decoder = merger.taken_out(&merged.decoder, with.dtype).map_err(|error| refused(error, &named))?;
    let (decoder, plain): (_, Arc<dyn Hooks>) = (Arc::new(decoder), Arc::new(NoHooks));
    let proof = match &before {
        Some(before) => {
            let from_base =
                |decoder| verify::compare(merged, &(&before.decoder, plain.clone()), &(decoder, plain.clone()));
            let (was, is) = (from_base(&merged.decoder)?, from_base(&decoder)?);
            let stored = stored_as(merged);
            let rounding = Limit::rounded(stored).mean * is.largest_logit;
            was_in_there(was, is, rounding, before)?;
            if is.mean > rounding && !common.quiet {
                remark!("warning: {}", farther_than_rounding(is, stored, rounding, before));
            }
            Proof::FromBase(is)
        }
        None => {
            let edited = (&decoder, stack.hooks(DType::F32));
            Proof::Rounding(verify::compare(merged, &(&merged.decoder, plain), &edited)?)
        }
    };
    Ok(TakenOut { decoder, tensors: merger.names().count(), proof })
}

/// The type that a model's weights are stored in, by the numbers themselves: `bf16` if all are numbers of that type.
fn stored_as(model: &Model) -> DType {
    let needs_f32 = |value: &f32| value.to_bits() & 0xFFFF != 0;
    match Base::of(model).weights.iter().any(|weight| weight.to_f32().as_slice::<f32>().iter().any(needs_f32)) {
        true => DType::F32,
        false => DType::BF16,
    }
}

/// What is said of a result that is nearer to the base than the merged model was, and not the base.
fn farther_than_rounding(is: LogitDifference, stored: DType, rounding: f64, base: &Model) -> String {
    format!(
        "what is left is not `{}`: found {}, expected at most {:.2e} in the mean, which is what rounding to {stored} explains. Either other \
         edits are still in it, or the weights are stored in fewer bits, or these edits were merged with other weights \
         (`--edit DIR=WEIGHT`)",
        base.source.reference,
        verify::shown(&is),
        rounding
    )
}

/// Refuses what is farther from the base than the merged model was, by more than rounding explains; and by more than a
/// twentieth, since what fewer bits did to the merged weights does not shrink with the edit.
fn was_in_there(was: LogitDifference, is: LogitDifference, rounding: f64, base: &Model) -> Result<(), Failure> {
    if is.mean <= (1.05 * was.mean).max(rounding) {
        return Ok(());
    }
    let cause = format!(
        "what is left is farther from `{}` than the merged model: found {}, expected at most the {:.2e} in the mean that the merged model is \
         away, or {:.2e}, which is rounding",
        base.source.reference,
        verify::shown(&is),
        was.mean,
        rounding
    );
    let hint = "the edits were not merged into this model, or with other weights, or into another base: see `--edit DIR=WEIGHT`; where \
                other edits that work against these stay in it, leave out `--base`";
    Err(Failure::user(cause, hint))
}

/// `DIR=WEIGHT` as both; a directory alone was merged as it is.
fn weighted(named: &Path) -> Result<(&Path, f32), Failure> {
    let Some(text) = named.to_str() else { return Ok((named, 1.0)) };
    let (dir, weight) = split_weight(text)?;
    Ok((Path::new(dir), weight.unwrap_or(1.0)))
}

/// The base, if it can be what `merged` was before.
fn same_architecture(before: &Model, merged: &Model) -> Result<Base, Failure> {
    let (base, other) = (Base::of(before), Base::of(merged));
    let differs = |what: String| {
        let cause = format!("`{}` was not merged into `{}`: {what}", base.reference, other.reference);
        Failure::user(cause, "name the model that the edits were merged into as `--base`")
    };
    if base.model_type != other.model_type {
        return Err(differs(format!("one is `{}`, the other `{}`", base.model_type, other.model_type)));
    }
    for weight in &base.weights {
        let shape = other.weight(&weight.name).map(|weight| &weight.shape);
        if shape != Some(&weight.shape) {
            let there = shape.map_or("is not there".to_string(), |shape| format!("has shape {shape:?}"));
            return Err(differs(format!("`{}` of shape {:?} {there} in the other", weight.name, weight.shape)));
        }
    }
    Ok(base)
}

/// A failure, with the base that the adapters name where that helps.
fn refused(error: EditError, named: &[(&Path, f32)]) -> Failure {
    let unknown = matches!(error, EditError::UnknownBase { .. });
    let base = named.iter().find_map(|(dir, _)| base_reference(dir).ok()).filter(|_| unknown);
    let failure = Failure::from(error);
    match base {
        Some(base) => Failure { hint: Some(format!("the adapter names it: `--base {base}`")), ..failure },
        None => failure,
    }
}
