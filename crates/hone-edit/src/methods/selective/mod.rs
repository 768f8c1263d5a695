//! Selective edits: a part of the model's own weights is trained, chosen by name or found by a rule.
//!
//! By name: [`bitfit`], [`norms`], [`last_layers`], [`head_only`]. By a rule, all of them a [`SparseDelta`](crate::sparse::SparseDelta)
//! once they are trained: as a [`change`] (`W + D`, `D` dense while it is trained) [`fish_mask`] and [`child_tuning`] ([`fisher`]),
//! [`subnetwork`], [`diff_pruning`], [`grafting`] and [`mask_tuning`], which drops values and changes none; at given places [`shira`] and
//! [`supertuning`]. By schedule: [`lisa`]; by the optimiser: [`galore`].

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
