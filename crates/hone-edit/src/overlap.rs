//! How far two sparse edits of one model change the same elements: do two tasks need the same weights?
//!
//! An element of a weight is changed if the merged weight differs there from the base's, in `f32`; so this holds for grafts
//! and other sparse deltas, for given places (SHiRA) and for masks that drop weights alike. With `A`, `B` the sets of
//! elements that the two edits change, and `T` all elements of the weights that at least one of them acts on:
//!
//! ```text
//! share  = |A ∩ B| / |A|            how much of A's elements B changes, too
//! chance = |B| / |T|                what that share would be in the mean, were B's elements drawn at random from T
//! ratio  = share / chance           1 is chance; it cannot be above |T| / max(|A|, |B|)
//! ```
//!
//! Shares depend on who is first; the ratio does not. (Panigrahi et al. 2023, arXiv 2302.06600, compare tasks by the share.)
//! The same by layer and by kind of weight (`q_proj`, `input_layernorm` …), each with the elements of that part as its `T`:
//! two edits may lie in the same layers and yet meet within them no more often than by chance.
//!
//! Where an edit changes most of what it acts on, overlap says nothing, and dense edits are refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::base::{Base, BaseWeight};
use crate::error::EditError;
use crate::merge::Merger;
use crate::method::Edit;
use crate::sparse::{MOST_ELEMENTS, SparseDelta};
use crate::stack::EditStack;

/// Share of the elements of the weights that an edit acts on, above which it counts as dense.
const DENSE: f64 = 0.5;

/// Changed elements, counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Counts {
    /// `|T|`.
    pub elements: usize,
    /// `|A|`.
    pub changed_a: usize,
    /// `|B|`.
    pub changed_b: usize,
    /// `|A ∩ B|`.
    pub both: usize,
    /// `|A ∩ B| / |A|`; none where `A` changes nothing.
    pub share: Option<f64>,
    /// `|B| / |T|`.
    pub chance: Option<f64>,
    /// `share / chance`; none where either changes nothing.
    pub ratio: Option<f64>,
}

impl Counts {
    /// With the shares that follow.
    pub fn new(elements: usize, changed_a: usize, changed_b: usize, both: usize) -> Counts {
        let over = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        let (share, chance) = (over(both, changed_a), over(changed_b, elements));
        let ratio = share.zip(chance).filter(|(_, chance)| *chance > 0.0).map(|(share, chance)| share / chance);
        Counts { elements, changed_a, changed_b, both, share, chance, ratio }
    }

    fn with(self, other: Counts) -> Counts {
        Counts::new(
            self.elements + other.elements,
            self.changed_a + other.changed_a,
            self.changed_b + other.changed_b,
            self.both + other.both,
        )
    }
}

/// The counts of a part of the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// A layer's number, or a kind of weight.
    pub part: String,
    /// Its elements.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What two edits have in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// All weights together.
    #[serde(flatten)]
    pub counts: Counts,
    /// By layer, in order; weights outside of all layers are left out.
    pub layers: Vec<Part>,
    /// By the last word of the module's path, in alphabetical order.
    pub kinds: Vec<Part>,
}

/// An edit, and what errors call it: its directory.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    /// The name.
    pub name: &'a str,
    /// The edit.
    pub edit: &'a Edit,
}

/// Which elements `a` and `b` change, weight by weight. Errors: an edit that is no change of weights
/// ([`EditError::CannotMerge`]); one of another base, one that changes nothing, or most of what it acts on
/// ([`EditError::NoOverlap`]).
pub fn overlap(a: Named, b: Named, base: &Base) -> Result<Overlap, EditError> {
    for named in [a, b] {
        if named.edit.base_sha256 != base.sha256 {
            let reason = format!("it was made for another base model (`{}`)", named.edit.base_reference);
            return Err(no_overlap(named, reason));
        }
    }
    let stacks = [a, b].map(|named| EditStack::of(named.edit.clone()));
    let mergers = [Merger::new(&stacks[0], base)?, Merger::new(&stacks[1], base)?];
    let acts_on = mergers.each_ref().map(|merger| merger.names().collect::<BTreeSet<&str>>());
    let (mut total, mut layers, mut kinds) = (Counts::new(0, 0, 0, 0), BTreeMap::new(), BTreeMap::new());
    // Elements of the weights that each acts on.
    let mut own = [0, 0];
    for weight in base.weights.iter().filter(|w| acts_on.iter().any(|names| names.contains(w.name.as_str()))) {
        let elements = weight.shape.iter().product();
        if elements > MOST_ELEMENTS {
            let reason = format!("`{}` has {elements} elements, expected at most {MOST_ELEMENTS}", weight.name);
            return Err(no_overlap(a, reason));
        }
        let (by_a, by_b) = (changed(&mergers[0], weight)?, changed(&mergers[1], weight)?);
        let counts = Counts::new(elements, by_a.indices().len(), by_b.indices().len(), by_a.in_common(&by_b));
        for (own, names) in own.iter_mut().zip(&acts_on) {
            *own += if names.contains(weight.name.as_str()) { elements } else { 0 };
        }
        total = total.with(counts);
        let add = |sum: &mut Counts| *sum = sum.with(counts);
        if let Some(layer) = layer(&weight.name) {
            layers.entry(layer).and_modify(add).or_insert(counts);
        }
        let kind = weight.module().rsplit('.').next().unwrap_or_default().to_owned();
        kinds.entry(kind).and_modify(add).or_insert(counts);
    }
    for (named, changed, own) in [(a, total.changed_a, own[0]), (b, total.changed_b, own[1])] {
        refuse_dense(named, changed, own)?;
    }
    let part = |(part, counts): (String, Counts)| Part { part, counts };
    Ok(Overlap {
        counts: total,
        layers: layers.into_iter().map(|(layer, counts): (usize, _)| part((layer.to_string(), counts))).collect(),
        kinds: kinds.into_iter().map(part).collect(),
    })
}

/// What an edit changes of a weight.
fn changed(merger: &Merger, weight: &BaseWeight) -> Result<SparseDelta, EditError> {
    let nothing = || SparseDelta::of_entries(&weight.shape, std::iter::empty());
    Ok(merger.change(&weight.name)?.as_ref().map_or_else(nothing, SparseDelta::of))
}

fn refuse_dense(named: Named, changed: usize, elements: usize) -> Result<(), EditError> {
    let share = changed as f64 / elements.max(1) as f64;
    let method = named.edit.method.info().name;
    if changed == 0 {
        return Err(no_overlap(named, format!("it is `{method}` and changes no element; is it trained?")));
    }
    if share > DENSE {
        let reason = format!(
            "it is `{method}` and changes {:.1} % of the {elements} elements of the weights it acts on, and where most is \
             changed an overlap says nothing; sparse edits are expected, such as `grafting`, which finds the few changes that \
             matter in a tuned run",
            100.0 * share
        );
        return Err(no_overlap(named, reason));
    }
    Ok(())
}

fn no_overlap(named: Named, reason: String) -> EditError {
    EditError::NoOverlap { edit: named.name.into(), reason }
}

/// The number behind `layers.` in a name.
fn layer(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}
