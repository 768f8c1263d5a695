//! Do the sources of a mix pull the same way? The angles between the gradients that each of them alone would give.
//!
//! For source `s`, of which the examples `E_s` with `N_s` trained tokens are read, over an edit's trained parameters `θ`:
//!
//! ```text
//! g_s = ∇_θ Σ_{e ∈ E_s} −ln p(e) / N_s        cos(s, t) = ⟨g_s, g_t⟩ / (‖g_s‖ ‖g_t‖)
//! ```
//!
//! Above 0 a small step for one source helps the other as well, below 0 it hurts it (Yu et al. 2020, arXiv 2001.06782,
//! call such gradients conflicting). The mean over all pairs is the measure of alignment between tasks of Caccia et al.
//! 2023 (arXiv 2211.03831), who take it over `lora_B` alone.
//!
//! A gradient over few examples is mostly noise, and noise takes every cosine towards 0. So the examples of a source are
//! also halved, every other one into the same half: the cosine between the halves is what noise leaves of perfect
//! agreement, at half as many examples.
//!
//! The gradient is that of [`crate::step`], on what the training loop would read: the recipe's encoding and masks, the
//! source as the task. There is no training noise (dropout, relaxed routing), no clipping and no optimiser. It knows nothing
//! of what methods do beside forward and backward ([`hone_edit::TrainingRules`]: penalties, masks of gradients), nor of versions
//! that are trained towards (`train.compatibility`), nor of wordings that are held together (`train.wording_consistency`).

use std::num::NonZeroUsize;
use std::path::{Component, Path};

use hone_data::config::SourceConfig;
use hone_data::{FlatBatch, StepBatch, TokenisedExample};
use hone_edit::stack::check_group;
use hone_edit::{EditStack, Param};
use hone_engine::{DType, Gradients, ParamId};
use hone_model::Model;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::TrainError;
use crate::machine::available_memory;
use crate::prepare::PreparedData;
use crate::recipe::Recipe;
use crate::session::check_dtype;
use crate::step::{self, Objective, Pass};

/// Keys shown where none was found.
const SHOWN_KEYS: usize = 3;

/// What to measure.
#[derive(Clone, Debug)]
pub struct AlignmentOptions {
    /// Examples read of each source, spread evenly over it; all of a source that has fewer.
    pub examples: NonZeroUsize,
    /// Only trained parameters whose key contains this, in capitals or not.
    pub parameters: Option<String>,
}

/// A source of the mix and its gradient.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceGradient {
    /// Its file's name, with as much of the path as it takes to tell it from the others.
    pub name: String,
    /// Examples read.
    pub examples: usize,
    /// Examples it has for training.
    pub available: usize,
    /// Trained tokens of those read.
    pub trained_tokens: usize,
    /// Mean loss of the trained tokens, in nats.
    pub loss: f64,
    /// `‖g_s‖`.
    pub norm: f64,
    /// Cosine between the gradients of the two halves of its examples; none where a half has no gradient.
    pub halves: Option<f64>,
}

/// How far the sources of a mix agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alignment {
    /// The sources, in the order of the mix.
    pub sources: Vec<SourceGradient>,
    /// Trained numbers the gradients are over.
    pub parameters: usize,
    /// `cos(s, t)`, a row a source; none where one of the two has no gradient at all.
    pub cosines: Vec<Vec<Option<f64>>>,
    /// Mean cosine of the pairs that have one.
    pub mean_cosine: Option<f64>,
    /// Mean of [`SourceGradient::halves`].
    pub mean_halves: Option<f64>,
}

/// Two sources.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Number of one.
    pub first: usize,
    /// Number of the other, which comes later.
    pub second: usize,
    /// Their cosine.
    pub cosine: f64,
}

impl Alignment {
    /// The pairs that have a cosine, the most opposed first.
    pub fn pairs(&self) -> Vec<Pair> {
        let pair = |(first, second): (usize, usize)| {
            let cosine = self.cosines[first][second]?;
            Some(Pair { first, second, cosine })
        };
        let mut pairs: Vec<Pair> = pairs_of(self.sources.len()).into_iter().filter_map(pair).collect();
        pairs.sort_by(|a, b| a.cosine.total_cmp(&b.cosine));
        pairs
    }
}

