//! The layout of a step: documents flat one after another, each a segment with positions from 0, and for every trained token
//! the row that predicts it. Row `t` predicts token `t + 1` of the **same** document; the last row of a document predicts
//! nothing. The weight of a prediction is 1 where the predicted token is trained; rows without a trained target are left out,
//! so the LM head does no work for them.

use crate::encode::TokenisedExample;

/// The documents of a step, or of a part of it.
#[derive(Clone, Debug)]
pub struct StepBatch<'a> {
    /// In order.
    pub sequences: Vec<&'a TokenisedExample>,
}

/// A document's place in the flat tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentRange {
    /// First token.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

/// A step as the model takes it. `rows`, `targets` and `weights` have one entry a prediction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlatBatch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token in its document, `[tokens]`.
    pub positions: Vec<u32>,
    /// The documents.
    pub segments: Vec<DocumentRange>,
    /// The source of the mix each document belongs to: its task, for edits that differ by task.
    pub groups: Vec<u32>,
    /// For each document the one that is its row's first wording: itself, but for those that say the same in other words.
    pub first_wordings: Vec<u32>,
    /// Flat index of the token that predicts.
    pub rows: Vec<u32>,
    /// The token it should predict.
    pub targets: Vec<u32>,
    /// The weight of its loss.
    pub weights: Vec<f32>,
}

impl<'a> StepBatch<'a> {
    /// The documents with these indices.
    pub fn new(examples: &'a [TokenisedExample], documents: &[usize]) -> StepBatch<'a> {
        StepBatch { sequences: documents.iter().map(|&d| &examples[d]).collect() }
    }

    /// Trained tokens: the sum of the weights, by which a step's loss is divided.
    pub fn trained_tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.trained_tokens()).sum()
    }

    /// Flat tokens, segments and predictions.
    pub fn layout(&self) -> FlatBatch {
        let mut batch = FlatBatch::default();
        for (at, sequence) in self.sequences.iter().enumerate() {
            let before = at.checked_sub(1).filter(|before| sequence.is_another_wording_of(self.sequences[*before]));
            batch.first_wordings.push(before.map_or(at as u32, |before| batch.first_wordings[before]));
            let (start, len) = (batch.ids.len(), sequence.ids.len());
            batch.ids.extend_from_slice(&sequence.ids);
            batch.positions.extend(0..len as u32);
            batch.segments.push(DocumentRange { start, len });
            batch.groups.push(sequence.part as u32);
            for next in (1..len).filter(|&next| sequence.trained[next]) {
                batch.rows.push((start + next - 1) as u32);
                batch.targets.push(sequence.ids[next]);
                batch.weights.push(1.0);
            }
        }
        batch
    }
}
