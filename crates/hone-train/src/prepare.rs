//! From a recipe and a model to what the loop reads: tokenised data with its plan, and a fresh edit.

use hone_data::{BatchPlan, FlatBatch, Loaded, StepBatch, Tokenised, TokenisedExample};
use hone_edit::stack::check_group;
use hone_edit::{Base, Edit, warm_start};
use hone_model::Model;
use sha2::{Digest, Sha256};

use crate::codec::ModelCodec;
use crate::error::TrainError;
use crate::recipe::Recipe;

/// Data as the loop reads it.
pub struct PreparedData {
    /// The rows as read, for previews and for the search for leaks.
    pub loaded: Loaded,
    /// The rows as token ids, and the report on what became of them.
    pub tokenised: Tokenised,
    /// Which rows each step reads.
    pub plan: BatchPlan,
    /// Rows computed together.
    pub batch_size: usize,
    /// SHA-256 over all ids and trained flags, in hexadecimal: two runs with the same one read the same.
    pub sha256: String,
}

/// Reads, tokenises and plans a recipe's data for `model`.
pub fn prepare(recipe: &Recipe, model: &Model) -> Result<PreparedData, TrainError> {
    use hone_data::Codec;
    let codec = recipe_codec(recipe, model)?;
    let loaded = hone_data::load(&recipe.data, &recipe.directory, codec.abilities())?;
    let tokenised = hone_data::tokenise(&loaded, &recipe.data, &codec)?;
    PreparedData::new(loaded, tokenised, recipe)
}

/// The codec of a recipe: its virtual tokens take their part of the model's length.
pub fn recipe_codec<'a>(recipe: &Recipe, model: &'a Model) -> Result<ModelCodec<'a>, TrainError> {
    let virtual_tokens = recipe.method.method(&recipe.directory)?.0.virtual_tokens();
    if model.room_behind(virtual_tokens) < 2 {
        let limit = model.spec.max_position_embeddings;
        return Err(TrainError::Setup {
            what: format!("{virtual_tokens} virtual tokens leave no room for text in the model's length of {limit}"),
            next: "lower `method.num_virtual_tokens`".into(),
        });
    }
    Ok(ModelCodec::new(model, virtual_tokens))
}

impl PreparedData {
    /// Plans over tokenised data.
    pub fn new(loaded: Loaded, tokenised: Tokenised, recipe: &Recipe) -> Result<PreparedData, TrainError> {
        let a_step = recipe.train.batch_size * recipe.train.gradient_accumulation;
        let plan = BatchPlan::for_examples(&tokenised.train, &recipe.data, tokenised.max_length, a_step)?;
        let sha256 = fingerprint(&tokenised);
        Ok(PreparedData { loaded, tokenised, plan, batch_size: recipe.train.batch_size, sha256 })
    }

    /// The micro-batches of step `step`.
    pub fn micro_batches(&self, step: usize) -> Vec<FlatBatch> {
        let rows = self.plan.rows_of_step(step);
        let batch = |rows: &[&hone_data::TrainRow]| {
            let documents: Vec<usize> = rows.iter().flat_map(|row| row.documents.iter().copied()).collect();
            StepBatch::new(&self.tokenised.train, &documents).layout()
        };
        rows.chunks(self.batch_size).map(batch).collect()
    }

    /// The validation examples in batches of at most as many rows as training has.
    pub fn validation_batches(&self) -> Vec<FlatBatch> {
        let examples = &self.tokenised.validation;
        let all: Vec<usize> = (0..examples.len()).collect();
        all.chunks(self.batch_size).map(|documents| StepBatch::new(examples, documents).layout()).collect()
    }
}

/// The edit of `model` that the recipe starts from, as its method makes it (with the values of `method.init_from`, if there is one),
/// and what is to be said aloud about it. Fails if it tells tasks apart, but fewer than the mix has sources.
pub fn new_edit(recipe: &Recipe, model: &Model) -> Result<Edit, TrainError> {
    let (method, warnings) = recipe.method.method(&recipe.directory)?;
    // The task of an example is the source of the mix it comes from.
    let last = recipe.data.sources()?.len().saturating_sub(1);
    check_group(&method, last as u32)?;
    let base = Base::of(model);
    let mut edit = Edit::new(method, &base, recipe.train.seed)?;
    if let Some(dir) = recipe.method.warm_start(&recipe.directory) {
        edit = warm_start::start(edit, &dir, &base)?;
    }
    edit.warnings.splice(0..0, warnings);
    Ok(edit)
}

fn fingerprint(tokenised: &Tokenised) -> String {
    let mut hash = Sha256::new();
    let mut side = |examples: &[TokenisedExample]| {
        hash.update((examples.len() as u64).to_le_bytes());
        for example in examples {
            hash.update((example.ids.len() as u64).to_le_bytes());
            // Which step reads an example follows from it; what has one wording has the number it had before there were several.
            if example.wording > 0 {
                hash.update(b"wording");
                hash.update((example.wording as u64).to_le_bytes());
            }
            for (id, trained) in example.ids.iter().zip(&example.trained) {
                hash.update((id << 1 | u32::from(*trained)).to_le_bytes());
            }
        }
    };
    side(&tokenised.train);
    side(&tokenised.validation);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
