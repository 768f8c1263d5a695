//! Formats: what each reads, how they are detected, and what a row with a wrong field says.

mod common;

use std::path::Path;

use common::place;
use hone_data::config::ChatUse;
use hone_data::formats::{FORMATS, Interpreter};
use hone_data::readers::RawRow;
use hone_data::{Abilities, Body, Message, Prompt, SourceConfig};
use serde_json::{Value, json};

const CHAT: Abilities = Abilities { chat_template: true, tool_calls: false };
const TOOLS: Abilities = Abilities { chat_template: true, tool_calls: true };
const NO_CHAT: Abilities = Abilities { chat_template: false, tool_calls: false };

fn row(value: Value) -> RawRow {
    let Value::Object(columns) = value else { panic!("a test row is an object") };
    RawRow { source: place(3), columns }
}

fn source(yaml: &str) -> SourceConfig {
    serde_yaml_ng::from_str(yaml).unwrap()
}

fn read_as(yaml: &str, abilities: Abilities, value: Value) -> Result<Body, String> {
    let source = source(yaml);
    let interpreter = Interpreter::new(&source, abilities, "").map_err(|e| e.to_string())?;
    let row = row(value);
    let reading = interpreter.detect(Path::new("rows.jsonl"), std::slice::from_ref(&row)).map_err(|e| e.to_string())?;
    let bodies = reading.read(&row).map_err(|e| e.to_string())?;
    assert_eq!(bodies.len(), 1, "one wording");
    Ok(bodies.into_iter().next().unwrap())
}

fn read(value: Value) -> Body {
    read_as("{}", CHAT, value).unwrap()
}

fn detected(values: &[Value]) -> (String, String) {
    let source = SourceConfig::default();
    let rows: Vec<RawRow> = values.iter().cloned().map(row).collect();
    let interpreter = Interpreter::new(&source, CHAT, "").unwrap();
    let reading = interpreter.detect(Path::new("rows.jsonl"), &rows).unwrap();
    (reading.detection.format, reading.detection.why)
}

fn chat(list: &[(&str, &str)]) -> Body {
    Body::conversation(common::turns(list))
}

#[test]
fn alpaca_becomes_a_conversation_or_the_alpaca_prompt() {
    let with_input = json!({"instruction": "Add.", "input": "1 and 2", "output": "3"});
    let expected = chat(&[("user", "Add.\n\n1 and 2"), ("assistant", "3")]);
    assert_eq!(read(with_input.clone()), expected);
    assert_eq!(
        read(json!({"instruction": "Hi.", "input": "", "output": "Ho."})),
        chat(&[("user", "Hi."), ("assistant", "Ho.")])
    );
    assert_eq!(
        read(json!({"instruction": "Hi.", "input": null, "output": "Ho."})),
        chat(&[("user", "Hi."), ("assistant", "Ho.")])
    );
    let raw = |v| read_as("{}", NO_CHAT, v).unwrap();
    let Body::PromptCompletion { prompt, completion } = raw(with_input.clone()) else { panic!() };
    assert!(prompt.starts_with("Below is an instruction that describes a task, paired with an input"));
    assert!(prompt.ends_with("### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n"));
    assert_eq!(completion, "3");
    let Body::PromptCompletion { prompt, .. } = raw(json!({"instruction": "Hi.", "output": "Ho."})) else { panic!() };
    assert!(prompt.ends_with("the request.\n\n### Instruction:\nHi.\n\n### Response:\n"));
    assert!(matches!(read_as("chat_template: never", CHAT, with_input).unwrap(), Body::PromptCompletion { .. }));
}

#[test]
fn alpaca_with_system_and_history_keeps_the_order() {
    let body = read(json!({
        "instruction": "Third?", "input": "", "output": "3", "system": "Count.",
        "history": [["First?", "1"], ["Second?", "2"]],
    }));
    let expected = [
        ("system", "Count."),
        ("user", "First?"),
        ("assistant", "1"),
        ("user", "Second?"),
        ("assistant", "2"),
        ("user", "Third?"),
        ("assistant", "3"),
    ];
    assert_eq!(body, chat(&expected));
}

