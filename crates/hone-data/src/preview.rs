//! Examples as they will be trained: their text in pieces, each trained or not. The pieces are cut from the very text that
//! is tokenised, at the tokens' own byte ranges, so what is shown is what is trained.

use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::encode::{EncodeOptions, Outcome, encode, mark, render};
use crate::error::DataError;
use crate::example::{Example, SourceRef};

/// An example to be shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreviewExample {
    /// Where it came from.
    pub source: SourceRef,
    /// Its text in order, trained and untrained pieces by turns.
    pub pieces: Vec<(String, bool)>,
    /// Its tokens, those beyond `max_length` included.
    pub tokens: usize,
    /// Trained tokens among them.
    pub trained_tokens: usize,
    /// What will become of it, if it is not trained on as shown.
    pub remark: Option<String>,
}

/// The first, the last, and others evenly between them: `n` examples as they are trained.
pub fn preview(
    examples: &[Example],
    n: usize,
    codec: &dyn Codec,
    options: &EncodeOptions,
) -> Result<Vec<PreviewExample>, DataError> {
    let n = n.min(examples.len());
    let at = |i: usize| if n < 2 { 0 } else { i * (examples.len() - 1) / (n - 1) };
    (0..n).map(|i| preview_one(&examples[at(i)], codec, options)).collect()
}

fn preview_one(example: &Example, codec: &dyn Codec, options: &EncodeOptions) -> Result<PreviewExample, DataError> {
    let remark = match encode(example, codec, options)? {
        Outcome::Dropped(reason, detail) => Some(format!("dropped: {reason}: {detail}")),
        Outcome::Kept(pieces) if pieces.len() > 1 => Some(format!("split into {} sequences", pieces.len())),
        Outcome::Kept(pieces) => {
            let cut: usize = pieces.iter().map(|p| p.truncated).sum();
            (cut > 0).then(|| format!("{cut} tokens cut off at `max_length` {}", options.max_length))
        }
    };
    let marked = mark(render(example, codec, options.train_on)?, codec).map_err(|error| DataError::Codec {
        place: example.source.clone(),
        message: format!("the tokenizer failed: {error}"),
        next: "look at the row for characters the tokenizer does not take".into(),
    })?;
    let mut pieces: Vec<(String, bool)> = Vec::new();
    let mut push = |text: &str, trained: bool| match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some((piece, flag)) if *flag == trained => piece.push_str(text),
        _ => pieces.push((text.to_string(), trained)),
    };
    let mut shown = 0;
    let tokens = marked.tokens.ids.iter().zip(&marked.tokens.offsets).zip(&marked.trained);
    for ((&id, &(start, end)), &trained) in tokens {
        if start >= end {
            push(&codec.token_text(id), trained);
            continue;
        }
        // Text no token covers (normalised away) is nobody's; characters of several tokens are shown once.
        push(marked.text.get(shown..start).unwrap_or_default(), false);
        push(marked.text.get(start.max(shown)..end).unwrap_or_default(), trained);
        shown = shown.max(end);
    }
    push(marked.text.get(shown..).unwrap_or_default(), false);
    Ok(PreviewExample {
        source: example.source.clone(),
        pieces,
        tokens: marked.tokens.ids.len(),
        trained_tokens: marked.trained.iter().filter(|&&t| t).count(),
        remark,
    })
}
