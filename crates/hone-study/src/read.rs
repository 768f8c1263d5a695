//! Finding a study, reading it, and refusing before anything runs what could only fail after an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hone_data::yaml::line_of;

use crate::bundled;
use crate::claims::Condition;
use crate::error::{StudyError, did_you_mean};
use crate::formula::{self, Formula};
use crate::placeholders::names;
use crate::plan::{label, unnamed_variable, variables_of_measure};
use crate::study::{Measure, PlotKind, Study};

/// Longest study that is read, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// A study's text and where it is from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The study's name: that of its file, without the extension.
    pub name: String,
    /// The text.
    pub text: String,
    /// The file; `None` for one that ships inside the program.
    pub path: Option<PathBuf>,
}

impl Source {
    /// The directory its file lies in, absolute.
    pub fn directory(&self) -> Option<String> {
        let path = std::path::absolute(self.path.as_deref()?).ok()?;
        Some(path.parent()?.to_string_lossy().into_owned())
    }

    fn shown(&self) -> String {
        self.path.as_ref().map_or_else(|| format!("study {}", self.name), |path| path.display().to_string())
    }

    /// An error at a key of the study.
    pub(crate) fn error(&self, path: &[&str], problem: String) -> StudyError {
        let keys: Vec<String> = path.iter().filter(|key| !key.is_empty()).map(|key| (*key).to_owned()).collect();
        let line = line_of(&self.text, &keys).map_or_else(String::new, |line| format!(", line {line}"));
        StudyError::Study {
            place: format!("{}{line}", self.shown()),
            problem: format!("`{}`: {problem}", keys.join(".")),
        }
    }
}

/// The study called `reference`: a file's path, the name of one in a `studies` directory here or above, or of one that ships
/// with the program.
pub fn find(reference: &str) -> Result<Source, StudyError> {
    let path = Path::new(reference);
    if path.is_file() {
        return from_file(path);
    }
    if let Some(path) = in_directories().into_iter().find(|path| stem(path) == reference) {
        return from_file(&path);
    }
    if let Some(text) = bundled::study(reference) {
        return Ok(Source { name: reference.into(), text: text.into(), path: None });
    }
    let known: Vec<String> = names_known();
    let hint = did_you_mean(reference, known.iter().map(String::as_str));
    Err(StudyError::Unknown { name: reference.into(), hint, known: known.join(", ") })
}

/// The names of all studies, sorted.
pub fn names_known() -> Vec<String> {
    let files = in_directories();
    let all = files.iter().map(|path| stem(path)).chain(bundled::names().map(str::to_owned));
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// Study files of the nearest `studies` directory.
fn in_directories() -> Vec<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let Some(directory) = here.ancestors().map(|above| above.join("studies")).find(|d| d.is_dir()) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect()
}

fn from_file(path: &Path) -> Result<Source, StudyError> {
    let length = std::fs::metadata(path).map_err(StudyError::io(path))?.len();
    if length > MAX_LENGTH {
        let problem = format!("{length} bytes, a study is at most {MAX_LENGTH}; is this a data file?");
        return Err(StudyError::Study { place: path.display().to_string(), problem });
    }
    let text = std::fs::read_to_string(path).map_err(StudyError::io(path))?;
    Ok(Source { name: stem(path), text, path: Some(path.to_owned()) })
}

/// Reads a study and checks all of it that can be checked before it runs.
pub fn read(source: &Source) -> Result<Study, StudyError> {
    let study: Study = serde_yaml_ng::from_str(&source.text)
        .map_err(|e| StudyError::Study { place: source.shown(), problem: e.to_string() })?;
    let check = Check { source, study: &study };
    check.variables()?;
    check.steps()?;
    let measures = check.measures()?;
    check.claims(&measures)?;
    check.tables(&measures)?;
    check.plots(&measures)?;
    Ok(study)
}

/// The variables of every measure.
type Variables = BTreeMap<String, BTreeSet<String>>;

struct Check<'a> {
    source: &'a Source,
    study: &'a Study,
}

