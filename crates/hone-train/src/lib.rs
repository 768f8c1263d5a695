//! `hone-train`: recipes, objectives, schedules, the one training loop, checkpoints and run-time invariants.
//!
//! Floor 3. It knows nothing of the terminal: everything there is to say goes out as [`Event`](events::Event)s.

pub mod error;
pub mod recipe;

pub use error::TrainError;
pub use recipe::Recipe;
