//! Where numbers lead: to the examples on the page, or to the files beside it that hold every row.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

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
