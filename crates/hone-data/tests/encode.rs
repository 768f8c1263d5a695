//! Which tokens are trained, what is cut, what is dropped, and that a preview shows the same.

mod common;

use common::{BOS, EOS, TestCodec, example, turns};
use hone_data::config::TooLong;
use hone_data::encode::{Outcome, encode};
use hone_data::{
    Body, Codec, DropReason, Drops, EncodeOptions, Example, TokenisedExample, TrainOn, encode_all, preview,
};
use proptest::prelude::*;

fn options(max_length: usize) -> EncodeOptions {
    EncodeOptions { train_on: None, max_length, too_long: None }
}

fn pair(prompt: &str, completion: &str) -> Example {
    example(Body::PromptCompletion { prompt: prompt.into(), completion: completion.into() })
}

fn kept(example: &Example, codec: &TestCodec, options: EncodeOptions) -> Vec<TokenisedExample> {
    match encode(example, codec, &options).unwrap() {
        Outcome::Kept(pieces) => pieces,
        Outcome::Dropped(reason, detail) => panic!("dropped: {reason}: {detail}"),
    }
}

/// Trained and untrained text of the only sequence.
fn split(example: &Example, codec: &TestCodec, options: EncodeOptions) -> (String, String) {
    let pieces = kept(example, codec, options);
    assert_eq!(pieces.len(), 1);
    let TokenisedExample { ids, trained, .. } = &pieces[0];
    assert_eq!(ids.len(), trained.len());
    (codec.text_of(ids, trained, false), codec.text_of(ids, trained, true))
}

fn conversation() -> Example {
    example(Body::conversation(turns(&[
        ("user", "One?"),
        ("assistant", "First."),
        ("user", "Two?"),
        ("assistant", "Second."),
    ])))
}

#[test]
fn a_completion_and_the_end_of_text_are_trained() {
    let codec = TestCodec::plain();
    assert_eq!(split(&pair("2+2=", "four"), &codec, options(100)), ("<s>2+2=".into(), "four</s>".into()));
    // Only the trained text's tokens differ from the prompt's own tokens.
    let whole = kept(&pair("2+2=", "four"), &codec, options(100)).remove(0);
    assert_eq!(whole.ids[0], BOS);
    assert_eq!(whole.ids.last(), Some(&EOS));
}

#[test]
fn white_space_before_the_completion_is_trained_with_it() {
    // ` four` is one token, which starts inside the prompt's last space: by the bare rule it would not be trained.
    let codec = TestCodec::plain();
    assert_eq!(split(&pair("2+2= ", "four"), &codec, options(100)), ("<s>2+2=".into(), " four</s>".into()));
}

#[test]
fn a_token_across_the_border_is_trained_only_if_it_starts_inside() {
    let codec = TestCodec::plain();
    // `fourteen` is one token of the whole text, and starts in the prompt.
    assert_eq!(
        split(&pair("2+2=four", "teen and"), &codec, options(100)),
        ("<s>2+2=fourteen".into(), " and</s>".into())
    );
}

#[test]
fn everything_is_trained_on_request_but_the_first_token() {
    let codec = TestCodec::plain();
    let all = EncodeOptions { train_on: Some(TrainOn::All), ..options(100) };
    assert_eq!(split(&pair("2+2=", "four"), &codec, all), ("<s>".into(), "2+2=four</s>".into()));
    let text = example(Body::Text("Once upon".into()));
    assert_eq!(split(&text, &codec, options(100)), ("<s>".into(), "Once upon</s>".into()));
    let bare = TestCodec { add_bos: false, ..TestCodec::plain() };
    assert_eq!(split(&text, &bare, options(100)), ("Once".into(), " upon</s>".into()));
}

#[test]
fn conversations_train_all_answers_or_the_last_or_everything() {
    let codec = TestCodec::chat("llama3");
    let trained = |train_on| split(&conversation(), &codec, EncodeOptions { train_on, ..options(400) }).1;
    assert_eq!(trained(None), "First.<|eot_id|>Second.<|eot_id|>");
    assert_eq!(trained(Some(TrainOn::Assistant)), "First.<|eot_id|>Second.<|eot_id|>");
    assert_eq!(trained(Some(TrainOn::Completion)), "Second.<|eot_id|>");
    let all = kept(&conversation(), &codec, EncodeOptions { train_on: Some(TrainOn::All), ..options(400) }).remove(0);
    assert_eq!(all.trained_tokens(), all.ids.len() - 1);
    // The template wrote the text's first token; the tokenizer adds none of its own.
    let text: String = all.ids.iter().map(|id| codec.token_text(*id)).collect();
    assert!(text.starts_with("<s><|start_header_id|>user"), "{text}");
    assert!(!all.ids.contains(&BOS));
}

#[test]
fn long_examples_are_cut_at_either_end_split_or_dropped() {
    let codec = TestCodec::plain();
    let long = pair("a b c", " d e f");
    // <s> a _b _c _d _e _f </s>: eight tokens.
    let with = |max_length, too_long| EncodeOptions { too_long, ..options(max_length) };
    assert_eq!(split(&long, &codec, with(8, None)).1, " d e f</s>");
    assert_eq!(kept(&long, &codec, with(8, None))[0].truncated, 0);
    let right = kept(&long, &codec, with(6, None)).remove(0);
    assert_eq!((right.ids.len(), right.truncated), (6, 2));
    assert_eq!(codec.text_of(&right.ids, &right.trained, true), " d e");
    let left = kept(&long, &codec, with(4, Some(TooLong::TruncateLeft))).remove(0);
    assert_eq!((left.ids.len(), left.truncated, left.ids[0]), (4, 4, BOS));
    assert_eq!(codec.text_of(&left.ids, &left.trained, true), " e f</s>");
    let dropped = encode(&long, &codec, &with(6, Some(TooLong::Drop))).unwrap();
    assert_eq!(dropped, Outcome::Dropped(DropReason::TooLong, "8 tokens, `max_length` is 6".into()));
    let gone = encode(&long, &codec, &with(4, None)).unwrap();
    assert!(matches!(gone, Outcome::Dropped(DropReason::AllTruncated, _)), "{gone:?}");
}