impl Check<'_> {
    fn variables(&self) -> Result<(), StudyError> {
        const OWN: [&str; 5] = ["data", "dir", "files", "steps", "study"];
        let taken =
            |name: &str| OWN.contains(&name).then(|| format!("`{name}` has a meaning of its own; choose another name"));
        for name in self.study.constants.keys() {
            taken(name).map_or(Ok(()), |problem| Err(self.source.error(&["constants", name], problem)))?;
        }
        for (name, values) in &self.study.variables {
            let error = |problem: String| Err(self.source.error(&["variables", name], problem));
            if let Some(problem) = taken(name) {
                return error(problem);
            }
            if values.is_empty() || self.study.constants.contains_key(name) {
                return error("expected at least one value, and a name that no constant has".into());
            }
            let labels: Vec<String> = match values.iter().map(label).collect() {
                Ok(labels) => labels,
                Err(problem) => return error(problem),
            };
            if let Some(twice) = labels.iter().enumerate().find(|(i, l)| labels[..*i].contains(l)) {
                return error(format!("the value `{}` is there twice", twice.1));
            }
        }
        Ok(())
    }

    fn steps(&self) -> Result<(), StudyError> {
        for (number, template) in self.study.steps.iter().enumerate() {
            if let Some(variable) = unnamed_variable(template, self.study) {
                let problem = format!(
                    "it uses `{{{variable}}}`, so its name has to: a step is repeated for the variables in its name"
                );
                return Err(self.source.error(&["steps", &number.to_string(), "name"], problem));
            }
        }
        Ok(())
    }

    fn measures(&self) -> Result<Variables, StudyError> {
        let mut known = Variables::new();
        for name in self.study.measures.keys() {
            self.measure(name, &mut known, &mut Vec::new())?;
        }
        Ok(known)
    }

    fn measure(
        &self,
        name: &str,
        known: &mut Variables,
        open: &mut Vec<String>,
    ) -> Result<BTreeSet<String>, StudyError> {
        if let Some(variables) = known.get(name) {
            return Ok(variables.clone());
        }
        let error = |key: &str, problem: String| self.source.error(&["measures", name, key], problem);
        if open.iter().any(|other| other == name) {
            return Err(error("of", format!("it depends on itself, by way of {}", open.join(", "))));
        }
        let measure = &self.study.measures[name];
        let variables = match kind(measure).map_err(|problem| error("", problem))? {
            Kind::File(key, path) => {
                let unknown = names(path)
                    .chain(names(measure.value.as_deref().unwrap_or_default()))
                    .find(|n| !self.study.variables.contains_key(*n) && !self.study.constants.contains_key(*n));
                if let Some(unknown) = unknown {
                    let known = self.study.variables.keys().chain(self.study.constants.keys()).map(String::as_str);
                    return Err(error(key, format!("`{{{unknown}}}` is no variable{}", did_you_mean(unknown, known))));
                }
                variables_of_measure(path, measure.value.as_deref(), self.study).into_iter().collect()
            }
            Kind::Formula(text) => {
                open.push(name.to_owned());
                let formula = formula::parse(text).map_err(|problem| error("of", problem))?;
                for other in formula.measures() {
                    self.known_measure(other).map_err(|problem| error("of", problem))?;
                    self.measure(other, known, open)?;
                }
                open.pop();
                self.free(&formula, known).map_err(|problem| error("of", problem))?
            }
        };
        known.insert(name.to_owned(), variables.clone());
        Ok(variables)
    }

    fn known_measure(&self, name: &str) -> Result<(), String> {
        let known = || self.study.measures.keys().map(String::as_str);
        if known().any(|other| other == name) {
            return Ok(());
        }
        Err(format!(
            "no measure `{name}`{}; there are {}",
            did_you_mean(name, known()),
            known().collect::<Vec<_>>().join(", ")
        ))
    }

    /// The variables a formula still has, after all its picks were found to be values.
    fn free(&self, formula: &Formula, known: &Variables) -> Result<BTreeSet<String>, String> {
        for (variable, value) in formula.picks() {
            let labels: Vec<String> =
                self.study.variables.get(variable).into_iter().flatten().filter_map(|v| label(v).ok()).collect();
            if !labels.is_empty() && !labels.contains(value) {
                let hint = did_you_mean(value, labels.iter().map(String::as_str));
                return Err(format!("`{variable}` is never `{value}`{hint}; it is {}", labels.join(", ")));
            }
        }
        formula.variables(&|name| {
            self.known_measure(name)?;
            known.get(name).cloned().ok_or_else(|| format!("no measure `{name}`"))
        })
    }

    /// Reads a formula that may have the variables `allowed` and no other.
    fn formula(&self, path: &[&str], text: &str, known: &Variables, allowed: &[String]) -> Result<(), StudyError> {
        let checked = formula::parse(text).and_then(|formula| self.free(&formula, known));
        let left = checked.map_err(|problem| self.source.error(path, problem))?;
        match left.iter().find(|variable| !allowed.contains(variable)) {
            None => Ok(()),
            Some(variable) => {
                let problem = format!(
                    "it has a number for every `{variable}`, and one number is expected: pick one (`[{variable}=…]`) or reduce \
                     them (`mean(… over {variable})`)"
                );
                Err(self.source.error(path, problem))
            }
        }
    }

    fn claims(&self, known: &Variables) -> Result<(), StudyError> {
        if self.study.claims.is_empty() {
            return Err(self.source.error(&["claims"], "expected at least one".into()));
        }
        for (number, claim) in self.study.claims.iter().enumerate() {
            let number = number.to_string();
            let allowed: Vec<String> = claim.over.iter().cloned().collect();
            self.formula(&["claims", &number, "measured"], &claim.measured, known, &allowed)?;
            Condition::parse(&claim.holds).map_err(|p| self.source.error(&["claims", &number, "holds"], p))?;
            if let Some(over) =
                claim.over.as_ref().filter(|over| self.study.variables.get(*over).is_none_or(|v| v.len() < 2))
            {
                let problem = format!("`{over}` is no variable with two values or more, and an interval needs as many");
                return Err(self.source.error(&["claims", &number, "over"], problem));
            }
        }
        Ok(())
    }

    fn each(&self, path: &[&str], each: &[String]) -> Result<(), StudyError> {
        let known = || self.study.variables.keys().map(String::as_str);
        match each.iter().find(|variable| known().all(|name| name != *variable)) {
            None => Ok(()),
            Some(unknown) => {
                Err(self.source.error(path, format!("`{unknown}` is no variable{}", did_you_mean(unknown, known()))))
            }
        }
    }

    fn tables(&self, known: &Variables) -> Result<(), StudyError> {
        for (number, table) in self.study.tables.iter().enumerate() {
            let number = number.to_string();
            self.each(&["tables", &number, "each"], &table.each)?;
            for (at, column) in table.columns.iter().enumerate() {
                let path = ["tables", &number, "columns", &at.to_string(), "of"];
                self.formula(&path, &column.of, known, &table.each)?;
            }
            if let Some(order) = table.order_by.as_ref().filter(|order| table.columns.iter().all(|c| c.name != **order))
            {
                return Err(self
                    .source
                    .error(&["tables", &number, "order_by"], format!("no column is called `{order}`")));
            }
        }
        Ok(())
    }

    fn plots(&self, known: &Variables) -> Result<(), StudyError> {
        for (number, plot) in self.study.plots.iter().enumerate() {
            let number = number.to_string();
            let error = |key: &str, problem: &str| Err(self.source.error(&["plots", &number, key], problem.into()));
            self.each(&["plots", &number, "each"], &plot.each)?;
            if plot.each.is_empty() {
                return error("each", "expected at least one variable");
            }
            if plot.name.is_empty() || !plot.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return error("name", "expected letters, digits and `-`: it is part of a file's name");
            }
            if plot.x.is_none() != (plot.kind == PlotKind::Forest) {
                return error("x", "`scatter` and `lines` need it, `forest` has none");
            }
            for (key, axis) in [("x", plot.x.as_ref()), ("y", Some(&plot.y))] {
                // Along `x` a variable may stand for its own values.
                let Some(axis) = axis.filter(|axis| key == "y" || !plot.each.contains(&axis.of)) else { continue };
                self.formula(&["plots", &number, key, "of"], &axis.of, known, &plot.each)?;
            }
        }
        Ok(())
    }
}

