//! `hone-train`: recipes, the objective, schedules, the one training loop, checkpoints and run-time invariants.
//!
//! Floor 3. It knows nothing of the terminal: everything there is to say goes out as [`Event`]s.
//!
//! | question | room |
//! |---|---|
//! | What does the user want? | [`recipe`] |
//! | What does the loop read, and what does it train? | [`prepare`], [`codec`] |
//! | How does a step go? | [`trainer`], [`step`], [`objective`], [`optimizer`], [`schedule`] |
//! | How is an update held to the version before it? | [`compatibility`] |
//! | How are a question's wordings held together? | [`wordings`] |
//! | How does a run begin and end? | [`session`] |
//! | What is on the disk? | [`checkpoint`], [`metrics`], [`provenance`] |
//! | Can the numbers be trusted? | [`invariants`] |
//! | How long, how much? | [`estimate`], [`machine`], [`bench`] |
//! | Do the sources of the data pull the same way? | [`alignment`](mod@alignment) |
//!
//! The way through: [`Recipe`] → [`prepare()`](prepare::prepare) and [`new_edit`] → [`Trainer::new`] → [`Trainer::run`] →
//! [`Outcome`].

pub mod alignment;
pub mod bench;
pub mod checkpoint;
pub mod codec;
pub mod compatibility;
pub mod error;
pub mod estimate;
pub mod events;
mod identity;
pub mod invariants;
pub mod machine;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod prepare;
pub mod provenance;
pub mod recipe;
pub mod rules;
pub mod schedule;
pub mod session;
pub mod step;
pub mod trainer;
pub mod wordings;

pub use codec::ModelCodec;
pub use error::TrainError;
pub use events::Event;
pub use prepare::{PreparedData, new_edit, recipe_codec};
pub use recipe::Recipe;
pub use session::Start;
pub use trainer::{EndReason, Outcome, Trainer, adapter_directory};
