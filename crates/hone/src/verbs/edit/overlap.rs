//! `hone edit overlap`: how many of the elements that one sparse edit changes does another change, too, and how many by chance?

use std::path::{Path, PathBuf};

use hone_edit::files::read_edit;
use hone_edit::overlap::{Counts, Named, Overlap as Found, Part, overlap};
use hone_edit::{Base, Edit, EditError};
use serde::Serialize;

use super::{base_model, grouped};
use crate::args::Common;
use crate::fail::Failure;
use crate::print::{outln, remark};

/// Arguments of `hone edit overlap`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  hone edit overlap runs/graft-a runs/graft-b
  hone edit overlap runs/graft-a runs/graft-b --json | jq .ratio    # 1 is what chance would have")]
pub struct Overlap {
    /// An adapter directory, or a run's: a graft, a sparse delta, given places, a mask.
    a: PathBuf,
    /// Another of the same base model.
    b: PathBuf,
    /// The base model, where it is not at the place that the first adapter names.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    a: Side<'a>,
    b: Side<'a>,
    #[serde(flatten)]
    found: &'a Found,
}

/// One of the two edits.
#[derive(Serialize)]
struct Side<'a> {
    edit: &'a Path,
    method: &'static str,
}

impl Overlap {
    /// Runs the verb.
    pub fn run(self, common: &Common) -> Result<u8, Failure> {
        let model = base_model(&self.a, self.model.as_deref(), common)?;
        let base = Base::of(&model);
        let (a, b) = (read(&self.a, &base, common)?, read(&self.b, &base, common)?);
        let names = [&self.a, &self.b].map(|dir| dir.display().to_string());
        let found = overlap(Named { name: &names[0], edit: &a }, Named { name: &names[1], edit: &b }, &base)?;
        let method = |edit: &Edit| edit.method.info().name;
        let sides = [Side { edit: &self.a, method: method(&a) }, Side { edit: &self.b, method: method(&b) }];
        if common.json {
            let [a, b] = sides;
            outln!("{}", serde_json::to_string(&Output { a, b, found: &found })?)?;
            return Ok(0);
        }
        print(&sides, &found)?;
        Ok(0)
    }
}

/// The edit in `dir` for `base`.
fn read(dir: &Path, base: &Base, common: &Common) -> Result<Edit, Failure> {
    let edit = read_edit(dir, base).map_err(|error| {
        let other = matches!(error, EditError::OtherBase(_));
        let failure = Failure::from(error);
        if !other {
            return failure;
        }
        let hint = "an overlap is of two edits of one base model; compare edits that were made for the same";
        Failure { hint: Some(hint.to_string()), ..failure }
    })?;
    if !common.quiet {
        edit.warnings.iter().for_each(|warning| remark!("note: {}: {warning}", dir.display()));
    }
    Ok(edit)
}

fn print(sides: &[Side; 2], found: &Found) -> Result<(), Failure> {
    let counts = &found.counts;
    for (letter, side, changed) in [("A", &sides[0], counts.changed_a), ("B", &sides[1], counts.changed_b)] {
        outln!("{letter}  {}: `{}`, {} elements changed", side.edit.display(), side.method, grouped(changed))?;
    }
    outln!("\n{} are changed by both: {} of A's.", grouped(counts.both), per_cent(counts.share))?;
    outln!(
        "Chance would have {}, B's part of the {} elements of the weights that either acts on: {} times as many.",
        per_cent(counts.chance),
        grouped(counts.elements),
        times(counts.ratio)
    )?;
    table("layer", &found.layers)?;
    table("kind", &found.kinds)
}

fn table(what: &str, parts: &[Part]) -> Result<(), Failure> {
    if parts.is_empty() {
        return Ok(());
    }
    let width = parts.iter().map(|part| part.part.len()).chain([what.len()]).max().unwrap_or(0);
    let line = |part: &str, cells: [String; 7]| {
        let [elements, a, b, both, share, chance, ratio] = cells;
        outln!("{part:>width$}  {elements:>11} {a:>10} {b:>10} {both:>10} {share:>9} {chance:>9} {ratio:>7}")
    };
    outln!("")?;
    line(what, ["elements", "A", "B", "both", "of A's", "chance", "ratio"].map(String::from))?;
    for Part { part, counts: Counts { elements, changed_a, changed_b, both, share, chance, ratio } } in parts {
        let counted = [elements, changed_a, changed_b, both].map(|count| grouped(*count));
        let [elements, a, b, both] = counted;
        line(part, [elements, a, b, both, per_cent(*share), per_cent(*chance), times(*ratio)])?;
    }
    Ok(())
}

fn per_cent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.3} %", 100.0 * share))
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
}
