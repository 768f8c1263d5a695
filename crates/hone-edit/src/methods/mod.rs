//! The methods, one file each. A new one is its file and a line in [`crate::registry`].

pub mod adalora;
pub mod adapters;
pub mod boft;
pub mod c3a;
pub mod delora;
pub mod fourierft;
pub mod full;
pub mod gralora;
pub mod hira;
pub mod hra;
pub mod hybrid;
pub mod ia3;
pub mod lora;
pub mod lycoris;
pub mod miss;
pub mod oft;
pub mod prompts;
pub mod randlora;
pub mod road;
pub mod routed;
pub mod selective;
pub(crate) mod tokens;
pub mod trainable_tokens;
pub mod vblora;
pub mod vera;
pub mod waveft;