#[test]
fn messages_keep_their_extra_fields_and_join_text_parts() {
    let body = read(json!({
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f"}}], "name": null},
        ],
        "tools": "[{\"name\": \"f\"}]",
    }));
    let Body::Conversation { messages, variables } = body else { panic!() };
    assert_eq!(messages[0], Message::new("user", "ab"));
    assert_eq!(messages[1].content, "");
    assert_eq!(messages[1].extra.keys().collect::<Vec<_>>(), ["tool_calls"]);
    assert_eq!(variables["tools"], json!([{"name": "f"}]));
}

#[test]
fn sharegpt_speakers_become_roles_and_calls_become_tool_calls_where_the_template_shows_them() {
    let value = json!({
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": "{\"name\": \"weather\", \"arguments\": {}}"},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny."},
        ],
        "system": "Help.", "tools": "[]",
    });
    let plain = read_as("{}", CHAT, value.clone()).unwrap();
    let call = "{\"name\": \"weather\", \"arguments\": {}}";
    let expected =
        [("system", "Help."), ("user", "Weather?"), ("assistant", call), ("tool", "sunny"), ("assistant", "Sunny.")];
    assert_eq!(plain, chat(&expected));
    let Body::Conversation { messages, variables } = read_as("{}", TOOLS, value).unwrap() else { panic!() };
    assert!(variables.is_empty());
    let calls = json!([{"type": "function", "function": {"name": "weather", "arguments": {}}}]);
    assert_eq!((messages[2].content.as_str(), &messages[2].extra["tool_calls"]), ("", &calls));
}

#[test]
fn prompt_and_completion_stay_as_they_are_unless_asked() {
    let value = json!({"prompt": "2+2=", "completion": "4"});
    let raw = Body::PromptCompletion { prompt: "2+2=".into(), completion: "4".into() };
    assert_eq!(read(value.clone()), raw);
    assert_eq!(read(json!({"prompt": "2+2=", "response": "4"})), raw);
    assert_eq!(read_as("chat_template: always", CHAT, value).unwrap(), chat(&[("user", "2+2="), ("assistant", "4")]));
}

#[test]
fn question_and_answer_are_a_conversation_or_a_question_prompt() {
    let value = json!({"question": "2+2?", "answer": "4"});
    assert_eq!(read(value.clone()), chat(&[("user", "2+2?"), ("assistant", "4")]));
    let raw = Body::PromptCompletion { prompt: "Question: 2+2?\nAnswer:".into(), completion: " 4".into() };
    assert_eq!(read_as("{}", NO_CHAT, value.clone()).unwrap(), raw);
    let mapped = "{format: prompt_completion, columns: {prompt: question, completion: answer}}";
    let expected = Body::PromptCompletion { prompt: "2+2?".into(), completion: "4".into() };
    assert_eq!(read_as(mapped, CHAT, value.clone()).unwrap(), expected);
    // Mapped columns take part in the detection.
    let auto = "columns: {prompt: question, completion: answer}";
    assert_eq!(read_as(auto, CHAT, value).unwrap(), expected);
}

#[test]
fn preference_pairs_are_read_in_every_layout() {
    let text = Body::Preference { prompt: Prompt::Text("Q".into()), chosen: "good".into(), rejected: "bad".into() };
    assert_eq!(read(json!({"prompt": "Q", "chosen": "good", "rejected": "bad"})), text);

    let prompt = Prompt::Conversation(vec![Message::new("user", "Q")]);
    let turns = Body::Preference { prompt, chosen: "good".into(), rejected: "bad".into() };
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let (good, bad) = (turn("assistant", "good"), turn("assistant", "bad"));
    // TRL: the prompt apart, only inside, or both; the prompt as text.
    assert_eq!(read(json!({"prompt": [turn("user", "Q")], "chosen": [good], "rejected": [bad]})), turns);
    let (full_good, full_bad) = (json!([turn("user", "Q"), good]), json!([turn("user", "Q"), bad]));
    assert_eq!(read(json!({"chosen": full_good, "rejected": full_bad})), turns);
    assert_eq!(read(json!({"prompt": [turn("user", "Q")], "chosen": full_good, "rejected": full_bad})), turns);
    assert_eq!(read(json!({"prompt": "Q", "chosen": full_good, "rejected": full_bad})), turns);
    // LLaMA-Factory.
    let said = |from: &str, value: &str| json!({"from": from, "value": value});
    let layout =
        json!({"conversations": [said("human", "Q")], "chosen": said("gpt", "good"), "rejected": said("gpt", "bad")});
    assert_eq!(read(layout), turns);
    // HH-RLHF.
    let transcript = |answer: &str| format!("\n\nHuman: Q\n\nAssistant: {answer}");
    assert_eq!(read(json!({"chosen": transcript("good"), "rejected": transcript("bad")})), turns);
}

