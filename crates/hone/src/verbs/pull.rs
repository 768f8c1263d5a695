//! `hone pull`: a model into the cache.

use std::path::PathBuf;

use hone_model::pull;
use serde::Serialize;

use crate::args::Common;
use crate::fail::Failure;
use crate::print::outln;
use crate::progress;

/// Arguments of `hone pull`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone pull smollm2-135m-instruct
  hone pull HuggingFaceTB/SmolLM2-360M-Instruct     # any repository of the hub
  hone pull --list")]
pub struct Pull {
    /// A name hone knows, or `organisation/repository` of the hub.
    #[arg(required_unless_present = "list")]
    model: Option<String>,
    /// List the names hone knows and end.
    #[arg(long)]
    list: bool,
}

#[derive(Serialize)]
struct Output {
    model: String,
    path: PathBuf,
}

impl Pull {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let Some(model) = self.model.filter(|_| !self.list) else {
            let names: Vec<&str> = pull::known().collect();
            if common.json {
                outln!("{}", serde_json::to_string(&names)?)?;
            } else {
                names.iter().try_for_each(|name| outln!("{name}"))?;
            }
            return Ok(0);
        };
        let path = resolve(&model, common)?;
        if common.json {
            outln!("{}", serde_json::to_string(&Output { model, path })?)?;
        } else {
            outln!("{}", path.display())?;
        }
        Ok(0)
    }
}

/// The place of a model: a path as it is, a name from the cache, fetched first if it is not there.
pub fn resolve(reference: &str, common: &Common) -> Result<PathBuf, Failure> {
    let bar = progress::spinner("fetching", common.quiet || common.json);
    let path = pull::resolve(reference, &mut |message| bar.set_message(message.to_string()));
    bar.finish_and_clear();
    Ok(path?)
}
