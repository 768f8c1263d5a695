//! Updates that break little of what worked: training towards the old version of a model where the update errs, and towards the
//! new version elsewhere (MUSCLE: Echterhoff et al. 2024, arXiv 2407.09435).
//!
//! With `z₁`, `z₂` and `z` the logits of the old version, of the new one, and of the update that is trained (which starts as a
//! copy of the new one where the recipe says `method.init_from`), `y` the next token, and `N = Σ w` over a step's trained tokens:
//!
//! ```text
//! m = 1[argmax z ≠ y]                    of the update as it stands at that step, without a gradient
//! L = 1/N Σ w { m KL(σ(z₁/T) ‖ σ(z/T)) + (1 − m) KL(σ(z₂/T) ‖ σ(z/T)) }
//! ```
//!
//! There is no factor `T²`. [`Mask`] has other `m`, those of the paper's comparison among them. With `cross_entropy: c` the loss
//! is `(1 − c) L` and `c` times the cross-entropy (the paper's `λ` is `1 − c`; which it took is not said).
//!
//! Which tokens are trained is the data's affair: the paper trains all, the question's as well (`data.train_on: all`). The versions
//! are read without a tape and without training noise; an old version on the same model shares its weights. What a run is
//! chosen by, its validation loss, stays the cross-entropy, as in the paper.
//!
//! It knows nothing of answers: whether fewer of them flip is for `hone compare --measure compatibility` to say, beside the
//! controls that tell agreement with the old version from more training ([`Mask::NeverOld`] of an update that does not start as the
//! new version, [`Mask::AlwaysOld`], the same steps without this objective).

use std::path::Path;
use std::sync::Arc;

use hone_data::FlatBatch;
use hone_edit::files::contents_sha256;
use hone_edit::stack::check_group;
use hone_edit::{EditError, EditStack, load_edit};
use hone_engine::ops::{self, Teacher, Teachers, TokenScore};
use hone_engine::{DType, Tensor, Var, WeightRef};
use hone_model::{Context, Hooks, Model, Quantise, TokenBatch};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::TrainError;
use crate::objective::token_batch;
use crate::prepare::PreparedData;
use crate::recipe::{Mask, Recipe};
use crate::session::check_dtype;

/// The models of a run.
#[derive(Clone)]
pub struct Models {
    /// The one that is tuned.
    pub model: Arc<Model>,
    /// The one the old version is on (`train.compatibility.old.model`), where that is another.
    pub old: Option<Arc<Model>>,
}

impl From<Arc<Model>> for Models {
    fn from(model: Arc<Model>) -> Models {
        Models { model, old: None }
    }
}

/// The versions an update is trained to agree with.
pub struct Versions {
    /// The one that marked tokens learn from, or all if there is no second.
    first: Version,
    /// The new one, for the other tokens.
    second: Option<Version>,
    mask: Mask,
    temperature: f32,
    cross_entropy: f32,
    /// What was noticed while they were read.
    pub warnings: Vec<String>,
}

/// A frozen version.
struct Version {
    model: Arc<Model>,
    hooks: Arc<dyn Hooks>,
    source: VersionSource,
}

/// Where a version came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VersionSource {
    /// Its model, as the recipe names it.
    pub model: String,
    /// SHA-256 of the model's weights.
    pub model_sha256: String,
    /// Its adapter's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit: Option<String>,
    /// SHA-256 of what is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edit_sha256: Option<String>,
}

/// A version after it has read a batch.
struct Read {
    hidden: Tensor,
    head: WeightRef,
    soft_cap: Option<f32>,
}

/// The loss of a micro-batch.
pub struct CompatibleLoss {
    /// Divided by the step's normaliser, with a gradient.
    pub loss: Var,
    /// Before that.
    pub sum: f64,
    /// Trained tokens that learned from the old version.
    pub of_old: usize,
}

impl Versions {
    /// Those that a resolved recipe names, if it does. Refuses an old model of other tokens, adapters of other models, and
    /// versions that cannot read the data.
    pub fn read(recipe: &Recipe, models: &Models, data: &PreparedData) -> Result<Option<Versions>, TrainError> {
        let Some(config) = &recipe.train.compatibility else { return Ok(None) };
        let mut warnings = Vec::new();
        let mut version = |name: &str, model: &Arc<Model>, edit: Option<&String>| {
            Version::read(name, model, edit, recipe, data, &mut warnings)
        };
        let old = match config.wants_old() {
            true => Some(version("old", old_model(recipe, models)?, config.old.edit.as_ref())?),
            false => None,
        };
        let new = match config.wants_new() {
            true => Some(version("new", &models.model, config.new.edit.as_ref())?),
            false => None,
        };
        // An adapter on the recipe's own model says itself if it was tuned on other bits.
        let own = &models.model;
        let named = config.old.model.as_ref().filter(|name| **name != recipe.model || config.old.edit.is_none());
        if let (Some(bits @ Quantise::To(_)), Some(old), Some(name)) = (own.quantise, &old, named)
            && Arc::ptr_eq(&old.model, own)
        {
            warnings.push(in_few_bits(bits, name));
        }
        let (first, second) = match (old, new) {
            (Some(old), new) => (old, new),
            (None, Some(new)) => (new, None),
            (None, None) => return Ok(None),
        };
        let starts_as = recipe.method.0.get("init_from").and_then(Value::as_str);
        if config.mask == Mask::NeverOld && config.cross_entropy == 0.0 && config.new.edit.as_deref() == starts_as {
            let what = "`train.compatibility.mask: never_old`: the update starts as the version it is to agree with, so training \
                        changes nothing; leave `method.init_from` out, or give `cross_entropy` a weight";
            warnings.push(what.into());
        }
        let (temperature, cross_entropy) = (config.temperature as f32, config.cross_entropy as f32);
        Ok(Some(Versions { first, second, mask: config.mask, temperature, cross_entropy, warnings }))
    }

