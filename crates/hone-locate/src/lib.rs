//! `hone-locate`: where in a model something happens.
//!
//! | question | room |
//! |---|---|
//! | Which prompts are looked at, and what do their tokens belong to? | [`question`], [`prompt`] |
//! | How much attention goes to the user's context, by layer and head? | [`attention`], [`mass`] |
//! | Did an edit, or the chat template, change that? | [`difference`] |
//! | Which answers of a training set depend on what the user gave, and did tuning change that? | [`dependency`], [`scored`], [`conversation`] |
//! | How do both stand in a comparison's report? | [`measure`] |
//! | How is such an answer marked for training? | [`mark`] |
//!
//! Floor 4. Models run through the one scorer ([`look`]); it knows nothing of HTML or the terminal.

pub mod attention;
pub mod conversation;
pub mod dependency;
pub mod difference;
pub mod error;
pub mod look;
pub mod mark;
pub mod mass;
pub mod measure;
pub mod prompt;
pub mod question;
pub mod scored;

pub use attention::{AttentionMass, AttentionReport};
pub use error::LocateError;
pub use look::Looker;
pub use question::Question;
pub use scored::DependencyReport;
