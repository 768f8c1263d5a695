//! Prompts: virtual tokens before every sequence, or keys and values in their place, are trained, and the model is left alone.
//!
//! - [`prompt_tuning`], [`p_tuning`] (the prompt comes out of an encoder while it is trained), [`multitask_prompt_tuning`] (one
//!   prompt, a low-rank factor a task), [`attempt`] (a mixture of trained prompts, weighed by the input), [`cpt`] (worked examples
//!   that may move a little);
//! - [`prefix_tuning`]: keys and values of every layer (P-tuning v2 is this one without projection);
//! - [`cartridge`]: the same with frozen first tokens;
//! - [`adaption_prompt`]: a second attention, over a few learned vectors, behind a gate;
//! - [`dept`], [`ept`]: a short prompt and an update of the input's embeddings.
//!
//! [`fields`]: what they have in common. Where virtual tokens stand in a batch: `hone_model::context::TokenBatch`.
//!
//! A prompt is no weight, so none of these merges. A stack's `strength` multiplies a prompt's embeddings (keys, values), which is
//! a scale and not a share of the effect: at 1 the prompt is as it was trained.

pub mod adaption_prompt;
pub mod attempt;
pub mod cartridge;
pub mod cpt;
pub mod dept;
pub mod ept;
pub mod fields;
pub mod input_update;
pub mod multitask_prompt_tuning;
pub mod p_tuning;
pub mod prefix_tuning;
pub mod prompt_tuning;
