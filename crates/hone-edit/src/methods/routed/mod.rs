//! Routed edits: several adapters, and a rule that says how much of each acts where. By task ([`poly`]), by token, by example.

pub mod poly;
