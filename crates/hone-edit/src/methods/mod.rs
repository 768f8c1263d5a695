//! The methods, one file each. A new one is its file and a line in [`crate::registry`].

pub mod adapters;
pub mod boft;
pub mod fourierft;
pub mod full;
pub mod hra;
pub mod ia3;
pub mod lora;
pub mod oft;
pub mod road;
pub mod routed;
pub mod selective;
