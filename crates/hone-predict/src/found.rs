//! What came out of a ladder, as plain data: `ladder.json` is this, serialised. How it is computed: [`crate::ladder`].

use hone_eval::statistics::Estimate;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ladder::Correlation;
use crate::wrong_mass::WrongMass;

/// The file's name.
pub const FILE: &str = "ladder.json";

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// Format version of `ladder.json`.
    pub format: u32,
    /// Which correlation.
    pub correlation: Correlation,
    /// The models, least compute first.
    pub models: Vec<Model>,
    /// Task by task.
    pub tasks: Vec<TaskLadder>,
    /// What the reader should know besides.
    pub notes: Vec<String>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// What was spent on it.
    pub compute: f64,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskLadder {
    /// Its name.
    pub name: String,
    /// Questions that all models were asked.
    pub questions: usize,
    /// Questions of the first model that are not among them, or have no one right answer among their choices.
    pub left_out: usize,
    /// The five scores, from likelihood to accuracy.
    pub scores: Vec<ScoreLadder>,
    /// What each step from one score to the next loses.
    pub losses: Vec<Loss>,
    /// The score whose step loses most; nothing where that cannot be told.
    pub lost_at: Option<String>,
    /// Whether wrong choices move with the right one.
    pub wrong_mass: WrongMass,
    /// Answers with a probability above a half among all texts, which no other choice can have.
    pub above_half: usize,
    /// Those of them that are right.
    pub above_half_right: usize,
    /// Mean scores by model; `acc_norm` beside them where it was computed.
    pub means: Vec<Means>,
    /// What the reader should know besides.
    pub notes: Vec<String>,
    /// A JSON object for every question, with its `id`: correlations by score, each score in all models (`log_p_by_model`), and the
    /// slope of wrong mass. In a file of their own.
    #[serde(skip)]
    pub rows: Vec<Value>,
}

/// A score's correlations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreLadder {
    /// Its name in files.
    pub name: String,
    /// Its name for people.
    pub label: String,
    /// Questions with a correlation.
    pub defined: usize,
    /// Questions without: the score is the same in all models.
    pub undefined: usize,
    /// Mean correlation.
    pub mean: Option<Estimate>,
    /// Median.
    pub median: Option<f64>,
    /// Area under the survival function on [-1, 1].
    pub area: Option<f64>,
    /// Wasserstein distance to "all correlations are 1".
    pub distance: Option<f64>,
    /// Correlation of the mean over all questions.
    pub of_the_mean: Option<f64>,
    /// Pairs `t`, share of questions above.
    pub survival: Vec<(f64, f64)>,
}

/// What a step loses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// The score before.
    pub from: String,
    /// The score after.
    pub to: String,
    /// Questions where both have a correlation.
    pub questions: usize,
    /// Mean difference of their correlations; above 0 is a loss.
    pub loss: Option<Estimate>,
}

/// Mean scores of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Means {
    /// Its compute.
    pub compute: f64,
    /// In the order of the scores.
    pub scores: Vec<f64>,
    /// Accuracy by log-likelihood per character.
    pub acc_norm: Option<f64>,
}
