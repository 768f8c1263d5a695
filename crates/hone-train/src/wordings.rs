//! The same answer for the same question in other words: the loss under which a row's wordings are held together (Sun, Shaib &
//! Wallace 2023, arXiv 2306.11270, who train a soft prompt with it).
//!
//! A row of the data comes in wordings `x₀ … x_m` (`data.wordings`), all with one answer `y`. With `p_j = p(· | x_j, y before t)`,
//! the distribution at token `t` of the answer, `λ` the weight (`train.wording_consistency`), and `N` the step's trained tokens,
//! those of all wordings:
//!
//! ```text
//! L = 1/N Σ_rows Σ_t ( Σ_{j ≥ 0} −ln p_j(y_t)  +  λ Σ_{j ≥ 1} KL(p₀ ‖ p_j) )
//! ```
//!
//! `p₀` is that of the same pass and takes no gradient from the second term, so the other wordings move to the first one and not
//! the first one to them. The paper does not say what its divergence is taken over, its direction, or whether its target is held; the
//! public note of its `λ` is 0.8. Divided by `N`, a step's loss does not depend on how it is split into micro-batches.
//!
//! It does not know whether answers agree because they are right: a model that says the same to everything agrees perfectly. So read it
//! beside the accuracy (`hone compare --measure wording`).

use hone_data::{FlatBatch, TokenisedExample};
use hone_engine::ops::{self, Teacher, Teachers};
use hone_engine::{Tape, Var};
use hone_model::{Context, Model};

use crate::error::TrainError;
use crate::objective::token_batch;
use crate::prepare::PreparedData;

/// The loss of a micro-batch.
pub struct WordingLoss {
    /// Divided by the step's normaliser, with a gradient.
    pub loss: Var,
    /// `Σ −ln p` over the trained tokens.
    pub nll_sum: f64,
    /// `Σ KL(p₀ ‖ p_j)` over the tokens of answers under other wordings than the first.
    pub apart: f64,
    /// How many those tokens are.
    pub tokens: usize,
}

/// The loss of a micro-batch, divided by `normaliser` (the step's trained tokens). Wordings of a row have the same trained tokens,
/// which [`check`] has seen to.
pub fn wording_loss(model: &Model, cx: &Context, batch: &FlatBatch, normaliser: f32, weight: f32) -> WordingLoss {
    let hidden = model.decoder.hidden(cx, &token_batch(batch));
    let (head, soft_cap) = (model.decoder.head(cx), model.spec.logit_soft_cap);
    let (tape, rows, weights) = (&cx.tape, &batch.rows, &batch.weights);
    let data = ops::lm_head_loss(tape, &hidden, &head, rows, &batch.targets, weights, normaliser, soft_cap);
    let (others, firsts) = pairs(batch);
    // Row `r` of what is learned from is the state of the first wording at the token that `r` stands for.
    let mut from: Vec<u32> = (0..batch.ids.len() as u32).collect();
    for (&other, &first) in others.iter().zip(&firsts) {
        from[batch.rows[other] as usize] = batch.rows[first];
    }
    let held = ops::gather_rows(&Tape::off(), &Var::constant(hidden.value.clone()), &from).value;
    let teachers = Teachers::One(Teacher { hidden: &held, head: &head, soft_cap });
    let (rows, weights): (Vec<u32>, Vec<f32>) = others.iter().map(|&at| (batch.rows[at], batch.weights[at])).unzip();
    let apart = ops::lm_head_divergence(tape, (&hidden, &head, soft_cap), teachers, (&rows, &weights), normaliser, 1.0);
    let loss = ops::add(tape, &data.loss, &ops::scale(tape, &apart.loss, weight));
    WordingLoss { loss, nll_sum: data.nll_sum, apart: apart.sum, tokens: rows.len() }
}

/// Predictions (indices into a batch's `rows`) under other wordings than a row's first, and the first wording's at the same place in
/// the answer.
fn pairs(batch: &FlatBatch) -> (Vec<usize>, Vec<usize>) {
    // Rows are in order.
    let before = |end: usize| batch.rows.partition_point(|row| (*row as usize) < end);
    let own = |document: usize| {
        let range = batch.segments[document];
        before(range.start)..before(range.start + range.len)
    };
    let others = (0..batch.segments.len()).filter(|&document| batch.first_wordings[document] as usize != document);
    others.flat_map(|document| own(document).zip(own(batch.first_wordings[document] as usize))).unzip()
}

/// Whether there is anything to hold together: rows with several wordings, with the same trained tokens in all of them.
pub fn check(data: &PreparedData) -> Result<(), TrainError> {
    let place = || "`train.wording_consistency`".to_string();
    let examples = &data.tokenised.train;
    let trained = |example: &TokenisedExample| -> Vec<u32> {
        let ids = example.ids.iter().zip(&example.trained);
        ids.filter(|(_, trained)| **trained).map(|(id, _)| *id).collect()
    };
    let mut pairs = 0;
    for row in data.plan.rows() {
        let [first, others @ ..] = row.documents.as_slice() else { continue };
        if examples[*first].wording > 0 {
            let what = format!(
                "{}: found its first wording dropped, expected the one that the others are held to; see `hone data show`: raise \
                 `data.max_length`, or leave out `data.too_long: drop`",
                examples[*first].source
            );
            return Err(TrainError::Recipe { place: place(), what });
        }
        let expected = trained(&examples[*first]);
        for other in others {
            let found = trained(&examples[*other]);
            if found != expected {
                let what = format!(
                    "{}: found {} trained tokens in the wording {} and {} others in the wording {}, expected the same answer in \
                     all; see `hone data show`: train the completion alone, raise `data.max_length` where it cuts answers off, and \
                     end each wording as the first one ends",
                    examples[*other].source,
                    expected.len(),
                    examples[*first].wording,
                    found.len(),
                    examples[*other].wording,
                );
                return Err(TrainError::Recipe { place: place(), what });
            }
            pairs += 1;
        }
    }
    if pairs == 0 {
        let what =
            "found no row in several wordings, expected some; add `wordings` beside a `prompt_template` of the data";
        return Err(TrainError::Recipe { place: place(), what: what.into() });
    }
    Ok(())
}
