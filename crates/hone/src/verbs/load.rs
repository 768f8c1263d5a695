//! What most verbs begin with: a model, perhaps with an edit on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_edit::files::contents_sha256;
use hone_edit::reward::{is_reward_adapter, load_reward_edit};
use hone_edit::{EditStack, load_edit};
use hone_engine::DType;
use hone_eval::Applied;
use hone_model::model::reward::RewardModel;
use hone_model::template::Message;
use hone_model::{Hooks, LoadOptions, Model, ModelError, NoHooks, Quantise};

use crate::args::Common;
use crate::fail::Failure;
use crate::print::remark;
use crate::progress;

/// Which model, which edit, computed in which type.
#[derive(clap::Args, Debug, Clone)]
pub struct ModelArguments {
    /// A Hugging Face directory, a GGUF file, or a name that `hone pull` knows.
    pub model: String,
    #[command(flatten)]
    pub with: With,
}

/// What is done with a model: its edits, the type it computes in.
#[derive(clap::Args, Debug, Clone)]
pub struct With {
    /// An adapter directory to apply (may be given several times; they stack).
    #[arg(long, value_name = "DIR")]
    pub edit: Vec<PathBuf>,
    /// The task whose mixture edits use that tell tasks apart (Poly, MHR): the number, from 0, of the source in the mix they
    /// were trained on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub task_group: u32,
    /// Type to compute in.
    #[arg(long, default_value = "f32", value_name = "f32|bf16")]
    pub dtype: DType,
    /// Keep the model's linear maps in few bits, as an adapter tuned with `quantize` had them.
    #[arg(long, value_name = Quantise::WORDS)]
    pub quantize: Option<Quantise>,
}

/// A model ready to run.
pub struct Ready {
    /// The model.
    pub model: Arc<Model>,
    /// Its edits, or none.
    pub hooks: Arc<dyn Hooks>,
    /// The compute type.
    pub dtype: DType,
}

impl ModelArguments {
    /// Loads the model and its edits.
    pub fn load(&self, common: &Common) -> Result<Ready, Failure> {
        self.load_with(false, common)
    }

    /// The same for writing texts; with `int8`, a GGUF's blocks stay as they are and products with them are made in 8-bit
    /// integers.
    pub fn load_for_writing(&self, int8: bool, common: &Common) -> Result<Ready, Failure> {
        let ready = self.load_with(int8, common)?;
        if int8 && ready.model.decoder.round_activations() == 0 && !common.quiet {
            remark!("note: --int8 changes nothing: {} holds no quantised blocks (a GGUF file does)", self.model);
        }
        Ok(ready)
    }

    /// A reward model with its edits, and its head: the model's own, or that of an adapter that brings one.
    pub fn load_reward_model(&self, common: &Common) -> Result<(Ready, Vec<f32>), Failure> {
        if self.with.quantize.is_some() {
            let hint = "leave it out; `--dtype bf16` halves the memory";
            return Err(Failure::user("`--quantize` is not for reward models", hint));
        }
        let brings = self.with.edit.iter().map(|dir| is_reward_adapter(dir)).collect::<Result<Vec<bool>, _>>()?;
        let spinner = progress::spinner("loading", common.quiet || common.json);
        spinner.set_message(self.model.clone());
        let path = super::pull::resolve(&self.model, common)?;
        let path = path.to_string_lossy();
        let options = LoadOptions { dtype: self.with.dtype, keep_quantised: false };
        let (mut model, own) = match Model::load(&path, options) {
            Ok(model) if brings.contains(&true) => (model, None),
            // Without a head of either this says what is missing.
            Ok(_) | Err(ModelError::ScoreHead { .. }) => {
                let RewardModel { model, head } = RewardModel::load(&path, options)?;
                (model, Some(head))
            }
            Err(error) => return Err(error.into()),
        };
        model.source.reference.clone_from(&self.model);
        let model = Arc::new(model);
        let (mut stack, mut head) = (EditStack::new(), own);
        for (dir, brings) in self.with.edit.iter().zip(brings) {
            let loaded = match brings {
                true => {
                    let (edit, own) = load_reward_edit(dir, &model)?;
                    head = Some(own);
                    edit
                }
                false => load_edit(dir, &model)?,
            };
            self.add(&mut stack, loaded, dir, common)?;
        }
        stack.choose_group(self.with.task_group)?;
        spinner.finish_and_clear();
        let hooks = stack.hooks(self.with.dtype);
        Ok((Ready { model, hooks, dtype: self.with.dtype }, head.unwrap_or_default()))
    }

    fn load_with(&self, keep_quantised: bool, common: &Common) -> Result<Ready, Failure> {
        self.load_hooked(keep_quantised, |model| self.hooks(model, common), common)
    }

