//! `hone bench`: how fast this machine trains and generates, and what share of its own ceiling that is.

mod decode;
mod step;

use serde::Serialize;

use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;

/// Arguments of `hone bench`.
#[derive(clap::Args, Debug)]
pub struct Bench {
    #[command(subcommand)]
    verb: BenchVerb,
}

#[derive(clap::Subcommand, Debug)]
enum BenchVerb {
    /// Training steps on random tokens.
    Step(step::Step),
    /// Reading a prompt and writing on from it.
    Decode(decode::Decode),
}

impl Bench {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        match self.verb {
            BenchVerb::Step(step) => step.run(common),
            BenchVerb::Decode(decode) => decode.run(common),
        }
    }
}

/// Prints what was measured: one JSON document, or a line a figure.
fn print(figures: &impl Serialize, common: &Common) -> Result<(), Failure> {
    let value = serde_json::to_value(figures)?;
    if common.json {
        outln!("{value}")?;
        return Ok(());
    }
    for (name, value) in value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_array()) {
        let shown = match value.as_f64() {
            Some(number) if number.fract() != 0.0 && number.abs() < 100.0 => format!("{number:.4}"),
            Some(number) => super::tune_progress::thousands(number.round() as u64),
            None => value.to_string().trim_matches('"').to_owned(),
        };
        outln!("{:<28} {shown}", name.replace('_', " "))?;
    }
    Ok(())
}
