//! Measures of a comparison that are made of what other verbs wrote, not of its scorecards: each is an option that names the
//! directory, and a name of `--measure` all the same, so that who asks for it by name learns how to make it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hone_eval::explain::measured::read_rows;
use hone_eval::files::is_file_name;
use hone_eval::measures::MeasureResult;
use hone_locate::measure::{attention, dependency};
use hone_locate::{AttentionReport, DependencyReport, scored};
use hone_predict::{Ladder, found, measure as ladder};
use hone_report::Source;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fail::Failure;
use crate::verbs::sources;

/// Where what other verbs wrote lies.
#[derive(clap::Args, Debug)]
pub struct Given {
    /// What `hone locate attention --before` wrote: the page then shows where both models look, too.
    #[arg(long, value_name = "DIR")]
    attention: Option<PathBuf>,
    /// What `hone locate context-dependency --before --report` wrote: how much answers depend on what the user gave.
    #[arg(long, value_name = "DIR")]
    dependency: Option<PathBuf>,
    /// What `hone predict ladder` wrote: how evenly scores move with compute, and where that is lost.
    #[arg(long, value_name = "DIR")]
    ladder: Option<PathBuf>,
}

/// A measure that another verb makes.
pub struct Kind {
    /// What it is called.
    pub name: &'static str,
    /// The question it answers.
    pub question: &'static str,
    /// The verb, as it is called for this.
    verb: &'static str,
    /// The file it writes into its directory.
    file: &'static str,
    /// The directory that was given.
    given: fn(&Given) -> Option<&PathBuf>,
    /// Makes the measure of what is in the directory.
    read: fn(&Kind, &Path) -> Result<MeasureResult, Failure>,
}

/// The measures that other verbs make.
pub static KINDS: [Kind; 3] = [
    Kind {
        name: attention::NAME,
        question: attention::QUESTION,
        verb: "hone locate attention MODEL --before OTHER --out DIR",
        file: "attention.json",
        given: |given| given.attention.as_ref(),
        read: |kind, directory| Ok(attention::of(&kind.json::<AttentionReport>(directory)?)),
    },
    Kind {
        name: dependency::NAME,
        question: dependency::QUESTION,
        verb: "hone locate context-dependency MODEL --before OTHER --report DIR",
        file: scored::FILE,
        given: |given| given.dependency.as_ref(),
        read: |kind, directory| Ok(dependency::of(&kind.json::<DependencyReport>(directory)?)),
    },
    Kind {
        name: ladder::NAME,
        question: ladder::QUESTION,
        verb: "hone predict ladder CARDS … --compute … --out DIR",
        file: found::FILE,
        given: |given| given.ladder.as_ref(),
        read: |kind, directory| kind.ladder(directory),
    },
];

/// The measure of this name that another verb makes.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl Given {
    /// Refuses a measure that is asked for by name without what it is made of.
    pub fn check(&self, names: &[String]) -> Result<(), Failure> {
        let missing = names.iter().filter_map(|name| kind(name)).find(|kind| (kind.given)(self).is_none());
        let Some(Kind { name, verb, .. }) = missing else { return Ok(()) };
        let cause = format!("--measure {name}: it is not made of scorecards, but of what `{verb}` writes");
        Err(Failure::user(cause, format!("name that directory: --{name} DIR")))
    }

    /// Every measure whose directory was given, with the file it is made of.
    pub fn measures(&self) -> Result<Vec<(PathBuf, MeasureResult)>, Failure> {
        let mut all = Vec::new();
        for kind in &KINDS {
            if let Some(directory) = (kind.given)(self) {
                all.push((directory.join(kind.file), (kind.read)(kind, directory)?));
            }
        }
        Ok(all)
    }

    /// The files behind the measures, as seen from the report's directory.
    pub fn sources(out: &Path, measures: &[(PathBuf, MeasureResult)]) -> Vec<Source> {
        measures.iter().flat_map(|(file, measure)| sources::of_measure(out, file, measure)).collect()
    }
}

impl Kind {
    /// The file in a directory, read.
    fn json<T: DeserializeOwned>(&self, directory: &Path) -> Result<T, Failure> {
        let path = directory.join(self.file);
        let hint = || format!("give the directory that `{}` wrote", self.verb);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::user(format!("--{}: no file {}", self.name, path.display()), hint()),
            _ => Failure::from(error).doing(format!("reading {}", path.display())),
        })?;
        serde_json::from_str(&text).map_err(|error| Failure::user(format!("{}: {error}", path.display()), hint()))
    }

    /// A ladder with the rows that stand beside it.
    fn ladder(&self, directory: &Path) -> Result<MeasureResult, Failure> {
        let mut ladder: Ladder = self.json(directory)?;
        for task in &mut ladder.tasks {
            let again = || format!("run `{}` again", self.verb);
            // The file may be from anywhere.
            if !is_file_name(&task.name) {
                let cause = format!("{}: the task `{}` has a slash in its name", self.file, task.name);
                return Err(Failure::user(cause, again()));
            }
            let path = directory.join(format!("{}.jsonl", task.name));
            task.rows = read_rows(&path)?.into_iter().map(Value::Object).collect();
            if task.rows.len() != task.questions {
                let (rows, questions) = (task.rows.len(), task.questions);
                let cause = format!("{}: {rows} questions, and {} has {questions}", path.display(), self.file);
                return Err(Failure::user(cause, again()));
            }
        }
        Ok(ladder::of(&ladder))
    }
}

#[cfg(test)]
mod tests {
    use hone_eval::measures::MEASURES;

    use super::*;

    #[test]
    fn names_are_apart_and_each_is_its_own_option() {
        let names: Vec<&str> =
            MEASURES.iter().map(|measure| measure.name).chain(KINDS.iter().map(|kind| kind.name)).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name} is there twice");
        }
        for name in KINDS.iter().map(|kind| kind.name) {
            let place = |own: &str| (own == name).then(|| PathBuf::from(own));
            let given =
                Given { attention: place("attention"), dependency: place("dependency"), ladder: place("ladder") };
            let found = kind(name).and_then(|kind| (kind.given)(&given)).map(PathBuf::as_path);
            assert_eq!(found, Some(Path::new(name)));
            assert!(given.check(&[name.to_owned(), "wording".to_owned()]).is_ok());
            let others: Vec<String> = KINDS.iter().map(|kind| kind.name.to_owned()).filter(|own| own != name).collect();
            let failure = given.check(&others).expect_err("they were not given");
            assert!(failure.hint.is_some_and(|hint| hint.contains(&format!("--{} DIR", others[0]))));
        }
    }
}
