//! `hone predict`: what can be told of larger or longer-trained models from smaller ones.

mod ladder;

use clap::Subcommand;

use crate::args::Common;
use crate::fail::Failure;

/// Arguments of `hone predict`.
#[derive(clap::Args, Debug)]
pub struct Predict {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Models of one series on the same questions: how evenly each score moves with compute, and where that is lost.
    Ladder(ladder::LadderVerb),
}

impl Predict {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        match self.what {
            What::Ladder(ladder) => ladder.run(common),
        }
    }
}
