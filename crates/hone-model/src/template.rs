//! Chat templates: Jinja as Hugging Face's `apply_chat_template` renders it.
//!
//! A template is found in `chat_template.jinja`, in `tokenizer_config.json` (a text, or a list of named texts: `default`
//! and `tool_use` are used), or in a GGUF file's metadata. It is rendered by `minijinja` set up as `transformers` sets up
//! Jinja2: `trim_blocks`, `lstrip_blocks`, `break` and `continue`, methods of Python's texts and dicts, values printed as
//! Python prints them ([`python`]), `raise_exception`, `strftime_now`, `tojson`.
//!
//! `{% generation %}` tags are honoured ([`ChatTemplate::render_with_generation`]). Templates without them are the
//! business of who needs to know where a turn lies: rendering parts of a conversation shows it, and no template has to be
//! known for that.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use crate::error::ModelError;
use crate::files::{ModelFiles, read_json};
use crate::tokenizer::Tokenizer;

mod generation;
pub mod json;
mod python;

/// Longest template accepted; the longest in use have some 20 kB.
const MAX_TEMPLATE: u64 = 4 << 20;
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// A message of a conversation. Extra fields (tool calls …) are handed to the template as they are.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Anything else the row had.
    #[serde(flatten)]
    pub extra: Map<String, Json>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    /// The template's source.
    pub source: String,
    /// The template for conversations with tools, where the model has another one for them.
    pub tool_use_source: Option<String>,
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` …
    special_tokens: Map<String, Json>,
    path: PathBuf,
}

impl ChatTemplate {
    /// A model's chat template; `None` where it has none.
    pub fn from_files(files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ModelError> {
        let (path, sources) = match files {
            ModelFiles::Directory(directory) => from_directory(directory)?,
            ModelFiles::Gguf(gguf) => {
                let text = |key: &str| Ok::<_, ModelError>(gguf.text(key)?.map(str::to_owned));
                let sources = (text("tokenizer.chat_template")?, text("tokenizer.chat_template.tool_use")?);
                (gguf.path().to_owned(), sources)
            }
        };
        let (Some(source), tool_use) = sources else { return Ok(None) };
        ChatTemplate::new(&path, source, tool_use, tokenizer.special_tokens()).map(Some)
    }

    /// Compiles a template. `path` is named in errors; `special_tokens` (`bos_token` …) are variables of the template.
    pub fn new(
        path: &Path,
        source: String,
        tool_use: Option<String>,
        special_tokens: Map<String, Json>,
    ) -> Result<ChatTemplate, ModelError> {
        let mut environment = environment();
        for (name, source) in [(DEFAULT, Some(&source)), (TOOL_USE, tool_use.as_ref())] {
            let Some(source) = source else { continue };
            environment.add_template_owned(name, generation::as_filter(source)).map_err(|e| broken(path, &e))?;
        }
        let path = path.to_owned();
        Ok(ChatTemplate { source, tool_use_source: tool_use, environment, special_tokens, path })
    }

    /// Renders a conversation; `add_generation_prompt` opens the assistant's turn. `variables` are further template
    /// variables (`tools`, `enable_thinking`).
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Json>,
    ) -> Result<String, ModelError> {
        let rendered = self.marked(messages, add_generation_prompt, variables)?;
        Ok(generation::split(&rendered).0)
    }

    /// The token that ends the assistant's turn: the first special token behind its text. `None` where the template
    /// puts none there, or does not take a plain question and answer.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const ANSWER: &str = "the answer";
        let message = |role: &str, content: &str| Message {
            role: role.to_owned(),
            content: content.to_owned(),
            extra: Map::new(),
        };
        let messages = [message("user", "the question"), message("assistant", ANSWER)];
        let text = self.render(&messages, false, &Map::new()).ok()?;
        let behind = text.rfind(ANSWER)? + ANSWER.len();
        let encoding = tokenizer.encode(&text[behind..], false).ok()?;
        encoding.ids.into_iter().find(|id| tokenizer.is_special(*id))
    }

    /// Whether the template marks what the model writes by `{% generation %}`.
    pub fn has_generation_tags(&self) -> bool {
        let tool_use = self.tool_use_source.as_deref().unwrap_or_default();
        generation::has_tags(&self.source) || generation::has_tags(tool_use)
    }

    /// As [`ChatTemplate::render`], with the byte ranges that the template's `{% generation %}` tags enclose, in order.
    pub fn render_with_generation(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Json>,
    ) -> Result<(String, Vec<std::ops::Range<usize>>), ModelError> {
        let rendered = self.marked(messages, add_generation_prompt, variables)?;
        Ok(generation::split(&rendered))
    }

    fn marked(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, Json>,
    ) -> Result<String, ModelError> {
        // As in transformers: what the caller did not give is there and none.
        let mut all = self.special_tokens.clone();
        all.insert("tools".to_owned(), Json::Null);
        all.insert("documents".to_owned(), Json::Null);
        all.extend(variables.clone());
        all.insert("add_generation_prompt".to_owned(), Json::Bool(add_generation_prompt));
        let name = if self.tool_use_source.is_some() && !all["tools"].is_null() { TOOL_USE } else { DEFAULT };
        let messages = ("messages".to_owned(), Value::from(Serde(messages)));
        let variables = all.into_iter().map(|(name, value)| (name, Value::from(Serde(value))));
        let context = Value::from_pairs(variables.chain([messages]));

        let template = self.environment.get_template(name).map_err(|e| broken(&self.path, &e))?;
        template.render(context).map_err(|e| refused(&self.path, &e))
    }
}

/// Where a directory keeps its template, and the default and the tool-use one.
fn from_directory(directory: &Path) -> Result<(PathBuf, (Option<String>, Option<String>)), ModelError> {
    let path = directory.join("chat_template.jinja");
    if let Some(source) = read_text(&path)? {
        let tool_use = read_text(&directory.join("additional_chat_templates").join("tool_use.jinja"))?;
        return Ok((path, (Some(source), tool_use)));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let path = directory.join(name);
        let Some(config) = read_json(&path)? else { continue };
        match &config["chat_template"] {
            Json::Null => {}
            Json::String(source) => return Ok((path, (Some(source.clone()), None))),
            Json::Array(named) => {
                let find = |name: &str| {
                    let entry = named.iter().find(|entry| entry["name"] == name)?;
                    entry["template"].as_str().map(str::to_owned)
                };
                return Ok((path, (find(DEFAULT), find(TOOL_USE))));
            }
            other => {
                let expected = "a text, or a list of objects with `name` and `template`";
                return Err(ModelError::malformed(&path, "`chat_template`", other.to_string(), expected));
            }
        }
    }
    Ok((path, (None, None)))
}

fn read_text(path: &Path) -> Result<Option<String>, ModelError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_TEMPLATE => {
            let expected = format!("at most {MAX_TEMPLATE}; this is no chat template");
            Err(ModelError::malformed(path, "size", format!("{} bytes", metadata.len()), expected))
        }
        Ok(_) => std::fs::read_to_string(path).map(Some).map_err(ModelError::io(path)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ModelError::io(path)(e)),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Only odd delimiters can fail, and these are the usual ones.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(python::write);
    environment.add_filter("string", python::to_text);
    environment.add_filter("tojson", json::to_json);
    environment.add_filter(generation::FILTER, generation::mark);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// The marker in an error of [`raise_exception`], which is the template's word and no fault of it.
const RAISED: &str = "raised by the template: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// The time now (UTC) by a `strftime` format.
fn strftime_now(state: &State, format: String) -> Result<String, Error> {
    let options = minijinja::value::Kwargs::from_iter([("format", Value::from(format))]);
    minijinja_contrib::filters::datetimeformat(state, minijinja_contrib::globals::now(), options)
}

fn broken(path: &Path, error: &Error) -> ModelError {
    ModelError::Template { path: path.to_owned(), reason: format!("it does not compile: {}", chain(error)) }
}

fn refused(path: &Path, error: &Error) -> ModelError {
    let reason = match error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
        Some(message) => format!("it refuses this conversation: {message}"),
        None => format!("it cannot render this conversation: {}", chain(error)),
    };
    ModelError::Template { path: path.to_owned(), reason }
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
