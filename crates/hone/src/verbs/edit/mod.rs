//! `hone edit`: what methods there are, what is in an adapter, and where two of them meet.

mod collapse;
mod inspect;
mod list;
mod overlap;

use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;
use hone_edit::files::base_reference;
use hone_engine::DType;
use hone_model::Model;

use super::load::load_model;
use crate::args::Common;
use crate::fail::Failure;

/// Arguments of `hone edit`.
#[derive(clap::Args, Debug)]
pub struct EditVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// The methods: family, parameters for a model, memory, what they can and cannot.
    List(list::List),
    /// An adapter: its tensors, how much it changes each weight and in how many directions.
    Inspect(inspect::Inspect),
    /// A routed adapter (Poly, MHR, AdaMix) as the plain LoRA adapter that it is for one task.
    Collapse(collapse::Collapse),
    /// Two sparse edits: how many of the elements that one changes the other changes too, and what chance would have.
    Overlap(overlap::Overlap),
}

impl EditVerb {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        match self.what {
            What::List(list) => list.run(common),
            What::Inspect(inspect) => inspect.run(common),
            What::Collapse(collapse) => collapse.run(common),
            What::Overlap(overlap) => overlap.run(common),
        }
    }
}

/// The model that the adapter in `dir` was made for, `f32`: the one that is named, or that the adapter names.
fn base_model(dir: &Path, named: Option<&str>, common: &Common) -> Result<Arc<Model>, Failure> {
    let reference = named.map_or_else(|| base_reference(dir), |named| Ok(named.to_owned()))?;
    load_model(&reference, DType::F32, common).map_err(|failure| match named {
        Some(_) => failure,
        None => {
            let what = format!("{}: loading its base model `{reference}`", dir.display());
            Failure { hint: Some("name the base model with `--model`".into()), ..failure.doing(what) }
        }
    })
}

/// A count with thin thousands: `4 884 480`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let groups = digits.as_bytes()[first..].chunks(3).map(|g| String::from_utf8_lossy(g).into_owned());
    let head = (first > 0).then(|| digits[..first].to_string());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_stand_apart() {
        let shown = [0, 999, 1000, 4_884_480].map(super::grouped);
        assert_eq!(shown, ["0", "999", "1 000", "4 884 480"]);
    }
}
