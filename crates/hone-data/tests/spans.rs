//! The assistant's turns are found in any chat template by rendering it.

mod common;

use common::{TestCodec, turns};
use hone_data::{Codec, Message};
use serde_json::{Map, json};

/// The text of each span.
fn spans(template: &str, messages: &[Message]) -> Vec<String> {
    let (text, spans) = TestCodec::chat(template).render_chat_spans(messages, &Map::new()).unwrap();
    spans.into_iter().map(|s| text[s].to_string()).collect()
}

fn two_turns() -> Vec<Message> {
    turns(&[("user", "One?"), ("assistant", "First answer."), ("user", "Two?"), ("assistant", "Second\n\nanswer.")])
}

fn with_system() -> Vec<Message> {
    let mut messages = two_turns();
    messages.insert(0, Message::new("system", "Be brief."));
    messages
}

#[test]
fn turns_and_their_end_markers_are_found_in_every_family() {
    let cases = [
        ("smollm2", "", "<|im_end|>"),
        ("qwen2.5", "", "<|im_end|>"),
        ("llama3", "", "<|eot_id|>"),
        ("llama2", " ", " </s>"),
        ("mistral-v3", " ", "</s>"),
        ("zephyr", "", "</s>"),
        ("no-generation-prompt", "<assistant>", "</assistant>"),
    ];
    for (template, before, after) in cases {
        let expected = [format!("{before}First answer.{after}"), format!("{before}Second\n\nanswer.{after}")];
        // Where a system message stands in the last user's turn, the start of the conversation is no prefix of the whole.
        let messages = if template == "mistral-v3" { two_turns() } else { with_system() };
        let found = spans(template, &messages);
        assert_eq!(found, expected, "{template}");
    }
    assert_eq!(spans("gemma", &two_turns()), ["First answer.<end_of_turn>", "Second\n\nanswer.<end_of_turn>"]);
}

#[test]
fn a_template_whose_beginning_changes_with_its_end_is_followed_by_content() {
    // The system message moves to the last user's turn: the first turn is found by its content alone.
    assert_eq!(spans("mistral-v3", &with_system()), ["First answer.</s>", " Second\n\nanswer.</s>"]);
    // The generation prompt opens a thought the history does not hold.
    let expected = ["First answer.<|end_of_sentence|>", "Second\n\nanswer.<|end_of_sentence|>"];
    assert_eq!(spans("deepseek-r1", &two_turns()), expected);
    let thoughtful =
        turns(&[("user", "One?"), ("assistant", "<think>\nhm\n</think>Yes."), ("user", "Two?"), ("assistant", "No.")]);
    assert!(spans("deepseek-r1", &thoughtful).last().is_some_and(|s| s == "No.<|end_of_sentence|>"));
}

#[test]
fn a_thinking_template_trains_the_thought_it_shows() {
    let messages = turns(&[
        ("user", "One?"),
        ("assistant", "<think>\nlong thought\n</think>\n\nFirst."),
        ("user", "Two?"),
        ("assistant", "<think>\nshort\n</think>\n\nSecond."),
    ]);
    // Earlier thoughts are cut by the template, so they are no part of the text at all.
    assert_eq!(spans("qwen3", &messages), ["First.<|im_end|>", "<think>\nshort\n</think>\n\nSecond.<|im_end|>"]);
}

#[test]
fn an_end_marker_of_the_last_turn_alone_is_not_given_to_the_others() {
    let found = spans("end-of-text-at-end", &two_turns());
    assert_eq!(found, ["First answer.", "Second\n\nanswer.\n</s>"]);
}

#[test]
fn white_space_around_an_answer_belongs_to_it_only_where_the_template_keeps_it() {
    let messages = turns(&[("user", "One?"), ("assistant", "  spaced \n"), ("user", "Two?"), ("assistant", "x")]);
    assert_eq!(spans("smollm2", &messages)[0], "  spaced \n<|im_end|>");
    assert_eq!(spans("llama3", &messages)[0], "spaced<|eot_id|>");
}

#[test]
fn turns_that_look_alike_are_told_apart() {
    let messages =
        turns(&[("user", "yes"), ("assistant", "yes"), ("user", "yes"), ("assistant", "yes"), ("assistant", "yes")]);
    let (text, spans) = TestCodec::chat("smollm2").render_chat_spans(&messages, &Map::new()).unwrap();
    assert_eq!(spans.len(), 3);
    assert!(spans.windows(2).all(|w| w[0].end <= w[1].start));
    assert!(spans.iter().all(|s| &text[s.clone()] == "yes<|im_end|>"));
}

#[test]
fn a_turn_of_nothing_but_tool_calls_is_found() {
    let mut messages = turns(&[("user", "Weather?"), ("assistant", ""), ("tool", "sunny"), ("assistant", "Sunny.")]);
    let call = json!([{ "type": "function", "function": { "name": "weather", "arguments": { "city": "Kyiv" } } }]);
    messages[1].extra.insert("tool_calls".into(), call);
    let expected = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Kyiv\"}}\n</tool_call><|im_end|>";
    let found = spans("qwen2.5", &messages);
    assert_eq!(found[0].replace("\": \"Kyiv", "\":\"Kyiv"), expected);
    assert_eq!(found[1], "Sunny.<|im_end|>");
}

#[test]
fn a_template_that_changes_the_text_out_of_recognition_is_refused() {
    let codec = TestCodec::chat("shouting");
    let error = codec.render_chat_spans(&two_turns(), &Map::new()).unwrap_err().to_string();
    assert!(error.contains("message 2"), "{error}");
}

#[test]
fn a_conversation_the_template_refuses_is_an_error_not_a_guess() {
    let codec = TestCodec::chat("gemma");
    let error = codec.render_chat_spans(&with_system(), &Map::new()).unwrap_err().to_string();
    assert!(error.contains("System role not supported"), "{error}");
}

#[test]
fn conversations_without_an_answer_have_no_span() {
    assert!(spans("smollm2", &turns(&[("user", "Hello?")])).is_empty());
}

#[test]
fn turns_are_where_hugging_faces_generation_tags_say() {
    // Made by tools/golden/data_spans.py: the same templates with `{% generation %}` tags, by transformers.
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spans.json");
    let golden: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(golden.len() >= 28);
    for case in golden {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let template = case["template"].as_str().unwrap();
        let (text, spans) = TestCodec::chat(template).render_chat_spans(&messages, &Map::new()).unwrap();
        assert_eq!(text, case["text"].as_str().unwrap(), "{template}");
        let turns: Vec<&str> = spans.into_iter().map(|s| &text[s]).collect();
        assert_eq!(json!(turns), case["turns"], "{template}");
    }
}
