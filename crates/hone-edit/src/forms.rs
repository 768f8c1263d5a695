//! Forms that many methods share at a linear map `y = x Wᵀ + b`, so that a method's file says only what is its own:
//!
//! - [`Delta`]: `W + ΔW`, with `ΔW` `[out, in]` made of the parameters (and of `W`, perhaps);
//! - [`InputMap`]: `W` behind a linear map of its input, `y = (x R) Wᵀ + b`;
//! - [`MadePair`]: `W + B A`, with a low-rank pair made of the parameters;
//! - [`Scaling`]: inputs or outputs times a vector.
//!
//! Each is merged by the code that runs forward, so merging cannot disagree with it.

mod delta;
mod input_map;
mod made_pair;
mod scaling;

pub use delta::{Delta, DeltaPart};
pub(crate) use delta::{base_weight, dropout, dropped};
pub(crate) use input_map::partly;
pub use input_map::{Applied, InputMap, InputMapPart};
pub use made_pair::{MadePair, MadePairPart};
pub use scaling::{ScaledSide, Scaling};
