//! `hone data`: training data as the model will see it, what it asks of the model, and what of it is held out.

mod alignment;
mod levels;
mod show;

use crate::args::Common;
use crate::fail::Failure;

pub use show::example_lines;

/// Arguments of `hone data`.
#[derive(clap::Args, Debug)]
pub struct Data {
    #[command(subcommand)]
    verb: DataVerb,
}

#[derive(clap::Subcommand, Debug)]
enum DataVerb {
    /// Three examples with their trained tokens coloured, and what was read, dropped and cut.
    Show(show::Show),
    /// Whether the sources of a mix pull the same way: the angles between their gradients.
    Alignment(alignment::AlignmentVerb),
    /// Split a collection of tasks into what is trained on and three levels of what is not: rows, tasks, categories.
    Levels(levels::LevelsVerb),
}

impl Data {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        match self.verb {
            DataVerb::Show(show) => show.run(common),
            DataVerb::Alignment(alignment) => alignment.run(common),
            DataVerb::Levels(levels) => levels.run(common),
        }
    }
}
