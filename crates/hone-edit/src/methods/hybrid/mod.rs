//! Hybrids: methods of several kinds trained together as one edit.
//!
//! [`mam`] puts a prefix and a parallel adapter side by side; [`unipelt`] a prefix, an adapter and a low-rank pair, each behind a
//! gate of its own.

pub mod mam;
pub mod unipelt;
