//! What can go wrong with an edit: its configuration, its files, its fit to a model. Every variant names the thing and
//! the mend.

use std::path::PathBuf;

/// Errors of `hone-edit`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// A file or directory that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file whose contents are not what they should be.
    #[error("{path}: {place}: found {found}, expected {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Field or tensor.
        place: String,
        /// What was found.
        found: String,
        /// What was expected, and what to do.
        expected: String,
    },
    /// What is wrong with an adapter's configuration.
    #[error("{path}: {source}")]
    InConfig {
        /// The configuration.
        path: PathBuf,
        /// What is wrong.
        source: Box<EditError>,
    },
    /// A method without code.
    #[error("method `{found}` is not known{hint}; known methods: {known}")]
    UnknownMethod {
        /// The word found.
        found: String,
        /// "; did you mean …", or empty.
        hint: String,
        /// The known ones.
        known: String,
    },
    /// A recipe's method without a word for it.
    #[error("`type` {next}")]
    NoType {
        /// What is wrong, and what to write.
        next: String,
    },
    /// A type of PEFT's that is not read, and why.
    #[error(
        "`peft_type` is `{found}`, which is not read here: {why}. Merge it into its model with PEFT (`merge_and_unload`, where it can) \
         and use the merged model"
    )]
    NotRead {
        /// The type found.
        found: String,
        /// The reason.
        why: &'static str,
    },
    /// A field no method of this name has.
    #[error("`{method}` has no field `{field}`{hint}; its fields: {known}")]
    UnknownField {
        /// The method.
        method: &'static str,
        /// The field.
        field: String,
        /// "; did you mean …", or empty.
        hint: String,
        /// The fields it has.
        known: String,
    },
    /// A field that Hugging Face PEFT has and this method does not honour.
    #[error("`{method}`: field `{field}` is set to {found}, which is not supported: {reason}")]
    Unsupported {
        /// The method.
        method: &'static str,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// A field with an impossible value.
    #[error("`{method}`: field `{field}`: found {found}, expected {expected}")]
    Field {
        /// The method.
        method: &'static str,
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// A method that cannot do without a field nobody else can fill in.
    #[error("`{method}` needs `{field}`: {what}")]
    Needs {
        /// The method.
        method: &'static str,
        /// The field.
        field: &'static str,
        /// What it should say.
        what: &'static str,
    },
    /// A target that matches nothing in the model.
    #[error("`{field}`: `{target}` matches no {what} of this model; {near}")]
    NoTarget {
        /// The field: `target_modules`, `modules_to_save` …
        field: &'static str,
        /// What was asked for.
        target: String,
        /// "linear map", "module" …
        what: &'static str,
        /// The nearest names, or all of them.
        near: String,
    },
    /// An adapter made for another base model.
    #[error(transparent)]
    OtherBase(#[from] Box<OtherBase>),
    /// Two edits that cannot be applied together.
    #[error(
        "these edits cannot be stacked: both replace `{place}`; use one of them, or `hone merge --how task_arithmetic` for their sum"
    )]
    CannotStack {
        /// The weight both replace.
        place: String,
    },
    /// An edit that cannot act on some rows of a batch only.
    #[error("`{method}` acts at `{place}`, which all rows of a batch share: it cannot be routed to some of them")]
    CannotRoute {
        /// The method.
        method: &'static str,
        /// Where.
        place: String,
    },
    /// A method that needs more of its base than blocks.
    #[error("`{method}` cannot be used on a base that is kept in few bits: {reason}; load it without `quantize`")]
    QuantisedBase {
        /// The method.
        method: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// A tensor so large that its elements have no number in an adapter's file.
    #[error(
        "`{method}`: `{tensor}`: found places in a tensor {shape:?} of {elements} elements, expected at most {most}, since files number \
         them in 32 bits; leave it out (`exclude_modules`, `target_modules`), or use a method that is held whole (`full`, `lora`)"
    )]
    TooManyPlaces {
        /// The method.
        method: &'static str,
        /// The parameter's key.
        tensor: String,
        /// The tensor's axes.
        shape: Vec<usize>,
        /// Their product.
        elements: usize,
        /// The most there may be.
        most: usize,
    },
    /// A task that an edit knows nothing of.
    #[error(
        "`{method}` tells {groups} task(s) apart, numbered from 0, so it has no task {group}: choose one of its tasks, or train \
         it with as many tasks (`n_tasks`, `num_tasks`) as the data's mix has sources"
    )]
    NoSuchGroup {
        /// The method.
        method: &'static str,
        /// The task asked for.
        group: u32,
        /// How many it has.
        groups: usize,
    },
    /// An edit that is partly made of its base's numbers, where nobody knows those.
    #[error(
        "`{place}`: what the edit does there is made of the base model's own weights, which a merged model does not tell; name the \
         base model (`--base`)"
    )]
    UnknownBase {
        /// The weight or parameter.
        place: String,
    },
    /// An edit that is no sum of low-rank products.
    #[error("`{method}` at `{place}` cannot be collapsed into a LoRA adapter: {reason}")]
    CannotCollapse {
        /// The method.
        method: &'static str,
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// An edit that cannot be merged into the weights.
    #[error("`{method}` cannot be merged into the weights at `{place}`: {reason}")]
    CannotMerge {
        /// The method.
        method: &'static str,
        /// Where.
        place: String,
        /// Why.
        reason: String,
    },
    /// A way of combining edits without code.
    #[error("edits cannot be combined by `{found}`: no such way{hint}; known ways: {known}")]
    UnknownCombination {
        /// The word found.
        found: String,
        /// "; did you mean …", or empty.
        hint: String,
        /// The known ones.
        known: String,
    },
    /// Edits that cannot be combined as asked.
    #[error("`{how}` cannot combine these edits{at}: {reason}")]
    CannotCombine {
        /// The way.
        how: &'static str,
        /// " (DIR, at `module`)", or empty.
        at: String,
        /// Why, and what to do instead.
        reason: String,
    },
    /// An edit whose changed elements cannot be compared with another's.
    #[error("{edit}: its changed elements cannot be compared with another edit's: {reason}")]
    NoOverlap {
        /// What it is called: its directory.
        edit: String,
        /// Why, and what was expected.
        reason: String,
    },
    /// A matrix that could not be decomposed.
    #[error(transparent)]
    Decompose(#[from] crate::decompose::DecomposeError),
    /// The model's own code failed.
    #[error(transparent)]
    Model(#[from] hone_model::ModelError),
}

/// An adapter and the base it was not made for.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path}: this edit was made for another base model (`{made_for}`, weights sha256 {expected}), not for `{found_name}` \
     (sha256 {found}); load the model it was made for"
)]
pub struct OtherBase {
    /// The adapter's directory.
    pub path: PathBuf,
    /// The model it was made for.
    pub made_for: String,
    /// Hash recorded in the adapter.
    pub expected: String,
    /// The model at hand.
    pub found_name: String,
    /// Its hash.
    pub found: String,
}

/// "; did you mean `x`?" for the nearest of `known`, or nothing.
pub fn did_you_mean<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let score = |name: &&str| (strsim::jaro_winkler(found, name) * 1e6) as u64;
    match known.into_iter().max_by_key(score) {
        Some(name) if strsim::jaro_winkler(found, name) > 0.75 => format!("; did you mean `{name}`?"),
        _ => String::new(),
    }
}
