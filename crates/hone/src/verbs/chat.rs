//! `hone chat`: talk to a model; with `--versus`, to the base and its tuned version side by side.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use hone_model::generate::generate;
use hone_model::template::Message;
use hone_model::{Hooks, Model, NoHooks};

use super::generate::Sampling;
use super::load::{ModelArguments, Ready, chat_text};
use crate::args::Common;
use crate::fail::Failure;

/// Arguments of `hone chat`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  hone chat smollm2-135m-instruct --edit runs/first/adapter --versus\n\nCommands while chatting: /reset forgets the conversation, /quit (or Ctrl-D) leaves."
)]
pub struct Chat {
    #[command(flatten)]
    model: ModelArguments,
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
struct Side {
    name: &'static str,
    hooks: Arc<dyn Hooks>,
    history: Vec<Message>,
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into(), extra: serde_json::Map::default() }
}

impl Chat {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        if self.versus && self.model.edit.is_empty() {
            let hint = "name the tuned side with `--edit DIR`";
            return Err(Failure::user("`--versus` needs something to compare with", hint));
        }
        let ready = self.model.load(common)?;
        // A model without a template is told so before the first question, not after it.
        chat_text(&ready.model, &[message("user", "Hello")], true)?;
        let mut sides = self.sides(&ready);
        let terminal = std::io::stdin().is_terminal();
        loop {
            if terminal {
                print!("\nyou> ");
                std::io::stdout().flush()?;
            }
            let mut line = String::new();
            if std::io::stdin().lock().read_line(&mut line)? == 0 {
                return Ok(0);
            }
            match line.trim() {
                "" => continue,
                "/quit" | "/exit" => return Ok(0),
                "/reset" => sides = self.sides(&ready),
                said => {
                    for side in &mut sides {
                        self.answer(&ready.model, ready.dtype, side, said)?;
                    }
                }
            }
        }
    }

    fn sides(&self, ready: &Ready) -> Vec<Side> {
        let history: Vec<Message> = self.system.iter().map(|text| message("system", text)).collect();
        let tuned = Side { name: "tuned", hooks: Arc::clone(&ready.hooks), history: history.clone() };
        if self.versus {
            return vec![Side { name: "base", hooks: Arc::new(NoHooks), history }, tuned];
        }
        vec![Side { name: "model", ..tuned }]
    }

    fn answer(&self, model: &Model, dtype: hone_engine::DType, side: &mut Side, said: &str) -> Result<(), Failure> {
        side.history.push(message("user", said));
        let text = chat_text(model, &side.history, true)?;
        let ids = model.tokenizer.encode(&text, false)?.ids;
        print!("{}> ", side.name);
        let mut show = |_: usize, piece: &str| {
            print!("{piece}");
            std::io::stdout().flush().is_ok()
        };
        let made = generate(model, Arc::clone(&side.hooks), dtype, &[ids], &self.sampling.config(), &mut show)?;
        println!();
        let text = made.first().map_or("", |g| g.text.as_str());
        side.history.push(message("assistant", text));
        Ok(())
    }
}
