//! `hone-eval`: tasks, scorers, metrics, statistics, scorecards and ledgers.
//!
//! Floor 3. It knows nothing of HTML.

pub mod error;
pub mod ledger;
pub mod metrics;
pub mod python;
pub mod scorecard;

pub use error::EvalError;
