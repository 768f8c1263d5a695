//! One request through the scorer, with a probe on its attention.
//!
//! The request's input is a batch of its own, so row `i` of the pass is its token `i`; what is scored is scored as in every
//! evaluation.

use std::ops::Range;
use std::sync::Arc;

use hone_edit::EditStack;
use hone_engine::DType;
use hone_eval::Scorer;
use hone_eval::requests::{Encoder, Request};
use hone_eval::scorer::{BATCH_TOKENS, Scored};
use hone_model::Model;
use hone_model::attention::{AttentionProbe, Masses, Positions, Wanted};

use crate::error::LocateError;

/// A model with its edits, looked at.
pub struct Looker<'a> {
    /// Scores, with the probe among its hooks.
    pub scorer: Scorer<'a>,
    probe: Arc<AttentionProbe>,
}

impl<'a> Looker<'a> {
    /// A model as `stack` edits it, computed in `dtype`.
    pub fn new(model: &'a Model, stack: &EditStack, dtype: DType) -> Looker<'a> {
        let probe = Arc::new(AttentionProbe::new(&model.spec));
        let mut stack = stack.clone();
        stack.probes.push(probe.clone());
        let scorer = Scorer { model, hooks: stack.hooks(dtype), dtype, batch_tokens: BATCH_TOKENS };
        Looker { scorer, probe }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.scorer.model
    }

    /// Turns texts into ids, with room for the edits' virtual tokens.
    pub fn encoder(&self) -> Result<Encoder<'a>, LocateError> {
        let encoder = Encoder::new(self.model(), None)?;
        Ok(encoder.behind_virtual_tokens(self.model(), self.scorer.hooks.virtual_tokens())?)
    }

    /// Runs one request; `rows` of its input look, `sets` of positions are summed, in `layers`.
    ///
    /// Panics on a row that the input does not have.
    pub fn look(
        &self,
        request: Request,
        rows: Vec<usize>,
        sets: Vec<Positions>,
        layers: Range<usize>,
    ) -> Result<(Scored, Masses), LocateError> {
        self.probe.watch(Wanted { rows, sets, layers });
        let mut scored = self.scorer.score(&[vec![request]], &mut |_| Ok(()))?;
        let scored = scored.pop().and_then(|mut group| group.pop()).unwrap_or_default();
        Ok((scored, self.probe.take().unwrap_or_default()))
    }

    /// A token that may stand as the target behind an answer's last one, so that the answer is read to its end.
    pub fn closing_id(&self) -> u32 {
        let model = self.model();
        let declared = model.end_ids.first().copied();
        declared.or(model.tokenizer.eos_id).or(model.tokenizer.bos_id).unwrap_or(0)
    }
}

/// The positions where `flags` is set, as ranges.
pub fn positions(flags: impl IntoIterator<Item = bool>) -> Positions {
    let mut ranges: Positions = Vec::new();
    for (at, _) in flags.into_iter().enumerate().filter(|(_, set)| *set) {
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    #[test]
    fn neighbours_are_one_range() {
        let flags = [true, true, false, true, false, false, true, true];
        assert_eq!(super::positions(flags), [0..2, 3..4, 6..8]);
        assert!(super::positions([false, false]).is_empty());
    }
}