    /// The loss of a micro-batch whose student is `model` in the pass `cx`, divided by `normaliser` (the step's trained tokens).
    pub fn loss(&self, model: &Model, cx: &Context, batch: &FlatBatch, normaliser: f32) -> CompatibleLoss {
        let tokens = token_batch(batch);
        let first = self.first.hear(&tokens, cx.dtype);
        let second = self.second.as_ref().map(|version| version.hear(&tokens, cx.dtype));
        let hidden = model.decoder.hidden(cx, &tokens);
        let (head, cap) = (model.decoder.head(cx), model.spec.logit_soft_cap);
        let own = Read { hidden: hidden.value.clone(), head: head.clone(), soft_cap: cap };
        let marked = second.as_ref().and_then(|_| marked(self.mask, &own, &first, batch));
        let teachers = match (&second, &marked) {
            (None, _) => Teachers::One(first.teacher()),
            (Some(new), None) => Teachers::FirstWhereWrong([first.teacher(), new.teacher()], &batch.targets),
            (Some(new), Some(marked)) => Teachers::FirstWhere([first.teacher(), new.teacher()], marked),
        };
        let (tape, rows, weights) = (&cx.tape, &batch.rows, &batch.weights);
        let student = (&hidden, &head, cap);
        let out = ops::lm_head_divergence(tape, student, teachers, (rows, weights), normaliser, self.temperature);
        let of_old = if self.mask == Mask::NeverOld { 0 } else { out.of_first };
        let share = self.cross_entropy;
        if share == 0.0 {
            return CompatibleLoss { loss: out.loss, sum: out.sum, of_old };
        }
        let data = ops::lm_head_loss(tape, &hidden, &head, rows, &batch.targets, weights, normaliser, cap);
        let loss = ops::add(tape, &ops::scale(tape, &out.loss, 1.0 - share), &ops::scale(tape, &data.loss, share));
        let share = f64::from(share);
        CompatibleLoss { loss, sum: (1.0 - share) * out.sum + share * data.nll_sum, of_old }
    }

