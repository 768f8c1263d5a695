//! Several edits made one.
//!
//! Edit `i` changes a weight by `ΔWᵢ` and counts with weight `λᵢ` (negative takes it away). [`HOW`] lists the ways; a
//! name of it is what a user says. They differ in the *space* they work in and the *rule* they apply there:
//!
//! | space | what is combined | result |
//! |---|---|---|
//! | [`Space::Stack`] | nothing: the edits apply one after another, each at strength `λᵢ` | a merged model |
//! | [`Space::Ranks`] | the pairs side by side, `[B₁ B₂]`, `[λ₁ s₁ A₁; λ₂ s₂ A₂]`: exactly `Σ λᵢ ΔWᵢ` | a LoRA of the ranks' sum |
//! | [`Space::Factors`] | the `A`s with each other and the `B`s with each other ([`pairs`]) | a LoRA of the same rank |
//! | [`Space::Product`] | the products `ΔWᵢ = sᵢ Bᵢ Aᵢ`, then cut to a rank by SVD | a LoRA of the rank asked for |
//! | [`Space::Weights`] | the changes of whole weights, of any mergeable edits ([`dense`]) | a merged model |
//!
//! Combining factors is quick and *not* the sum of the changes: `(Σ √λᵢ Bᵢ)(Σ √λⱼ Aⱼ)` has cross terms `Bᵢ Aⱼ` between
//! adapters that never met in training. It is here because Hugging Face PEFT's `add_weighted_adapter` has it (`linear`,
//! `ties`, …), with which names and numbers agree; `cat` costs rank and has no cross terms, `svd` is the best
//! approximation of that rank.
//!
//! Rules: [`Rule`], in [`rules`]. Routing different edits to different rows of a batch is no combination: see the
//! stack.

pub mod dense;
pub mod pairs;
pub mod rules;

use std::collections::BTreeMap;

use hone_engine::{RandomKey, Tensor};

use crate::base::Base;
use crate::error::{EditError, did_you_mean};
use crate::merge::Merger;
use crate::method::Edit;
use crate::stack::EditStack;

/// An edit to be combined.
#[derive(Clone)]
pub struct Operand {
    /// How messages call it: its directory.
    pub name: String,
    /// The edit.
    pub edit: Edit,
    /// `λ`: 1 as trained, negative to take away.
    pub weight: f32,
}

/// Where edits are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// One after another, each at its strength.
    Stack,
    /// Low-rank pairs side by side.
    Ranks,
    /// The factors of low-rank pairs, `A` with `A` and `B` with `B`.
    Factors,
    /// The products of low-rank pairs, cut to a rank again.
    Product,
    /// Whole weights.
    Weights,
}

/// What is done with the tensors of several edits. Formulas: [`rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The weighted sum.
    Sum,
    /// Trim, elect a sign, merge what agrees.
    Ties,
    /// Drop at random and scale up, then sum.
    DareSum,
    /// Drop at random and scale up, then elect a sign and merge what agrees.
    DareTies,
    /// Keep the largest, then sum.
    MagnitudePrune,
}

/// A way of combining edits.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// The word.
    pub name: &'static str,
    /// Where.
    pub space: Space,
    /// What is done there.
    pub rule: Rule,
    /// One line.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
}

