//! Texts that a model writes, each handed over as soon as it ends ([`hone_model::generate`]).

use hone_model::generate::{Event, FinishReason, GenerationConfig, Wanted, generate_each};

use crate::error::EvalError;
use crate::scorer::Scorer;

/// Lets the scorer's model write what is `wanted` behind `prompts`. `on` is told of every piece of text and of every end, by the
/// place in `wanted`; its first error ends it all. Texts that end in the same step as the one of the error are still handed over, and
/// those that are broken off never.
pub(crate) fn write(
    scorer: &Scorer<'_>,
    prompts: &[Vec<u32>],
    wanted: &[Wanted],
    config: &GenerationConfig,
    on: &mut dyn FnMut(usize, Event<'_>) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let Scorer { model, hooks, dtype, .. } = scorer.clone();
    let mut stopped = None;
    generate_each(model, hooks, dtype, prompts, wanted, config, &mut |at, event| {
        let is_lost = match &event {
            Event::Piece(_) => stopped.is_some(),
            Event::Ended(generation) => generation.finish_reason == FinishReason::Cancelled,
        };
        if !is_lost && let Err(error) = on(at, event) {
            stopped.get_or_insert(error);
        }
        stopped.is_none()
    })?;
    stopped.map_or(Ok(()), Err)
}