/// Measures the alignment of the sources of `recipe`'s mix, which `data` holds, under the edits of `stack`, of which one
/// is trained. The model is loaded in the recipe's `train.dtype`. `done` is told the number of sources that are done.
///
/// Fails for fewer than two sources or one without examples, where an edit tells fewer tasks apart, where no trained
/// parameter is asked for, where the gradients of all sources do not fit into memory, and where one is not finite.
pub fn alignment(
    model: &Model,
    stack: &EditStack,
    data: &PreparedData,
    recipe: &Recipe,
    options: &AlignmentOptions,
    done: &mut dyn FnMut(usize),
) -> Result<Alignment, TrainError> {
    check_dtype(model, recipe.train.dtype)?;
    let names = source_names(&recipe.data.sources()?);
    if names.len() < 2 {
        return Err(setup(
            "the data has one source, and alignment is between several".into(),
            "name them one by one under `data.mix`",
        ));
    }
    stack.entries.iter().try_for_each(|entry| check_group(&entry.edit.method, names.len() as u32 - 1))?;
    let parameters = chosen_parameters(stack, options.parameters.as_deref())?;
    let count: usize = parameters.iter().map(|(_, param)| param.value.elements()).sum();
    check_memory(names.len(), count)?;

    let examples = &data.tokenised.train;
    let dtype = DType::from(recipe.train.dtype);
    let hooks = stack.hooks(dtype);
    let recompute = recipe.train.recompute;
    let pass = Pass { hooks: &hooks, dtype, recompute, key: None, objective: Objective::NextToken };
    let (mut sources, mut gradients) = (Vec::new(), Vec::new());
    for (part, name) in names.into_iter().enumerate() {
        let own: Vec<usize> = (0..examples.len()).filter(|&at| examples[at].part == part).collect();
        if own.is_empty() {
            let what = format!("the source `{name}` (`mix[{part}]`) has no example left to train on");
            return Err(setup(what, "remove it, or see with `hone data show` why its rows were dropped"));
        }
        let read = evenly(&own, options.examples.get());
        let trained_tokens: usize = read.iter().map(|&at| examples[at].trained_tokens()).sum();
        let half = |from: usize| {
            let documents: Vec<usize> = read.iter().skip(from).step_by(2).copied().collect();
            let batches = batches_of(examples, &documents, data.batch_size);
            gradient(model, &pass, &parameters, &batches, trained_tokens as f32)
        };
        let ((even_loss, even), (odd_loss, odd)) = (half(0), half(1));
        let halves = cosine(&even, &odd);
        let whole: Vec<f32> = even.iter().zip(&odd).map(|(even, odd)| even + odd).collect();
        let (loss, norm) = ((even_loss + odd_loss) / trained_tokens as f64, dot(&whole, &whole).sqrt());
        if !(loss.is_finite() && norm.is_finite()) {
            let what = format!("the source `{name}` has a loss of {loss} and a gradient of norm {norm}");
            return Err(setup(what, "check the edit (it may have diverged), or compute in `train.dtype: f32`"));
        }
        let (examples, available) = (read.len(), own.len());
        sources.push(SourceGradient { name, examples, available, trained_tokens, loss, norm, halves });
        gradients.push(whole);
        done(sources.len());
    }

    let pairs = pairs_of(sources.len());
    let found: Vec<Option<f64>> = pairs.par_iter().map(|&(a, b)| cosine(&gradients[a], &gradients[b])).collect();
    let itself = |source: &SourceGradient| (source.norm > 0.0).then_some(1.0);
    let mut cosines = vec![vec![None; sources.len()]; sources.len()];
    for (at, source) in sources.iter().enumerate() {
        cosines[at][at] = itself(source);
    }
    for (&(a, b), found) in pairs.iter().zip(&found) {
        (cosines[a][b], cosines[b][a]) = (*found, *found);
    }
    let mean_halves = mean(sources.iter().filter_map(|source| source.halves));
    Ok(Alignment { sources, parameters: count, cosines, mean_cosine: mean(found.into_iter().flatten()), mean_halves })
}

/// `Σ −ln p` over `batches`, and the gradient of `Σ −ln p / normaliser` over `parameters`, one number after another; 0
/// where nothing reaches a parameter.
pub fn gradient(
    model: &Model,
    pass: &Pass,
    parameters: &[(ParamId, &Param)],
    batches: &[FlatBatch],
    normaliser: f32,
) -> (f64, Vec<f32>) {
    let (sums, gradients) = step::gradients(model, pass, batches, normaliser);
    (sums.loss, flat(parameters, &gradients))
}

fn flat(parameters: &[(ParamId, &Param)], gradients: &Gradients) -> Vec<f32> {
    let mut values = Vec::with_capacity(parameters.iter().map(|(_, param)| param.value.elements()).sum());
    for (id, param) in parameters {
        match gradients.param(*id) {
            Some(gradient) => values.extend_from_slice(gradient.as_slice::<f32>()),
            None => values.resize(values.len() + param.value.elements(), 0.0),
        }
    }
    values
}

/// The documents of `examples` with these numbers, at most `batch_size` together.
pub fn batches_of(examples: &[TokenisedExample], documents: &[usize], batch_size: usize) -> Vec<FlatBatch> {
    documents.chunks(batch_size).map(|documents| StepBatch::new(examples, documents).layout()).collect()
}

