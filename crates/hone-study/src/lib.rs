//! Studies: does a published claim hold here? A study is a YAML file that chains hone's own commands on real data, reads
//! numbers out of what they wrote, and holds claims against those numbers, with intervals.
//!
//! | question | room |
//! |---|---|
//! | What can a study say? | [`study`], read and checked by [`read()`] |
//! | Which studies ship with hone? | [`bundled`] |
//! | Which commands does it run, and in which directories? | [`placeholders`], [`plan`] |
//! | How are they run, stopped and continued? | [`runner`], [`record`] |
//! | How does a file become a number? | [`measures`] |
//! | How are numbers combined, and what is their interval? | [`formula`], [`quantity`] |
//! | Does a claim hold? | [`claims`] |
//! | What is written about it? | [`results`], [`page`] |
//!
//! A step is exactly a command a person could type: the runner starts the program it is given and knows no verb. This crate
//! knows nothing of models and draws nothing.

pub mod bundled;
pub mod claims;
pub mod error;
pub mod formula;
pub mod measures;
pub mod page;
pub mod placeholders;
pub mod plan;
pub mod quantity;
mod read;
pub mod record;
pub mod results;
pub mod runner;
pub mod study;

pub use error::StudyError;
pub use plan::{Plan, Step};
pub use read::{Source, find, names_known, read};
pub use results::Results;
pub use study::Study;
