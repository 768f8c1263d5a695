//! `hone-eval`: tasks, scorers, metrics, statistics, scorecards and ledgers.
//!
//! Floor 3. It knows nothing of HTML.

pub mod code;
pub mod compare;
pub mod endpoint;
pub mod error;
pub mod evaluate;
pub mod explain;
pub mod files;
pub mod filters;
pub mod foreseen;
pub mod intervals;
pub mod judge;
pub mod ledger;
pub mod measures;
pub mod metrics;
pub mod pairing;
pub mod python;
pub mod reasoning;
pub mod requests;
pub mod resume;
pub mod rewards;
pub mod route;
mod rows;
pub mod rules;
pub mod scorecard;
pub mod scorer;
pub mod statistics;
pub mod tally;
pub mod task;
pub mod verdict;
mod writer;

pub use compare::{CompareOptions, compare};
pub use endpoint::Endpoint;
pub use error::EvalError;
pub use evaluate::{Applied, EvalOptions, Progress, evaluate};
pub use resume::evaluate_to;
pub use scorer::{Scorer, TextScore, score_text};
pub use task::{DataRoot, Task};
