//! Which of several edits answers an example: `--route COLUMN` with an `--edit-for VALUE=DIR` for each value of the column.
//!
//! All of them are on one stack, each for the rows of its own group, so examples of different edits share their batches.

use std::path::{Path, PathBuf};

use hone_edit::files::contents_sha256;
use hone_edit::{EditStack, load_edit};
use hone_eval::Applied;
use hone_eval::route::{Route, SHARED};
use hone_model::Model;

use super::load::ModelArguments;
use crate::args::Common;
use crate::fail::Failure;
use crate::print::remark;

/// Edits for some of the examples each.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Routing {
    /// Answer each example with the edit that this column of its row names; `--edit` acts on all examples.
    #[arg(long, value_name = "COLUMN", requires = "edit_for", conflicts_with_all = ["against", "rewards"])]
    pub route: Option<String>,
    /// The edit for examples whose `--route` column is VALUE (may be given several times); `VALUE=` is no edit of their own.
    #[arg(long, value_name = "VALUE=DIR", requires = "route", value_parser = parse)]
    pub edit_for: Vec<EditFor>,
}

/// `VALUE=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditFor {
    /// What the column says.
    pub value: String,
    /// The edit for it; `None` is the model with what acts on all.
    pub directory: Option<PathBuf>,
}

fn parse(text: &str) -> Result<EditFor, String> {
    let (value, directory) = text.split_once('=').filter(|(value, _)| !value.is_empty()).ok_or_else(|| {
        format!("found `{text}`, expected VALUE=DIR, such as `finance=runs/finance/adapter`, or `other=` for no edit")
    })?;
    let directory = (!directory.is_empty()).then(|| PathBuf::from(directory));
    Ok(EditFor { value: value.to_owned(), directory })
}

impl Routing {
    /// What an evaluation needs to know; `None` if nothing is routed.
    ///
    /// # Errors
    /// A value twice.
    pub fn asked(&self) -> Result<Option<Route>, Failure> {
        let Some(column) = &self.route else { return Ok(None) };
        let mut groups: Vec<(String, u32)> = Vec::new();
        for (edit, number) in self.edit_for.iter().zip(1..) {
            if groups.iter().any(|(known, _)| *known == edit.value) {
                let cause = format!("`--edit-for {}=…` is given twice", edit.value);
                return Err(Failure::user(
                    cause,
                    "name one edit for each value; `hone merge` makes one edit of several",
                ));
            }
            groups.push((edit.value.clone(), if edit.directory.is_some() { number } else { SHARED }));
        }
        Ok(Some(Route { column: column.clone(), groups }))
    }

    /// The edits that act on all examples, and those for some of them on top.
    pub fn stack(&self, all: &ModelArguments, model: &Model, common: &Common) -> Result<EditStack, Failure> {
        let mut stack = all.stack(model, common)?.unwrap_or_default();
        for (directory, groups) in self.directories() {
            let loaded = load_edit(directory, model)?;
            if !common.quiet {
                loaded.warnings().for_each(|warning| remark!("note: {}: {warning}", directory.display()));
            }
            for mut entry in loaded.entries {
                entry.groups = Some(groups.clone());
                stack.push(entry)?;
            }
        }
        if let Some(entry) = stack.entries.iter().find(|entry| entry.edit.method.groups().is_some()) {
            let method = entry.edit.method.info().name;
            let cause = format!("`{method}` tells tasks apart by the mark that `--route` puts on an example");
            return Err(Failure::user(
                cause,
                "`hone edit collapse` makes a LoRA adapter of one of its tasks; route to that",
            ));
        }
        Ok(stack)
    }

    /// Each directory once, with the groups that it is for.
    fn directories(&self) -> Vec<(&Path, Vec<u32>)> {
        let mut all: Vec<(&Path, Vec<u32>)> = Vec::new();
        for (edit, number) in self.edit_for.iter().zip(1..) {
            let Some(directory) = edit.directory.as_deref() else { continue };
            match all.iter_mut().find(|(known, _)| *known == directory) {
                Some((_, groups)) => groups.push(number),
                None => all.push((directory, vec![number])),
            }
        }
        all
    }

    /// What is applied, for scorecards: the edits for all, then which is for whom.
    pub fn applied(&self, all: Option<Applied>) -> Result<Option<Applied>, Failure> {
        let Some(column) = &self.route else { return Ok(all) };
        let mut names = Vec::new();
        let mut contents = Vec::new();
        for edit in &self.edit_for {
            let (name, sha256) = match &edit.directory {
                Some(directory) => (directory.display().to_string(), contents_sha256(directory)?),
                None => (String::new(), String::new()),
            };
            names.push(format!("{}={name}", edit.value));
            contents.push(format!("{}={sha256}", edit.value));
        }
        let routed = format!("by `{column}`: {}", names.join(", "));
        let (name, sha256) = match all {
            Some(all) => (format!("{} + {routed}", all.name), format!("{}+{}", all.sha256, contents.join(","))),
            None => (routed, contents.join(",")),
        };
        Ok(Some(Applied { name, sha256 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_before_the_first_equals_sign() {
        let read = |text: &str| parse(text).map(|edit| (edit.value, edit.directory));
        assert_eq!(read("law=runs/lr=3/adapter"), Ok(("law".into(), Some("runs/lr=3/adapter".into()))));
        assert_eq!(read("other="), Ok(("other".into(), None)));
        assert!(read("law").is_err() && read("=runs/a").is_err());
    }

    #[test]
    fn one_directory_may_be_for_several_values() {
        let edit_for = ["a=x", "b=", "c=x", "d=y"].map(|text| parse(text).unwrap()).to_vec();
        let routing = Routing { route: Some("domain".into()), edit_for };
        let groups = routing.asked().unwrap().unwrap().groups;
        assert_eq!(groups, [("a".into(), 1), ("b".into(), SHARED), ("c".into(), 3), ("d".into(), 4)]);
        assert_eq!(routing.directories(), [(Path::new("x"), vec![1, 3]), (Path::new("y"), vec![4])]);
    }
}
