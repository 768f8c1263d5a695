//! Selective edits: a part of the model's own weights is trained, chosen by name or found by a rule.
//!
//! By name: [`bitfit`], [`norms`], [`last_layers`], [`head_only`]. By a rule, all of them one [`change`] (`W + D`, `D` dense while trained and written
//! where it is not 0): [`fish_mask`] and [`child_tuning`] ([`fisher`]), [`subnetwork`], [`shira`], [`supertuning`],
//! [`diff_pruning`], [`grafting`]. Without any change of values: [`mask_tuning`]. By schedule: [`lisa`]; by the optimiser:
//! [`galore`].

pub mod bitfit;
pub mod change;
pub mod child_tuning;
pub mod diff_pruning;
pub mod fish_mask;
mod fisher;
pub mod galore;
pub mod grafting;
pub mod head_only;
pub mod last_layers;
pub mod lisa;
pub mod mask_tuning;
pub mod norms;
pub mod shira;
pub mod subnetwork;
pub mod supertuning;