impl How {
    /// The way of this name.
    pub fn named(name: &str) -> Result<&'static How, EditError> {
        HOW.iter().find(|how| how.name == name).ok_or_else(|| EditError::UnknownCombination {
            found: name.into(),
            hint: did_you_mean(name, HOW.iter().map(|how| how.name)),
            known: HOW.iter().map(|how| how.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether a density must be given.
    pub fn prunes(&self) -> bool {
        self.rule != Rule::Sum
    }
}

const TIES: &str = "TIES: arXiv 2306.01708";
const DARE: &str = "DARE: arXiv 2311.03099";
const DARE_TIES: &str = "DARE: arXiv 2311.03099; TIES: 2306.01708";

const fn how(name: &'static str, space: Space, rule: Rule, summary: &'static str, paper: &'static str) -> How {
    How { name, space, rule, summary, paper }
}

/// Every way, the exact ones first.
pub const HOW: &[How] = &[
    how("cat", Space::Ranks, Rule::Sum, "ranks side by side: the exact weighted sum, as one adapter", "-"),
    how("stack", Space::Stack, Rule::Sum, "one after another, each at its weight, merged into the model", "-"),
    how(
        "task_arithmetic",
        Space::Weights,
        Rule::Sum,
        "base + Σ λ (W - base), of any mergeable edits",
        "arXiv 2212.04089",
    ),
    how("svd", Space::Product, Rule::Sum, "the weighted sum, cut to a rank by SVD", "-"),
    how("linear", Space::Factors, Rule::Sum, "PEFT's: sums the factors, so adds cross terms between the adapters", "-"),
    how("ties", Space::Factors, Rule::Ties, "trim, elect a sign, merge what agrees, factor by factor", TIES),
    how("ties_svd", Space::Product, Rule::Ties, "the same with the products, cut to a rank", TIES),
    how("dare_linear", Space::Factors, Rule::DareSum, "drop at random and scale up, factor by factor", DARE),
    how("dare_linear_svd", Space::Product, Rule::DareSum, "the same with the products, cut to a rank", DARE),
    how(
        "dare_ties",
        Space::Factors,
        Rule::DareTies,
        "drop, elect a sign, merge what agrees, factor by factor",
        DARE_TIES,
    ),
    how("dare_ties_svd", Space::Product, Rule::DareTies, "the same with the products, cut to a rank", DARE_TIES),
    how("magnitude_prune", Space::Factors, Rule::MagnitudePrune, "keep the largest and sum, factor by factor", "-"),
    how("magnitude_prune_svd", Space::Product, Rule::MagnitudePrune, "the same with the products, cut to a rank", "-"),
];

/// What a way may be told. Defaults are PEFT's, but for the density, which has none: it must be given where it is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Share of numbers kept by a rule that prunes, above 0 and at most 1.
    pub density: Option<f64>,
    /// How signs are elected.
    pub majority_sign: MajoritySign,
    /// Rank of a result cut by SVD; the largest of the edits' ranks if not given.
    pub rank: Option<usize>,
    /// Seed of random drops.
    pub seed: u64,
}

/// How the sign of a number is elected among edits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// The sign of the sum: large numbers count more.
    #[default]
    Total,
    /// The sign most edits have.
    Frequency,
}

/// What came of it.
pub enum Combined {
    /// One edit in the others' stead.
    Edit(Box<Edit>),
    /// Changed weights, `f32`, by tensor name: a model.
    Weights(BTreeMap<String, Tensor>),
}

/// Combines `operands`, all made for `base`.
pub fn combine(how: &How, operands: &[Operand], base: &Base, options: &Options) -> Result<Combined, EditError> {
    if operands.is_empty() {
        return Err(cannot(how, None, None, "there is no edit to combine; name one with `--edit DIR`"));
    }
    if let Some(operand) = operands.iter().find(|o| !o.weight.is_finite()) {
        return Err(cannot(how, Some(&operand.name), None, "its weight is not a finite number"));
    }
    let density = match (how.prunes(), options.density) {
        (false, None) => 1.0,
        (false, Some(_)) => return Err(cannot(how, None, None, "it prunes nothing, so it takes no density")),
        (true, Some(density)) if density > 0.0 && density <= 1.0 => density,
        (true, Some(density)) => {
            let reason = format!("density {density} is not above 0 and at most 1");
            return Err(cannot(how, None, None, &reason));
        }
        (true, None) => {
            let reason = "it needs a density: the share of numbers that are kept, 0.2 say (`--density 0.2`)";
            return Err(cannot(how, None, None, reason));
        }
    };
    if options.rank.is_some() && how.space != Space::Product {
        return Err(cannot(how, None, None, "its rank follows from the edits; only the `svd` ways take one"));
    }
    let key = RandomKey::new(options.seed).named("dare");
    let ruling = rules::Ruling { rule: how.rule, density, majority_sign: options.majority_sign, key };
    let mut edit = match how.space {
        Space::Stack => return stacked(operands, base).map(Combined::Weights),
        Space::Weights => return dense::task_arithmetic(operands, base).map(Combined::Weights),
        Space::Ranks => pairs::concatenated(how, operands, base)?,
        Space::Factors => pairs::factors(how, operands, base, &ruling)?,
        Space::Product => pairs::products(how, operands, base, &ruling, options.rank)?,
    };
    // Where they were tuned on bases of different rounding, nothing can be said of all of them.
    let tuned = &operands[0].edit.base_quantize;
    let same = operands.iter().all(|operand| operand.edit.base_quantize == *tuned);
    edit.base_quantize = tuned.clone().filter(|_| same);
    Ok(Combined::Edit(Box::new(edit)))
}

/// The operands as a stack, each at its weight as strength.
pub fn stack(operands: &[Operand]) -> Result<EditStack, EditError> {
    let mut stack = EditStack::new();
    for operand in operands {
        for mut entry in EditStack::of(operand.edit.clone()).entries {
            entry.strength = operand.weight;
            stack.push(entry)?;
        }
    }
    Ok(stack)
}

fn stacked(operands: &[Operand], base: &Base) -> Result<BTreeMap<String, Tensor>, EditError> {
    let stack = stack(operands)?;
    let merger = Merger::new(&stack, base)?;
    let merged = |name: &str| Ok(merger.merged(name)?.map(|weight| (name.to_string(), weight)));
    merger.names().filter_map(|name| merged(name).transpose()).collect()
}

/// An error; `edit` and `place` say what it is about, where it is about one.
fn cannot(how: &How, edit: Option<&str>, place: Option<&str>, reason: &str) -> EditError {
    let at = match (edit, place) {
        (Some(edit), Some(place)) => format!(" ({edit}, at `{place}`)"),
        (Some(edit), None) => format!(" ({edit})"),
        (None, Some(place)) => format!(" (at `{place}`)"),
        (None, None) => String::new(),
    };
    EditError::CannotCombine { how: how.name, at, reason: reason.into() }
}
