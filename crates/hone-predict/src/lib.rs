//! `hone-predict`: what can be told of larger or longer-trained models from smaller ones.
//!
//! Floor 4. It reads scorecards and knows nothing of models, files of weights or HTML.
//!
//! | question | room |
//! |---|---|
//! | How evenly does each score of a question move with compute, and where does that get lost? | [`ladder`] |
//! | What is written about it? | [`found`] |
//! | Do wrong choices move with the right one? | [`wrong_mass`] |
//! | How does it stand in a comparison's report? | [`measure`] |

pub mod error;
pub mod found;
pub mod ladder;
pub mod measure;
pub mod wrong_mass;

pub use error::PredictError;
pub use found::Ladder;
pub use ladder::{Correlation, LadderOptions, Rung, ladder};