#[test]
fn preference_pairs_that_do_not_pair_say_why() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let refused = |value| read_as("{}", CHAT, value).unwrap_err();
    let other = json!({
        "chosen": [turn("user", "Q"), turn("assistant", "a")],
        "rejected": [turn("user", "P"), turn("assistant", "b")],
    });
    assert!(refused(other).contains("field `rejected`: found other turns before the answer"));
    let open = json!({"chosen": [turn("user", "Q")], "rejected": [turn("user", "Q")]});
    assert!(refused(open).contains("expected the assistant's turn at the end"));
    let alone = json!({"chosen": "a", "rejected": "b"});
    assert!(refused(alone).contains("an answer without its prompt"));
    let mixed = json!({"prompt": "Q", "chosen": "a", "rejected": [turn("assistant", "b")]});
    assert!(refused(mixed).contains("text on one side and messages on the other"));
}

#[test]
fn templates_render_any_row_and_name_what_is_missing() {
    let yaml = "{prompt_template: \"{{ passage }}\\nIs it {{ question | lower }}?\\n\", completion_template: \" {{ 'yes' if label else 'no' }}\"}";
    let value = json!({"passage": "Sky.", "question": "BLUE", "label": 1});
    let expected = Body::PromptCompletion { prompt: "Sky.\nIs it blue?\n".into(), completion: " yes".into() };
    assert_eq!(read_as(yaml, CHAT, value).unwrap(), expected);
    let missing = read_as(yaml, CHAT, json!({"passage": "Sky.", "question": "BLUE"})).unwrap_err();
    assert!(missing.contains("row 3 (line 3), field `completion_template`: found no `label`"), "{missing}");
    assert!(missing.contains("the row has `passage`, `question`"), "{missing}");
    let column = "{prompt_template: '{{ q }}', columns: {completion: a}}";
    let expected = Body::PromptCompletion { prompt: "Q".into(), completion: "A".into() };
    assert_eq!(read_as(column, CHAT, json!({"q": "Q", "a": "A"})).unwrap(), expected);
    let broken = read_as("{prompt_template: '{{ q'}", CHAT, json!({})).unwrap_err();
    assert!(broken.contains("recipe, `data.prompt_template`: found a template that cannot be read"), "{broken}");
}

#[test]
fn every_layout_is_detected_and_said_aloud() {
    let turn = json!([{"role": "user", "content": "x"}]);
    let said = json!([{"from": "human", "value": "x"}]);
    let cases = [
        (json!({"messages": turn}), "messages"),
        (json!({"conversations": said}), "sharegpt"),
        (json!({"conversations": said, "chosen": {}, "rejected": {}}), "preference"),
        (json!({"prompt": "x", "chosen": "y", "rejected": "z"}), "preference"),
        (json!({"instruction": "x", "output": "y", "text": "z"}), "alpaca"),
        (json!({"prompt": "x", "completion": "y"}), "prompt_completion"),
        (json!({"question": "x", "answer": "y"}), "question_answer"),
        (json!({"text": "x"}), "text"),
    ];
    for (value, format) in cases {
        assert_eq!(detected(&[value]).0, format);
    }
    let (format, why) = detected(&[json!({"text": "a"}), json!({"text": 1}), json!({"text": "b"})]);
    assert_eq!((format.as_str(), why.as_str()), ("text", "2 of the first 3 rows have `text`"));
}

#[test]
fn rows_of_no_known_layout_list_the_columns_and_the_formats() {
    let error = read_as("{}", CHAT, json!({"premise": "x", "label": 1})).unwrap_err();
    assert!(error.contains("no known format fits the columns `premise`, `label`"), "{error}");
    for format in FORMATS {
        assert!(error.contains(format.name()), "{error}");
    }
    assert!(error.contains("prompt_template"), "{error}");
}

