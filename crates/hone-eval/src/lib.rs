//! `hone-eval`: tasks, scorers, metrics, statistics, scorecards and ledgers.
//!
//! Floor 3. It knows nothing of HTML.

pub mod ledger;
pub mod python;
pub mod scorecard;