    /// Where the old and the new version came from, those of them that are read.
    pub fn sources(&self) -> [(&'static str, Option<&VersionSource>); 2] {
        let (first, second) = (Some(&self.first.source), self.second.as_ref().map(|version| &version.source));
        match self.mask {
            Mask::NeverOld => [("old", None), ("new", first)],
            _ => [("old", first), ("new", second)],
        }
    }

    /// What they hold, by whose name: what a run's numbers depend on, wherever it lies.
    pub fn contents(&self) -> [(&'static str, Value); 2] {
        self.sources().map(|(name, source)| {
            let held = source.map(|s| json!({ "model_sha256": s.model_sha256, "edit_sha256": s.edit_sha256 }));
            (name, held.unwrap_or_default())
        })
    }
}

impl Version {
    /// The version `name` on `model`, with the adapter in `edit`.
    fn read(
        name: &str,
        model: &Arc<Model>,
        edit: Option<&String>,
        recipe: &Recipe,
        data: &PreparedData,
        warnings: &mut Vec<String>,
    ) -> Result<Version, TrainError> {
        let place = format!("`train.compatibility.{name}.edit`");
        let said = |error: EditError| {
            let next = match error {
                EditError::OtherBase(_) if name == "old" => {
                    ", and where that is not the recipe's, name it as `train.compatibility.old.model`"
                }
                _ => "",
            };
            TrainError::Recipe { place: place.clone(), what: format!("{error}{next}") }
        };
        let (stack, edit_sha256) = match edit {
            Some(dir) => {
                let dir = Path::new(dir);
                (load_edit(dir, model).map_err(said)?, Some(contents_sha256(dir).map_err(said)?))
            }
            None => (EditStack::new(), None),
        };
        // The task of an example is the source of the mix it comes from.
        let last = recipe.data.sources()?.len().saturating_sub(1) as u32;
        stack.entries.iter().try_for_each(|entry| check_group(&entry.edit.method, last)).map_err(said)?;
        let longest = data.tokenised.train.iter().map(|example| example.ids.len()).max().unwrap_or(0);
        let room = model.room_behind(stack.virtual_tokens());
        if longest > room {
            let what = format!(
                "found room for {room} tokens in the {name} version, expected {longest}, those of the longest example; set \
                 `data.max_length: {room}`"
            );
            return Err(TrainError::Recipe { place, what });
        }
        warnings.extend(stack.warnings().map(|warning| format!("{place}: {warning}")));
        let source = VersionSource {
            model: model.source.reference.clone(),
            model_sha256: model.source.sha256.clone(),
            edit: edit.cloned(),
            edit_sha256,
        };
        Ok(Version { model: model.clone(), hooks: stack.hooks(recipe.train.dtype.into()), source })
    }

    /// What it makes of a batch.
    fn hear(&self, tokens: &TokenBatch, dtype: DType) -> Read {
        let cx = Context::inference(self.hooks.clone(), dtype);
        let hidden = self.model.decoder.hidden(&cx, tokens).value;
        Read { hidden, head: self.model.decoder.head(&cx), soft_cap: self.model.spec.logit_soft_cap }
    }
}

impl Read {
    fn teacher(&self) -> Teacher<'_> {
        Teacher { hidden: &self.hidden, head: &self.head, soft_cap: self.soft_cap }
    }

    fn scores(&self, batch: &FlatBatch) -> Vec<TokenScore> {
        ops::token_scores(&self.hidden, &self.head, &batch.rows, &batch.targets, self.soft_cap)
    }
}

/// Which trained tokens of a batch learn from the old version; `None` where that is those that the update has wrong, which the
/// loss finds out itself.
fn marked(mask: Mask, own: &Read, old: &Read, batch: &FlatBatch) -> Option<Vec<bool>> {
    let both = || (own.scores(batch), old.scores(batch));
    Some(match mask {
        Mask::StudentWrong => return None,
        Mask::AlwaysOld => vec![true; batch.rows.len()],
        Mask::NeverOld => vec![false; batch.rows.len()],
        Mask::OldRight => old.scores(batch).iter().map(|score| score.is_argmax).collect(),
        Mask::LikelihoodToken => {
            let (own, old) = both();
            own.iter().zip(&old).map(|(own, old)| own.log_prob < old.log_prob).collect()
        }
        Mask::LikelihoodSequence => {
            let (own, old) = both();
            let mut marked = vec![false; batch.rows.len()];
            for document in &batch.segments {
                // Rows are in order.
                let before = |end: usize| batch.rows.partition_point(|row| (*row as usize) < end);
                let rows = before(document.start)..before(document.start + document.len);
                let sum = |scores: &[TokenScore]| scores.iter().map(|s| f64::from(s.log_prob)).sum::<f64>();
                let preferred = sum(&own[rows.clone()]) < sum(&old[rows.clone()]);
                marked[rows].fill(preferred);
            }
            marked
        }
    })
}

/// What is said where the old version answers with weights that it was not served with: those of the tuned model, rounded.
fn in_few_bits(bits: Quantise, old: &str) -> String {
    let bits = bits.to_string().to_lowercase();
    format!(
        "`train.compatibility.old.model`: `{old}` is the model that is tuned, so it is held once and `quantize: {bits}` rounds it for the \
         old version, too: the update learns what the old version answers in those bits; leave `quantize` out where it is served \
         without it"
    )
}

/// The model that the old version is on.
fn old_model<'a>(recipe: &Recipe, models: &'a Models) -> Result<&'a Arc<Model>, TrainError> {
    let own = &models.model;
    let named = recipe.train.compatibility.as_ref().and_then(|config| config.old.model.as_ref());
    let Some(name) = named.filter(|name| **name != recipe.model) else { return Ok(own) };
    let refuse = |found: String, expected: String| {
        let place = "`train.compatibility.old.model`".to_string();
        Err(TrainError::Recipe { place, what: format!("`{name}`: found {found}, expected {expected}") })
    };
    let Some(old) = &models.old else {
        return refuse("no such model beside the one that is tuned".into(), "it to be loaded, too".into());
    };
    if old.source.sha256 == own.source.sha256 {
        return Ok(own);
    }
    check_dtype(old, recipe.train.dtype)?;
    let next = "the two versions are compared token by token; name an old version with the same tokenizer";
    let sizes = [old, own].map(|model| model.spec.vocab_size);
    if sizes[0] != sizes[1] {
        return refuse(format!("a vocabulary of {}", sizes[0]), format!("{}, that of `model`: {next}", sizes[1]));
    }
    let token = |model: &Model, id: u32| model.tokenizer.id_to_token(id).unwrap_or_default();
    match (0..sizes[0] as u32).find(|id| token(old, *id) != token(own, *id)) {
        None => Ok(old),
        Some(id) => {
            let [theirs, ours] = [old, own].map(|model| token(model, id));
            refuse(format!("{theirs:?} as token {id}"), format!("{ours:?}, as `model` has it: {next}"))
        }
    }
}