    /// Loads the model, and what `hooks` makes for it in place of the edits named.
    pub fn load_hooked(
        &self,
        keep_quantised: bool,
        hooks: impl FnOnce(&Model) -> Result<Arc<dyn Hooks>, Failure>,
        common: &Common,
    ) -> Result<Ready, Failure> {
        let spinner = progress::spinner("loading", common.quiet || common.json);
        spinner.set_message(self.model.clone());
        let options = LoadOptions { dtype: self.with.dtype, keep_quantised };
        let model = load(&self.model, options, self.with.quantize, common)?;
        let hooks = hooks(&model)?;
        spinner.finish_and_clear();
        Ok(Ready { model, hooks, dtype: self.with.dtype })
    }

    /// The hooks of the edits named.
    pub fn hooks(&self, model: &Model, common: &Common) -> Result<Arc<dyn Hooks>, Failure> {
        match self.stack(model, common)? {
            Some(stack) => Ok(stack.hooks(self.with.dtype)),
            None => Ok(Arc::new(NoHooks)),
        }
    }

    /// The stack of the edits named; `None` without any.
    pub fn stack(&self, model: &Model, common: &Common) -> Result<Option<EditStack>, Failure> {
        if self.with.edit.is_empty() {
            return Ok(None);
        }
        let mut stack = EditStack::new();
        for dir in &self.with.edit {
            self.add(&mut stack, load_edit(dir, model)?, dir, common)?;
        }
        stack.choose_group(self.with.task_group)?;
        Ok(Some(stack))
    }

    /// Puts what was loaded from `dir` on the stack.
    fn add(&self, stack: &mut EditStack, loaded: EditStack, dir: &Path, common: &Common) -> Result<(), Failure> {
        if !common.quiet {
            loaded.warnings().for_each(|warning| remark!("note: {}: {warning}", dir.display()));
        }
        Ok(loaded.entries.into_iter().try_for_each(|entry| stack.push(entry))?)
    }

    /// What is done with the model, by its contents: the edits' files, the task they are applied for, few bits. Two runs
    /// of which it is the same compute the same.
    pub fn contents(&self) -> Result<String, Failure> {
        let bits = self.with.quantize.map_or_else(String::new, |bits| bits.to_string());
        Ok(format!("{} {} {bits}", self.edits_sha256()?, self.with.task_group))
    }

    fn edits_sha256(&self) -> Result<String, Failure> {
        let edits = self.with.edit.iter().map(|dir| contents_sha256(dir)).collect::<Result<Vec<_>, _>>()?;
        Ok(edits.join("+"))
    }

    /// The edits with what they hold, for scorecards.
    pub fn applied(&self) -> Result<Option<Applied>, Failure> {
        self.edit_name().map(|name| Ok(Applied { name, sha256: self.edits_sha256()? })).transpose()
    }

    /// The edits as one text.
    pub fn edit_name(&self) -> Option<String> {
        let names: Vec<String> = self.with.edit.iter().map(|d| d.display().to_string()).collect();
        let task = match self.with.task_group {
            0 => String::new(),
            task => format!(" (task {task})"),
        };
        (!names.is_empty()).then(|| format!("{}{task}", names.join(" + ")))
    }
}

/// A conversation as the model's chat template writes it; `open` opens the assistant's turn.
pub fn chat_text(model: &Model, messages: &[Message], open: bool) -> Result<String, Failure> {
    let Some(template) = &model.template else {
        let hint = "use `hone generate` without `--chat`";
        return Err(Failure::user(format!("`{}` has no chat template", model.source.reference), hint));
    };
    Ok(template.render(messages, open, &serde_json::Map::new())?)
}

/// Loads a model by path or name, pulling it first if it is a known name that is not in the cache.
pub fn load_model(reference: &str, dtype: DType, common: &Common) -> Result<Arc<Model>, Failure> {
    load_model_as(reference, dtype, None, common)
}

/// The same, perhaps with its linear maps in few bits.
pub fn load_model_as(
    reference: &str,
    dtype: DType,
    quantise: Option<Quantise>,
    common: &Common,
) -> Result<Arc<Model>, Failure> {
    load(reference, LoadOptions { dtype, keep_quantised: false }, quantise, common)
}

fn load(
    reference: &str,
    options: LoadOptions,
    quantise: Option<Quantise>,
    common: &Common,
) -> Result<Arc<Model>, Failure> {
    let path = super::pull::resolve(reference, common)?;
    let path = path.to_string_lossy();
    let mut model = match quantise {
        None => Model::load(&path, options)?,
        Some(quantise) => Model::load_quantised(&path, options.dtype, quantise)?,
    };
    // A name says more in a scorecard than the place in the cache it stands for.
    model.source.reference = reference.to_owned();
    Ok(Arc::new(model))
}
