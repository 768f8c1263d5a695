//! `hone-edit`: edits of a model. One file per method, the stack of edits, Hugging Face PEFT files in and out.
//!
//! Floor 2. It knows nothing of training loops.
//!
//! - [`method`]: what a method is; [`mod@edit`]: one on a model; [`params`]: its parameters; [`registry`]: every one; [`methods`]: their files.
//! - [`forms`]: what several methods have in common at a linear map; [`training`]: what some do beside forward and backward.
//! - [`planning`]: what most methods plan alike; [`biases`]: the model's biases beside them.
//! - [`warm_start`]: tuning that goes on from a trained adapter.
//! - [`base`](mod@base): a model as edits see it; [`target`]: which modules a method acts on.
//! - [`stack`]: several edits at once, as hooks of a forward pass; [`probe`]: seeing without changing.
//! - [`decompose`]: singular values, QR, eigenvectors, effective rank.
//! - [`algebra`]: several edits made one.
//! - [`sparse`]: a change of a few elements, the object that all sparse edits are once they are trained.
//! - [`inspect`]: what an edit does to the weights, place by place; [`overlap`](mod@overlap): where two do it.
//! - [`files`]: adapter directories; [`reward`]: those of reward models; [`merge`](mod@merge): edits folded into the weights.
//!
//! I have an adapter's directory and a model: [`load_edit`], then [`EditStack::hooks`].

pub mod algebra;
pub mod atomic;
pub mod base;
pub mod biases;
mod bound;
pub mod collapse;
pub mod config;
pub mod decompose;
pub mod edit;
pub mod error;
pub mod files;
pub mod forms;
pub mod inspect;
pub mod merge;
pub mod method;
pub mod methods;
mod not_read;
pub mod numpy_random;
pub mod overlap;
pub mod params;
pub mod planning;
pub mod probe;
pub mod registry;
pub mod replace;
pub mod reward;
pub mod sparse;
pub mod stack;
pub mod target;
pub mod torch_random;
pub mod training;
mod unmatched;
pub mod warm_start;
pub mod words;

pub use base::Base;
pub use error::EditError;
pub use files::{load_edit, save_edit};
pub use method::{Edit, Method, Param, Role};
pub use probe::Probe;
pub use stack::{EditStack, StackEntry};
pub use training::TrainingRules;