#[test]
fn running_text_is_split_into_pieces_that_lose_no_token() {
    let codec = TestCodec::plain();
    let text = example(Body::Text("a b c d e f g h".into()));
    let whole = kept(&text, &codec, options(100)).remove(0);
    let pieces = kept(&text, &codec, options(4));
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces.iter().flat_map(|p| p.ids.clone()).collect::<Vec<_>>(), whole.ids);
    assert!(pieces.iter().all(|p| !p.trained[0] && p.trained[1..].iter().all(|t| *t) && p.truncated == 0));
    // A last piece of one token has nothing to predict it from: it is cut off, and counted.
    let cut = kept(&text, &codec, options(9));
    assert_eq!((cut.len(), cut[0].truncated), (1, 1));
}

#[test]
fn examples_without_trained_tokens_are_dropped_and_counted() {
    let codec = TestCodec::chat("smollm2");
    let examples = [
        conversation(),
        example(Body::conversation(turns(&[("user", "Hello?")]))),
        example(Body::conversation(turns(&[("user", "One?"), ("assistant", "First.")]))),
    ];
    let mut drops = Drops::default();
    let kept = encode_all(&examples, &codec, &options(400), &mut drops).unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!((drops.total(), drops.count(DropReason::NoTrainedTokens)), (1, 1));
    assert!(drops.summary().starts_with("1 no trained tokens (first: rows.jsonl: row 1 (line 1): none of its "));
}

#[test]
fn errors_name_the_row_and_the_next_step() {
    let plain = TestCodec::plain();
    let said =
        |example: &Example, codec: &TestCodec, options| encode(example, codec, &options).unwrap_err().to_string();
    let error = said(&conversation(), &plain, options(100));
    assert!(error.starts_with("rows.jsonl: row 1 (line 1): the chat template failed: the model has no chat template"));
    let error = said(
        &example(Body::Text("x".into())),
        &plain,
        EncodeOptions { train_on: Some(TrainOn::Assistant), ..options(9) },
    );
    assert!(error.contains("recipe, `data.train_on`") && error.contains("remove `train_on`"), "{error}");
    let prompt = hone_data::Prompt::Text("Q".into());
    let pair = example(Body::Preference { prompt, chosen: "a".into(), rejected: "b".into() });
    let error = said(&pair, &plain, options(9));
    assert!(error.contains("columns: {completion: chosen}"), "{error}");
}

#[test]
fn a_preview_shows_the_text_with_what_is_trained() {
    let codec = TestCodec::chat("smollm2");
    let shown = preview(&[conversation()], 3, &codec, &options(400)).unwrap();
    assert_eq!(shown.len(), 1);
    let trained: Vec<&str> = shown[0].pieces.iter().filter(|p| p.1).map(|p| p.0.as_str()).collect();
    assert_eq!(trained, ["First.<|im_end|>", "Second.<|im_end|>"]);
    let text: String = shown[0].pieces.iter().map(|p| p.0.as_str()).collect();
    assert!(text.starts_with("<|im_start|>system") && text.ends_with("Second.<|im_end|>\n"));
    assert_eq!(shown[0].remark, None);

    let cut = preview(&[pair("a b c", " d e f")], 3, &TestCodec::plain(), &options(6)).unwrap().remove(0);
    assert_eq!(cut.remark.as_deref(), Some("2 tokens cut off at `max_length` 6"));
    assert_eq!(cut.pieces, [("<s>a b c".to_string(), false), (" d e f</s>".to_string(), true)]);
    let many: Vec<Example> = (0..10).map(|i| pair(&format!("{i}"), " x")).collect();
    let rows = preview(&many, 3, &TestCodec::plain(), &options(9)).unwrap();
    assert_eq!(rows.iter().map(|r| r.pieces[0].0.clone()).collect::<Vec<_>>(), ["<s>0", "<s>4", "<s>9"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    /// The mask border of any prompt and completion: trained text is the completion from its first own token on.
    #[test]
    fn trained_text_is_a_suffix_that_starts_at_or_behind_the_border(
        prompt in "[a-z 0-9<>é\\n]{0,24}",
        completion in "[a-z 0-9<>é\\n]{1,24}",
    ) {
        let codec = TestCodec::plain();
        let Outcome::Kept(pieces) = encode(&pair(&prompt, &completion), &codec, &options(1000)).unwrap() else {
            return Err(TestCaseError::fail("dropped"));
        };
        let one = &pieces[0];
        let first = one.trained.iter().position(|t| *t).unwrap();
        prop_assert!(one.trained[first..].iter().all(|t| *t), "trained tokens are contiguous to the end");
        let whole = format!("{prompt}{completion}");
        let untrained = codec.text_of(&one.ids[1..first], &one.trained[1..first], false);
        let trained = codec.text_of(&one.ids[first..], &one.trained[first..], true);
        prop_assert_eq!(format!("{untrained}{trained}"), format!("{whole}</s>"));
        prop_assert!(untrained.len() >= prompt.trim_end().len());
        // No untrained token starts behind the border.
        let last = codec.token_text(one.ids[first - 1]).len();
        prop_assert!(first == 1 || untrained.len() - last < prompt.trim_end().len());
    }
}