/// Where a measure's numbers come from.
pub(crate) enum Kind<'a> {
    /// A file: the key, and the path below the directory of the steps.
    File(&'static str, &'a str),
    /// Other measures.
    Formula(&'a str),
}

/// Which kind a measure is, with its other keys checked.
pub(crate) fn kind(measure: &Measure) -> Result<Kind<'_>, String> {
    let files = [("scorecard", &measure.scorecard), ("json", &measure.json), ("rows", &measure.rows)];
    let files = files.into_iter().filter_map(|(key, path)| Some(Kind::File(key, path.as_deref()?)));
    let mut kinds = files.chain(measure.of.as_deref().map(Kind::Formula));
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return Err("expected one of `scorecard`, `json`, `rows` and `of`".into());
    };
    let needs_value = matches!(kind, Kind::File("json" | "rows", _));
    if needs_value != measure.value.is_some() {
        return Err("`json` and `rows` need `value`, where the number is; the others have none".into());
    }
    if measure.metric.is_some() && !matches!(kind, Kind::File("scorecard", _)) {
        return Err("`metric` is for `scorecard`".into());
    }
    if (measure.id.is_some() || measure.skip > 0) && !matches!(kind, Kind::File("rows", _)) {
        return Err("`id` and `skip` are for `rows`".into());
    }
    Ok(kind)
}
