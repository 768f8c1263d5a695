//! Failures as the user sees them: the cause with its place, then the next step. Libraries return typed errors; this is
//! where they become help.

use std::error::Error;

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

    /// Adds what was being done, outermost.
    pub fn doing(mut self, what: impl Into<String>) -> Failure {
        self.causes.insert(0, what.into());
        self
    }

    /// Writes the failure to standard error.
    pub fn print(&self) {
        let mut causes = self.causes.iter();
        if let Some(first) = causes.next() {
            eprintln!("error: {first}");
        }
        for cause in causes {
            eprintln!("  cause: {cause}");
        }
        if let Some(hint) = &self.hint {
            eprintln!("  next: {hint}");
        }
    }
}

/// Every library error is about the world (files, recipes, data), so it is the user's to mend; its message names the place.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut causes = vec![error.to_string()];
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors repeat their source in their own words.
            if !causes.iter().any(|c| c.contains(&text)) {
                causes.push(text);
            }
            source = cause.source();
        }
        Failure { code: USER, causes, hint: None }
    }
}
