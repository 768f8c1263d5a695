//! Routed edits: several adapters, and a rule that says how much of each acts where: by task ([`poly`], [`poly_ia3`]), by token
//! ([`moe_lora`], [`xlora`]), at random while training ([`adamix`]).

pub mod adamix;
pub mod moe_lora;
pub mod poly;
pub mod poly_ia3;
pub mod router;
pub mod xlora;
