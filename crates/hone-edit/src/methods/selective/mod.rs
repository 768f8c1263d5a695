//! Selective edits: a part of the model's own weights is trained, chosen by name or found by a rule.
//!
//! By name: [`bitfit`], [`norms`], [`layers`]. By a rule, all of them one [`change`] (`W + D`, `D` dense while trained and written
//! where it is not 0): [`masked`] (Fisher masks, child tuning, a subnetwork given), [`shira`], [`supertuning`],
//! [`diff_pruning`], [`grafting`]. Without any change of values: [`mask_tuning`]. By schedule: [`lisa`]; by the optimiser:
//! [`galore`].

pub mod bitfit;
pub mod change;
pub mod diff_pruning;
pub mod galore;
pub mod grafting;
pub mod layers;
pub mod lisa;
pub mod mask_tuning;
pub mod masked;
pub mod norms;
pub mod shira;
pub mod supertuning;
