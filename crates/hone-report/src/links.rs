//! Where numbers lead: to the examples on the page, or to the files beside it that hold every row.

use std::fmt::Write;

use hone_eval::task::variants::SEPARATOR;
use serde::{Deserialize, Serialize};

use crate::Report;

/// Which of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The first one.
    Base,
    /// The second one.
    Tuned,
}

/// The scorecard of a task, as it is found from the report's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The task.
    pub task: String,
    /// Whose.
    pub side: Side,
    /// Path of the file, relative to the report's directory, with `/`.
    pub path: String,
}

/// Where a number leads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Link {
    pub href: String,
    /// What is there, where the number is of more than that.
    pub title: Option<String>,
}

/// Most tasks that a link's title names.
const NAMED: usize = 6;

/// Where the rows of a report's tasks are.
pub(crate) struct Places<'a> {
    sources: &'a [Source],
    /// All tasks of the comparison, those asked in further ways too.
    tasks: Vec<&'a str>,
    on_page: &'a dyn Fn(&str) -> bool,
}

impl<'a> Places<'a> {
    /// Those of a report; `on_page` says whether the page has examples of a task.
    pub fn new(report: &'a Report, on_page: &'a dyn Fn(&str) -> bool) -> Places<'a> {
        let tasks = report.ledger.tasks.iter().map(|task| task.name.as_str()).collect();
        Places { sources: &report.sources, tasks, on_page }
    }

    /// The tasks that something of this name is over: the one called so, else those that are ways of asking it, else
    /// none.
    pub fn named<'n>(&'n self, name: &'n str) -> Vec<&'n str> {
        if self.tasks.contains(&name) || self.sources.iter().any(|source| source.task == name) {
            return vec![name];
        }
        let way = |task: &&&str| task.split_once(SEPARATOR).is_some_and(|(of, _)| of == name);
        self.tasks.iter().filter(way).copied().collect()
    }

    /// Where the rows of a number over these tasks are; of one model where `side` says which. One place is linked, and its title
    /// names the others.
    pub fn rows(&self, tasks: &[&str], side: Option<Side>) -> Option<Link> {
        let of_first = |task: &str| Some((self.place(task, side)?, task.to_owned()));
        let (href, first) = tasks.iter().find_map(|task| of_first(task))?;
        let which = match side {
            _ if href.starts_with('#') => "the examples",
            Some(Side::Base) => "the first model's rows",
            Some(Side::Tuned) => "the second model's rows",
            None => "one of two files: the first model's rows",
        };
        let title = match tasks {
            [_] if href.starts_with('#') => None,
            [_] => Some(format!("{which} of {first}")),
            several => {
                let mut names = several.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
                if several.len() > NAMED {
                    names.push_str(" and others");
                }
                Some(format!("{which} of {first}, one of the {} tasks of this number: {names}", several.len()))
            }
        };
        Some(Link { href, title })
    }

    /// A task's examples on the page for a number of both models, its scorecard for one of one; what there is for want of that.
    fn place(&self, task: &str, side: Option<Side>) -> Option<String> {
        let card = |side: Side| {
            let source = self.sources.iter().find(|source| source.task == task && source.side == side);
            source.map(|source| href(&source.path))
        };
        let examples = || (self.on_page)(task).then(|| format!("#{}", anchor(&["examples", task])));
        match side {
            Some(side) => card(side).or_else(examples),
            None => examples().or_else(|| card(Side::Base)),
        }
    }
}

/// The id of a place on the page: letters, digits, `-`, `_` and `.` of a name stay, and what else there is becomes its code, so
/// that two names never share a place.
pub fn anchor(parts: &[&str]) -> String {
    let mut id = String::new();
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            id.push('-');
        }
        for c in part.chars() {
            match c {
                plain if plain.is_ascii_alphanumeric() || matches!(plain, '-' | '_' | '.') => id.push(plain),
                other => {
                    // Writing to a string cannot fail.
                    let _ = write!(id, "~{:x}~", u32::from(other));
                }
            }
        }
    }
    id
}

/// A relative path as a link: what means something else in an address is written by its code.
pub fn href(path: &str) -> String {
    let mut link = String::new();
    // A first part with a colon would be a scheme.
    if path.split('/').next().is_some_and(|first| first.contains(':')) {
        link.push_str("./");
    }
    for byte in path.bytes() {
        match byte {
            plain if plain.is_ascii_alphanumeric() || b"-_.~/@,+=".contains(&plain) => link.push(plain as char),
            other => {
                let _ = write!(link, "%{other:02X}");
            }
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_different_names_are_different() {
        assert_eq!(anchor(&["examples", "boolq", "lost"]), "examples-boolq-lost");
        assert_eq!(anchor(&["examples", "a b@ü"]), "examples-a~20~b~40~~fc~");
        assert_ne!(anchor(&["a b"]), anchor(&["a-b"]));
    }

    #[test]
    fn links_survive_any_name() {
        assert_eq!(href("../cards/base/boolq.jsonl"), "../cards/base/boolq.jsonl");
        assert_eq!(href("a b/100%#1?.jsonl"), "a%20b/100%25%231%3F.jsonl");
        assert_eq!(href("javascript:alert(1)"), "./javascript%3Aalert%281%29");
        assert_eq!(href("\"ü<"), "%22%C3%BC%3C");
    }
}