/// Each bad row, and what its message must hold.
#[test]
fn a_missing_or_mistyped_field_names_file_row_field_found_and_expected() {
    let cases = [
        (
            "alpaca",
            json!({"instruction": "x"}),
            "field `output`: found no such field; the row has `instruction`, expected text",
        ),
        ("alpaca", json!({"instruction": "x", "output": 4}), "field `output`: found the number 4, expected text"),
        ("alpaca", json!({"instruction": null, "output": "x"}), "field `instruction`: found null, expected text"),
        (
            "alpaca",
            json!({"instruction": "x", "input": ["y"], "output": "z"}),
            "field `input`: found a list of 1 items, expected text or nothing",
        ),
        (
            "alpaca",
            json!({"instruction": "x", "output": "z", "history": [["a"]]}),
            "field `history[0]`: found a list of 1 items, expected a pair",
        ),
        ("messages", json!({"messages": "hi"}), "field `messages`: found the text \"hi\", expected a list"),
        ("messages", json!({"messages": ["hi"]}), "field `messages[0]`: found the text \"hi\", expected an object"),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}),
            "field `messages[1].role`: found the text \"bot\", expected one of system",
        ),
        ("messages", json!({"messages": [{"content": "a"}]}), "field `messages[0].role`: found no such field"),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": 5}]}),
            "field `messages[0].content`: found the number 5, expected text",
        ),
        (
            "messages",
            json!({"messages": [{"role": "assistant", "content": null}]}),
            "field `messages[0].content`: found null",
        ),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "field `messages[0].content[0]`: found an object with `type`, expected a part of type `text`",
        ),
        ("messages", json!({"messages": [], "tools": "{oops"}), "field `tools`: found text that is no JSON"),
        (
            "sharegpt",
            json!({"conversations": [{"from": "alien", "value": "x"}]}),
            "field `conversations[0].from`: found the text \"alien\", expected one of human",
        ),
        (
            "sharegpt",
            json!({"conversations": [{"from": "human"}]}),
            "field `conversations[0].value`: found no such field, expected text",
        ),
        ("sharegpt", json!({"conversations": [7]}), "field `conversations[0]`: found the number 7"),
        (
            "prompt_completion",
            json!({"prompt": "x", "completion": false}),
            "field `completion`: found the truth value false, expected text; next step: turn the value into text",
        ),
        (
            "question_answer",
            json!({"question": "x", "answer": ["a", "b"]}),
            "field `answer`: found a list of 2 items, expected text",
        ),
        ("preference", json!({"prompt": "x", "chosen": "y"}), "field `rejected`: found no such field"),
        ("text", json!({"text": {"a": 1}}), "field `text`: found an object with `a`, expected text"),
    ];
    for (format, value, expected) in cases {
        let error = read_as(&format!("format: {format}"), CHAT, value).unwrap_err();
        assert!(error.starts_with("rows.jsonl: row 3 (line 3), field `"), "{error}");
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(error.contains("next step: "), "{error}");
    }
    // The message names the user's column, not the format's field.
    let error = read_as("{format: prompt_completion, columns: {completion: solution}}", CHAT, json!({"prompt": "x"}));
    assert!(error.unwrap_err().contains("field `solution`: found no such field"));
}

#[test]
fn settings_that_cannot_be_followed_name_their_key() {
    let refused = |yaml: &str, abilities| {
        let source = source(yaml);
        Interpreter::new(&source, abilities, "mix[1].").err().unwrap().to_string()
    };
    assert!(
        refused("format: alpacca", CHAT)
            .starts_with("recipe, `data.mix[1].format`: found `alpacca`, expected `auto`, ")
    );
    assert!(refused("columns: {promt: question}", CHAT).contains("`data.mix[1].columns`: found the field `promt`"));
    assert!(refused("chat_template: always", NO_CHAT).contains("the model has no chat template"));
    assert!(refused("completion_template: x", CHAT).contains("without a `prompt_template`"));
    let alone = refused("wordings: [x]", CHAT);
    assert!(alone.contains("`data.mix[1].wordings`: found `wordings` without a `prompt_template`"), "{alone}");
    let broken = refused("{prompt_template: x, wordings: [y, '{{ z']}", CHAT);
    assert!(broken.contains("`data.mix[1].wordings[1]`: found a template that cannot be read"), "{broken}");
    assert!(refused("{format: alpaca, prompt_template: x}", CHAT).contains("templates take the place of a format"));
    assert_eq!(source("chat_template: never").chat_template, ChatUse::Never);
}
