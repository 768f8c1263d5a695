//! The methods, one file each. A new one is its file and a line in [`crate::registry`].

pub mod full;
pub mod lora;
pub mod routed;
pub mod selective;
