//! What was written is read again and run beside what it was written from: every export and merge says how far apart
//! their logits are, and is refused where that is more than rounding explains.

use std::path::Path;
use std::sync::Arc;

use hone_edit::merge::{Hooked, LogitDifference, logit_difference};
use hone_engine::DType;
use hone_model::{Hooks, LoadOptions, Model, NoHooks, TokenBatch};
use serde::Serialize;

use crate::fail::Failure;

/// What both sides read: prose, a question, code, numbers.
const TEXT: &str = "Once upon a time there was a little girl who lived near the forest. One day she found a small box \
under a tree, and in the box there was a letter. Question: what is 17 plus 25? Answer: 42. \
def add(a, b):\n    return a + b\n\nThe capital of France is Paris, and 1, 2, 3, 5, 8 are numbers of Fibonacci.";
/// Tokens compared at most.
const TOKENS: usize = 128;

/// How far apart two sides may be, as shares of the largest logit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limit {
    /// The largest |Δlogit|.
    pub max: f64,
    /// The mean |Δlogit|. Rounding moves every logit like noise, whose largest grows with the number of logits looked
    /// at; its mean does not.
    pub mean: f64,
}

impl Limit {
    /// The same numbers in another order of additions.
    pub const SAME: Limit = Limit { max: 1e-4, mean: 1e-4 };

    /// Rounded to this type once.
    pub fn rounded(dtype: DType) -> Limit {
        match dtype {
            DType::F32 => Limit::SAME,
            DType::BF16 => Limit { max: f64::INFINITY, mean: 1.0 / 128.0 },
        }
    }

    fn allows(&self, difference: &LogitDifference) -> bool {
        let largest = difference.largest_logit.max(f64::MIN_POSITIVE);
        difference.max / largest <= self.max && difference.mean / largest <= self.mean
    }

    fn in_words(&self) -> String {
        match self.max.is_finite() {
            true => format!("{:.1e} of the largest logit", self.max),
            false => format!("{:.1e} of the largest logit in the mean", self.mean),
        }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verified {
    /// The difference.
    #[serde(flatten)]
    pub difference: LogitDifference,
    /// What was allowed.
    pub limit: Limit,
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        shown(&self.difference).fmt(f)
    }
}

/// A difference as text.
pub fn shown(difference: &LogitDifference) -> String {
    format!(
        "|Δlogit| max {:.2e}, mean {:.2e} over {} tokens (largest logit {:.2})",
        difference.max, difference.mean, difference.tokens, difference.largest_logit
    )
}

/// The tokens both sides read.
pub fn tokens(model: &Model) -> Result<Vec<TokenBatch>, Failure> {
    let mut ids = model.tokenizer.encode(TEXT, true)?.ids;
    ids.truncate(TOKENS.min(model.spec.max_position_embeddings));
    Ok(vec![TokenBatch::from_sequences(&[ids])])
}

/// Compares two sides over [`tokens`], in `f32`.
pub fn compare(model: &Model, first: &Hooked, second: &Hooked) -> Result<LogitDifference, Failure> {
    Ok(logit_difference(first, second, DType::F32, &tokens(model)?))
}

/// Refuses merged weights that answer otherwise than the edits beside the model, before anything is written: edits that meet at a
/// map need not add up to a change of its weights.
pub fn as_beside(difference: LogitDifference, limit: Limit) -> Result<(), Failure> {
    if limit.allows(&difference) {
        return Ok(());
    }
    let cause = format!(
        "merged into the weights, these edits do not answer as they do beside the model: {}; allowed: {}",
        shown(&difference),
        limit.in_words()
    );
    Err(Failure::user(cause, "use them beside the model (`--edit`), or merge them in the other order, or one of them"))
}

/// Reads the model at `path` and compares it with `first`, from which it was written. Beyond the limit `path` is
/// removed, unless it is kept on purpose, and it is a failure.
pub fn written_model(model: &Model, first: &Hooked, path: &Path, limit: Limit) -> Result<Verified, Failure> {
    let options = LoadOptions { dtype: DType::F32, keep_quantised: false };
    let again = Model::load(&path.to_string_lossy(), options)?;
    let plain: Arc<dyn Hooks> = Arc::new(NoHooks);
    let difference = compare(model, first, &(&again.decoder, plain))?;
    within(difference, limit, path)
}

/// The difference, or what to do about it.
pub fn within(difference: LogitDifference, limit: Limit, path: &Path) -> Result<Verified, Failure> {
    let verified = Verified { difference, limit };
    if limit.allows(&difference) {
        return Ok(verified);
    }
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    let kept = if removed.is_ok() { "it was removed" } else { "it is still there: do not use it" };
    let allowed = limit.in_words();
    let cause = format!(
        "{}: what was written does not answer as what it was written from: {}; allowed: {allowed}; {kept}",
        path.display(),
        shown(&difference)
    );
    Err(Failure::user(cause, "store it in a type that rounds less (`--store f32`, `--format gguf-f16`)"))
}
