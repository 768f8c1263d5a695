//! `hone chat`: talk to a model; with `--versus`, to the base and its tuned version side by side.

use std::io::{BufRead, IsTerminal};
use std::sync::Arc;

use hone_model::generate::generate;
use hone_model::template::Message;
use hone_model::{Hooks, NoHooks};
use serde::Serialize;

use super::generate::Sampling;
use super::load::{ModelArguments, Ready, chat_text};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{out, outln, remark};

/// Arguments of `hone chat`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  hone chat smollm2-135m-instruct --edit runs/first/adapter --versus\n\nCommands while chatting: /reset forgets the conversation, /quit (or Ctrl-D) leaves.\nWith --json the whole conversation is printed when it ends."
)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArguments,
    /// Keep a GGUF's weights in their blocks and multiply in 8-bit integers, as llama.cpp does: faster and smaller, a little
    /// less exact.
    #[arg(long)]
    int8: bool,
    /// Answer twice: without the edit and with it, each with a conversation of its own.
    #[arg(long)]
    versus: bool,
    /// A system message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
}

/// One side of the conversation: its edits, its name, its own history.
#[derive(Serialize)]
struct Side {
    name: &'static str,
    #[serde(skip)]
    hooks: Arc<dyn Hooks>,
    #[serde(rename = "messages")]
    history: Vec<Message>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    sides: Vec<Side>,
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), extra: serde_json::Map::default() }
}

impl Chat {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.versus && self.model.with.edit.is_empty() {
            let hint = "name the tuned side with `--edit DIR`";
            return Err(Failure::user("`--versus` needs something to compare with", hint));
        }
        let ready = self.model.load_for_writing(self.int8, common)?;
        // A model without a template is told so before the first question, not after it.
        chat_text(&ready.model, &[message("user", "Hello")], true)?;
        let mut sides = self.sides(&ready);
        let prompts = std::io::stdin().is_terminal() && !common.json;
        loop {
            if prompts {
                out!("\nyou> ")?;
            }
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            if read.map_err(|error| Failure::from(error).doing("reading standard input"))? == 0 {
                break;
            }
            match line.trim() {
                "" => continue,
                "/quit" | "/exit" => break,
                "/reset" => sides = self.sides(&ready),
                word if is_command(word) => remark!("no command `{word}`; there are /reset and /quit"),
                said => {
                    for side in &mut sides {
                        self.answer(&ready, side, said, common)?;
                    }
                }
            }
        }
        if common.json {
            outln!("{}", serde_json::to_string(&Output { sides })?)?;
        }
        Ok(0)
    }

    fn sides(&self, ready: &Ready) -> Vec<Side> {
        let history: Vec<Message> = self.system.iter().map(|text| message("system", text)).collect();
        let tuned = Side { name: "tuned", hooks: Arc::clone(&ready.hooks), history: history.clone() };
        if self.versus {
            return vec![Side { name: "base", hooks: Arc::new(NoHooks), history }, tuned];
        }
        vec![Side { name: "model", ..tuned }]
    }

    fn answer(&self, ready: &Ready, side: &mut Side, said: &str, common: &Common) -> Result<(), Failure> {
        let (model, shown) = (&ready.model, !common.json);
        side.history.push(message("user", said));
        let text = chat_text(model, &side.history, true)?;
        let ids = model.tokenizer.encode(&text, false)?.ids;
        if shown {
            out!("{}> ", side.name)?;
        }
        // A closed pipe ends the answer.
        let mut show = |_: usize, piece: &str| !shown || out!("{piece}").is_ok();
        let made = generate(model, Arc::clone(&side.hooks), ready.dtype, &[ids], &self.sampling.config(), &mut show)?;
        if shown {
            out!("\n")?;
        }
        let text = made.first().map_or("", |g| g.text.as_str());
        side.history.push(message("assistant", text));
        Ok(())
    }
}

/// Whether a line is meant as a command: one word after a slash. A path has a second slash, a sentence has spaces.
fn is_command(line: &str) -> bool {
    line.strip_prefix('/').is_some_and(|word| !word.is_empty() && word.chars().all(char::is_alphabetic))
}
