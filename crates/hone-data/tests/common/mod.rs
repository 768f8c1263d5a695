//! A codec for tests: real Jinja templates and a small tokenizer whose tokens are easy to read in a failing test.
#![allow(dead_code)] // Each test file uses a part.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hone_data::{Abilities, Body, Codec, CodecError, Encoded, Example, Message, SourceRef};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::{Map, Value};

pub const BOS: u32 = 1;
pub const EOS: u32 = 2;

/// Tokens are special markers (`<…>`, `[/INST]`), words with the space before them, and single characters.
pub struct TestCodec {
    pub template: Option<String>,
    pub max_length: usize,
    pub add_bos: bool,
    pub vocabulary: Mutex<HashMap<u32, String>>,
}

impl TestCodec {
    pub fn plain() -> TestCodec {
        TestCodec { template: None, max_length: 4096, add_bos: true, vocabulary: Mutex::default() }
    }

    /// With the template `tests/fixtures/templates/NAME.jinja`.
    pub fn chat(name: &str) -> TestCodec {
        let text = std::fs::read_to_string(fixture(&format!("templates/{name}.jinja"))).unwrap();
        TestCodec { template: Some(text), ..TestCodec::plain() }
    }

    /// The text of the tokens that are (or are not) trained.
    pub fn text_of(&self, ids: &[u32], trained: &[bool], which: bool) -> String {
        ids.iter().zip(trained).filter(|(_, t)| **t == which).map(|(id, _)| self.token_text(*id)).collect()
    }
}

/// End of the token that starts at the front of `text`.
fn token_end(text: &str) -> usize {
    let marker = |open: char, close: char| {
        let (inside, _) = text.strip_prefix(open)?.split_once(close)?;
        (!inside.is_empty() && !inside.contains(' ')).then_some(inside.len() + 2)
    };
    if let Some(end) = marker('<', '>').or_else(|| marker('[', ']')) {
        return end;
    }
    let space = usize::from(text.starts_with(' '));
    let word = text[space..].find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len() - space);
    match word {
        0 => text.chars().next().map_or(0, char::len_utf8),
        word => space + word,
    }
}

impl Codec for TestCodec {
    fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, CodecError> {
        let mut encoded = Encoded::default();
        if add_special && self.add_bos {
            encoded.ids.push(BOS);
            encoded.offsets.push((0, 0));
        }
        let mut vocabulary = self.vocabulary.lock().unwrap();
        let mut at = 0;
        while at < text.len() {
            let end = at + token_end(&text[at..]);
            let piece = &text[at..end];
            let id = piece.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193)) | 16;
            vocabulary.insert(id, piece.to_string());
            encoded.ids.push(id);
            encoded.offsets.push((at, end));
            at = end;
        }
        Ok(encoded)
    }

    fn token_text(&self, id: u32) -> String {
        match id {
            BOS => "<s>".into(),
            EOS => "</s>".into(),
            _ => self.vocabulary.lock().unwrap().get(&id).cloned().unwrap_or_else(|| format!("<{id}>")),
        }
    }

    fn render_chat(
        &self,
        messages: &[Message],
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<String, CodecError> {
        let template = self.template.as_ref().ok_or("the model has no chat template")?;
        let mut environment = Environment::new();
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let rest: HashMap<&String, &Value> = variables.iter().collect();
        let context = context! {
            messages => minijinja::value::Serde(messages),
            add_generation_prompt,
            bos_token => "<s>",
            eos_token => "</s>",
            ..minijinja::Value::from(minijinja::value::Serde(rest))
        };
        Ok(environment.render_str(template, context)?)
    }

    fn abilities(&self) -> Abilities {
        let tool_calls = self.template.as_ref().is_some_and(|t| t.contains("tool_calls"));
        Abilities { chat_template: self.template.is_some(), tool_calls }
    }

    fn end_of_turn_ids(&self) -> &[u32] {
        &[EOS]
    }

    fn bos(&self) -> Option<u32> {
        Some(BOS)
    }

    fn eos(&self) -> Option<u32> {
        Some(EOS)
    }

    fn max_length(&self) -> usize {
        self.max_length
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn place(row: usize) -> SourceRef {
    SourceRef { file: Arc::from(Path::new("rows.jsonl")), row, line: Some(row) }
}

pub fn example(body: Body) -> Example {
    Example { source: place(1), part: 0, wording: 0, body }
}

pub fn turns(list: &[(&str, &str)]) -> Vec<Message> {
    list.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

/// The directory of real data sets (`HONE_DATA`), or `None` and a line that says what was skipped.
pub fn real_data(what: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HONE_DATA").map(PathBuf::from).filter(|p| p.is_dir());
    if root.is_none() {
        eprintln!("skipped: {what} (set HONE_DATA to the directory of the data sets)");
    }
    root
}
