//! Optimiser updates: one pass over the `f32` values of a parameter, its gradient and its state.
//!
//! Hyperparameters and states are plain data that checkpoints write. Nothing here knows of models, schedules or files:
//! the learning rate comes in with every call. Every update takes a `gradient_scale` that multiplies the gradient as it
//! is read (clipping and averaging cost no pass of their own).

pub mod adamw;
pub mod adamw8bit;
pub mod clip;
pub mod sgd;

pub use adamw::{AdamState, AdamW};
pub use adamw8bit::Adam8State;
pub use clip::{clip_factor, global_norm};
pub use sgd::{Sgd, SgdState};
