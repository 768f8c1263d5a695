//! Failures as the user sees them: the cause with its place, then the next step. Libraries return typed errors; this is
//! where they become help.

use std::error::Error;
use std::io::ErrorKind;

use crate::print::remark;

/// Exit code for something the user can mend.
pub const USER: u8 = 2;
/// Exit code for a fault of ours.
pub const OURS: u8 = 1;
/// Exit code for a broken rule of `fail_if`.
pub const RULE: u8 = 3;
/// Exit code after Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// A failure and how the process ends.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What went wrong, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// Something the user can mend.
    pub fn user(cause: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure { code: USER, causes: vec![cause.into()], hint: Some(hint.into()) }
    }

    /// A fault of ours.
    pub fn ours(cause: impl Into<String>) -> Failure {
        let hint = "this is a fault in hone; please report it with the command you ran".to_owned();
        Failure { code: OURS, causes: vec![cause.into()], hint: Some(hint) }
    }

    /// Whoever read standard output has left, as `head` does: an end without a word, and no failure.
    pub fn reader_left() -> Failure {
        Failure { code: 0, causes: Vec::new(), hint: None }
    }

    /// Adds what was being done, outermost.
    pub fn doing(mut self, what: impl Into<String>) -> Failure {
        self.causes.insert(0, what.into());
        self
    }

    /// Writes the failure to standard error.
    pub fn print(&self) {
        let mut causes = self.causes.iter();
        if let Some(first) = causes.next() {
            remark!("error: {first}");
        }
        for cause in causes {
            remark!("  cause: {cause}");
        }
        if let Some(hint) = &self.hint {
            remark!("  next: {hint}");
        }
    }
}

/// Every library error is about the world (files, recipes, data), so it is the user's to mend; its message names the place.
impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut causes = vec![error.to_string()];
        let mut hint = next_step(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            hint = hint.or_else(|| next_step(cause));
            // Many errors repeat their source in their own words.
            if !causes.iter().any(|c| c.contains(&text)) {
                causes.push(text);
            }
            source = cause.source();
        }
        // Some libraries say the next step themselves.
        let hint = hint.filter(|_| !causes.iter().any(|cause| cause.contains("next step:")));
        Failure { code: USER, causes, hint: hint.map(str::to_owned) }
    }
}

/// What helps where the system itself refused.
fn next_step(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let text = match error.downcast_ref::<std::io::Error>()?.kind() {
        ErrorKind::NotFound => "check the path; the file may also be missing from an incomplete copy or download",
        ErrorKind::PermissionDenied => {
            "give yourself the right to it, or choose another place (`--out` for results, HONE_CACHE for the cache)"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or choose another place (`--out` for results, HONE_CACHE for the cache); what was finished \
             is kept"
        }
        ErrorKind::ReadOnlyFilesystem => "choose another place (`--out` for results, HONE_CACHE for the cache)",
        ErrorKind::IsADirectory => "name a file, not a directory",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file stands where a directory is needed: choose another path, or move the file away"
        }
        ErrorKind::InvalidData => "give text in UTF-8",
        _ => return None,
    };
    Some(text)
}
