//! Rendered chats equal those of `transformers` to the character (`tools/golden/chats.py`), errors of templates included.

mod common;

use std::path::{Path, PathBuf};

use hone_model::files::ModelFiles;
use hone_model::template::{ChatTemplate, Message};
use hone_model::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

fn golden() -> Value {
    let text = std::fs::read_to_string("tests/golden/chats.json").expect("in the tree");
    serde_json::from_str(&text).expect("JSON")
}

fn source(name: &str) -> (PathBuf, String) {
    let path = PathBuf::from(format!("tests/golden/templates/{name}.jinja"));
    let source = std::fs::read_to_string(&path).expect("in the tree");
    (path, source)
}

fn template(name: &str, special_tokens: &Value) -> ChatTemplate {
    let (path, source) = source(name);
    let special_tokens = special_tokens.as_object().expect("an object").clone();
    ChatTemplate::new(&path, source, None, special_tokens).expect("compiles")
}

fn messages(conversation: &Value) -> Vec<Message> {
    serde_json::from_value(conversation["messages"].clone()).expect("messages")
}

/// Byte ranges as the character ranges that Python counts.
fn in_characters(text: &str, range: &std::ops::Range<usize>) -> Value {
    let count = |at: usize| text[..at].chars().count();
    json!([count(range.start), count(range.end)])
}

#[test]
fn chats_are_those_of_transformers() {
    let golden = golden();
    let mut compiled: Map<String, Value> = Map::new();
    let mut template_now: Option<(String, ChatTemplate)> = None;
    for row in golden["rendered"].as_array().expect("rows") {
        let name = row["template"].as_str().expect("a name");
        if template_now.as_ref().is_none_or(|(now, _)| now != name) {
            template_now = Some((name.to_owned(), template(name, &golden["special_tokens"])));
            compiled.insert(name.to_owned(), json!(0));
        }
        let (_, template) = template_now.as_ref().expect("just set");
        let conversation = &golden["conversations"][row["conversation"].as_u64().expect("an index") as usize];
        let variables = conversation["variables"].as_object().expect("an object");
        let prompt = row["prompt"] == true;
        let messages = messages(conversation);
        match (template.render_with_generation(&messages, prompt, variables), row["error"].as_str()) {
            (Ok((text, ranges)), None) => {
                let hash: String = Sha256::digest(&text).iter().take(6).map(|b| format!("{b:02x}")).collect();
                assert_eq!(hash, row["sha256"].as_str().expect("a hash"), "{row}: {messages:?} became\n{text}");
                if let Some(expected) = row["ranges"].as_array() {
                    let ours: Vec<Value> = ranges.iter().map(|range| in_characters(&text, range)).collect();
                    assert_eq!(&ours, expected, "{row}: {text}");
                }
                assert_eq!(template.render(&messages, prompt, variables).expect("again"), text);
            }
            (Err(error), Some(theirs)) => {
                let message = error.to_string();
                assert!(message.contains(&format!("{name}.jinja")), "{message}");
                // The template's own words arrive whole; errors of the renderer only have to be errors.
                if let Some(raised) = theirs.strip_prefix("TemplateError: ") {
                    assert!(message.contains("refuses") && message.ends_with(raised), "{message}");
                }
            }
            (ours, theirs) => panic!("{row}: ours {ours:?}, theirs {theirs:?}"),
        }
    }
    assert_eq!(compiled.len(), 8);
}

#[test]
fn gguf_files_have_the_templates_compared_above() {
    let expected = [Some("smollm2"), None, Some("qwen25")];
    for ((model, file), expected) in common::GGUF_MODELS.into_iter().zip(expected) {
        let Some(path) = common::cached(file) else { continue };
        let files = ModelFiles::open(&path).expect("opens");
        let tokenizer = Tokenizer::from_files(&files).expect("a tokenizer");
        let template = ChatTemplate::from_files(&files, &tokenizer).expect("compiles");
        let end = template.as_ref().and_then(|template| template.end_of_turn(&tokenizer));
        assert_eq!(end, expected.and_then(|_| tokenizer.token_to_id("<|im_end|>")), "{model}");
        assert_eq!(template.map(|t| t.source), expected.map(|name| source(name).1), "{model}");
    }
}

#[test]
fn templates_are_found_where_directories_keep_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
    write("config.json", r#"{"model_type": "llama", "bos_token_id": 1, "eos_token_id": [2, 0]}"#);
    std::fs::copy("../../assets/stories260k/tokenizer.json", directory.path().join("tokenizer.json")).expect("copied");
    let find = || {
        let files = ModelFiles::open(directory.path()).expect("opens");
        let tokenizer = Tokenizer::from_files(&files).expect("a tokenizer");
        ChatTemplate::from_files(&files, &tokenizer)
    };
    let say = |template: &ChatTemplate, variables: Value| {
        let message = Message { role: "user".into(), content: "hi".into(), extra: Map::new() };
        template.render(&[message], false, variables.as_object().expect("an object")).expect("renders")
    };
    assert!(find().expect("no template is no error").is_none());

    let named = json!([{"name": "default", "template": "{{ messages[0].content }}"},
                       {"name": "tool_use", "template": "{{ tools | length }} tools"}]);
    write("tokenizer_config.json", &json!({"eos_token": {"content": "</s>"}, "chat_template": named}).to_string());
    let template = find().expect("compiles").expect("there");
    assert_eq!(say(&template, json!({})), "hi");
    assert_eq!(say(&template, json!({"tools": [1, 2]})), "2 tools");

    write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "</s>"}, "chat_template": "{{ eos_token }}{{ bos_token }}!"}"#,
    );
    assert_eq!(say(&find().expect("compiles").expect("there"), json!({})), "</s>!");
    write("chat_template.jinja", "{{ 1 + 1 }}");
    assert_eq!(say(&find().expect("compiles").expect("there"), json!({})), "2");

    write("chat_template.jinja", "{% for %}");
    let message = find().err().expect("does not compile").to_string();
    assert!(message.contains("chat_template.jinja") && message.contains("does not compile"), "{message}");
}

#[test]
fn hostile_templates_end_in_errors() {
    let deep = format!("{{{{ {}1{} }}}}", "[".repeat(2000), "]".repeat(2000));
    let endless = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}";
    let path = Path::new("hostile.jinja");
    for source in [deep.as_str(), endless, "{{ range(1000000000) | list }}", "{{ 'x'.nothing() }}", "{{ a.b.c }}"] {
        let template = ChatTemplate::new(path, source.to_owned(), None, Map::new());
        let outcome = template.and_then(|template| template.render(&[], false, &Map::new()));
        let message = outcome.expect_err("must be refused").to_string();
        assert!(message.starts_with("hostile.jinja: chat template: it "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}