/// The trained parameters whose key contains `text`, or all.
pub fn chosen_parameters<'a>(
    stack: &'a EditStack,
    text: Option<&str>,
) -> Result<Vec<(ParamId, &'a Param)>, TrainError> {
    let wanted = text.map(str::to_lowercase);
    let is_wanted = |key: &str| wanted.as_ref().is_none_or(|text| key.to_lowercase().contains(text));
    let chosen: Vec<_> = stack.trained_params().filter(|(_, param)| is_wanted(&param.key)).collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let keys: Vec<String> =
        stack.trained_params().take(SHOWN_KEYS).map(|(_, param)| format!("`{}`", param.key)).collect();
    Err(match (text, keys.is_empty()) {
        (Some(text), false) => setup(
            format!("no trained parameter has a key that contains `{text}`"),
            &format!("the keys are such as {}", keys.join(", ")),
        ),
        _ => setup("the edit has no trained parameter".into(), "choose a method, or an edit, that trains some"),
    })
}

/// Refuses what would not fit: every source's gradient is kept until all are there.
fn check_memory(sources: usize, parameters: usize) -> Result<(), TrainError> {
    let needed = (sources * parameters * size_of::<f32>()) as u64;
    match available_memory().filter(|room| needed > *room) {
        None => Ok(()),
        Some(room) => {
            let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
            let what = format!(
                "the gradients of {sources} sources over {parameters} parameters take {:.1} GiB, {:.1} GiB are there",
                gib(needed),
                gib(room)
            );
            Err(setup(what, "take fewer sources, only some of the parameters, or a method that trains fewer"))
        }
    }
}

fn setup(what: String, next: &str) -> TrainError {
    TrainError::Setup { what, next: next.into() }
}

/// `n` of them with an even stride, or all.
fn evenly(all: &[usize], n: usize) -> Vec<usize> {
    let n = n.min(all.len());
    (0..n).map(|at| all[at * all.len() / n]).collect()
}

/// Names that tell the sources apart: the end of each one's first path, as few parts of it as that takes. Sources that
/// have the very same path are numbered.
fn source_names(sources: &[SourceConfig]) -> Vec<String> {
    let path = |source: &SourceConfig| source.path.iter().chain(&source.files).next().cloned().unwrap_or_default();
    let paths: Vec<String> = sources.iter().map(path).collect();
    let deepest = paths.iter().map(|path| Path::new(path).components().count()).max().unwrap_or(1);
    let different = |names: &[String], paths: &[String]| {
        let clash = |a: usize, b: usize| names[a] == names[b] && paths[a] != paths[b];
        pairs_of(names.len()).into_iter().all(|(a, b)| !clash(a, b))
    };
    let named = |parts: usize| paths.iter().map(|path| end_of(path, parts)).collect::<Vec<_>>();
    let names = (1..=deepest).map(named).find(|names| different(names, &paths)).unwrap_or_else(|| paths.clone());
    let numbered = |at: usize| {
        let same = |other: &usize| names[*other] == names[at];
        match names.iter().filter(|name| **name == names[at]).count() {
            1 => names[at].clone(),
            _ => format!("{} ({})", names[at], (0..=at).filter(same).count()),
        }
    };
    (0..names.len()).map(numbered).collect()
}

/// The last `parts` parts of a path, the file's extension left out.
fn end_of(path: &str, parts: usize) -> String {
    let stem = Path::new(path).with_extension("");
    let parts_of = stem.components().filter(|part| matches!(part, Component::Normal(_)));
    let all: Vec<String> = parts_of.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    all[all.len().saturating_sub(parts)..].join("/")
}

/// Every two of `n`, the earlier first.
fn pairs_of(n: usize) -> Vec<(usize, usize)> {
    (0..n).flat_map(|first| (first + 1..n).map(move |second| (first, second))).collect()
}

/// `⟨a, b⟩`, summed in `f64`.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The cosine; none where one of them is 0 throughout.
fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    // Rounding may take it a hair beyond 1.
    (lengths > 0.0).then(|| (dot(a, b) / lengths).clamp(-1.0, 1.0))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_those_of_the_plane() {
        // 3-4-5: ⟨(3, 4), (4, 3)⟩ / 25.
        assert_eq!(cosine(&[3.0, 4.0], &[4.0, 3.0]), Some(0.96));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), Some(0.0));
        assert_eq!(cosine(&[1.0, 2.0], &[-2.0, -4.0]), Some(-1.0));
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 1.0]), None);
    }

    #[test]
    fn examples_are_spread_evenly() {
        let all: Vec<usize> = (100..110).collect();
        assert_eq!(evenly(&all, 4), [100, 102, 105, 107]);
        assert_eq!(evenly(&all, 99), all);
    }

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let named = |paths: &[&str]| {
            let source = |path: &&str| SourceConfig { path: Some(path.to_string()), ..SourceConfig::default() };
            source_names(&paths.iter().map(source).collect::<Vec<_>>())
        };
        assert_eq!(named(&["data/snarks.json", "data/navigate.json"]), ["snarks", "navigate"]);
        assert_eq!(named(&["a/train.jsonl", "b/train.jsonl"]), ["a/train", "b/train"]);
        assert_eq!(named(&["a/x.json", "a/x.json", "y.json"]), ["x (1)", "x (2)", "y"]);
        // What only the extension tells apart keeps its whole path.
        assert_eq!(named(&["a/x.json", "a/x.csv"]), ["a/x.json", "a/x.csv"]);
    }
}
