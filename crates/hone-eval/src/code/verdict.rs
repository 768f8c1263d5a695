//! From what is known of a process that has ended to an [`Outcome`].

use super::outcome::Outcome;

/// Most characters of an exception's line that are kept.
const MOST: usize = 200;

/// What the driver said of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// All of it was run.
    Done,
    /// It raised an exception.
    Raised {
        /// The system's error number, of an `OSError`; else 0.
        number: i32,
        /// The exception's line.
        line: String,
    },
}

/// Why the parent ended the program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    Time,
    Output,
    Threads,
    Disk,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    Exited(i32),
    Signalled(i32),
    Stopped(Stop),
}

impl End {
    /// Of an exit status: a code, or else a signal.
    pub(super) fn of(code: Option<i32>, signal: Option<i32>) -> End {
        match (code, signal) {
            (Some(code), _) => End::Exited(code),
            (None, signal) => End::Signalled(signal.unwrap_or(0)),
        }
    }
}

/// The driver's last line in the output, which only it can mark with the token.
pub(super) fn verdict(stdout: &[u8], token: &str) -> Option<Verdict> {
    let mark = format!("{token} ");
    let lines = stdout.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(mark.as_bytes()));
    let last = lines.map(String::from_utf8_lossy).rfind(|line| line != "ready")?;
    if last == "done" {
        return Some(Verdict::Done);
    }
    let (number, line) = last.strip_prefix("failed ")?.split_once(' ')?;
    Some(Verdict::Raised { number: number.parse().unwrap_or(0), line: line.to_owned() })
}

/// How the program ended. `time_is_spent` says that it ran as long as its processor time.
pub(super) fn outcome(end: End, verdict: Option<Verdict>, stderr: &[u8], time_is_spent: bool) -> Outcome {
    match (verdict, end) {
        // Whatever else is known: when the parent stops reading depends on the moment.
        (_, End::Stopped(Stop::Output)) => Outcome::TooMuchOutput,
        (Some(Verdict::Done), _) => Outcome::Passed,
        (Some(Verdict::Raised { number, line }), _) => raised(number, &line),
        (None, End::Stopped(Stop::Time)) => Outcome::TimedOut,
        (None, End::Stopped(Stop::Threads)) => Outcome::TooManyThreads,
        (None, End::Stopped(Stop::Disk)) => Outcome::DiskLimit,
        (None, End::Signalled(libc::SIGXCPU)) => Outcome::TimedOut,
        (None, End::Signalled(libc::SIGXFSZ)) => Outcome::DiskLimit,
        (None, End::Signalled(libc::SIGSYS)) => Outcome::Forbidden { what: "a system call of a 32-bit program".into() },
        // Not from the parent: the kernel, at the hard limit of the processor's time.
        (None, End::Signalled(libc::SIGKILL)) if time_is_spent => Outcome::TimedOut,
        (None, End::Signalled(signal)) => Outcome::Crashed { signal },
        (None, End::Exited(code)) => {
            let said = String::from_utf8_lossy(stderr);
            let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
            let ended = format!("it ended with exit code {code} before its tests had run");
            Outcome::Failed { message: last.map_or(ended.clone(), |line| format!("{ended}: {}", cut(line))) }
        }
    }
}

/// What an exception says of the limits.
fn raised(number: i32, line: &str) -> Outcome {
    let line = cut(line);
    let forbidden = |what: &str| Outcome::Forbidden { what: format!("{what} ({line})") };
    match number {
        libc::EPERM => forbidden("a process, or another system call that is not allowed"),
        libc::EACCES | libc::EROFS => forbidden("a file outside the program's directory"),
        libc::ENETDOWN | libc::ENETUNREACH => forbidden("the network"),
        libc::ENOSPC | libc::EFBIG | libc::EDQUOT => Outcome::DiskLimit,
        libc::ENOMEM => Outcome::OutOfMemory,
        _ if line == "MemoryError" || line.starts_with("MemoryError:") => Outcome::OutOfMemory,
        _ if line.starts_with("SystemExit") => {
            Outcome::Failed { message: format!("it ended itself before its tests had run ({line})") }
        }
        _ => Outcome::Failed { message: line },
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stdout: &str) -> Option<Verdict> {
        verdict(stdout.as_bytes(), "1234abcd")
    }

    #[test]
    fn only_lines_with_the_token_count() {
        assert_eq!(of("{}\n\n1234abcd ready\nhello\n\n1234abcd done\n"), Some(Verdict::Done));
        assert_eq!(of("\n1234abcd ready\ndone\n1234abce done\n 1234abcd done\n"), None);
        assert_eq!(of("\n1234abcd ready\n"), None);
        // After output that does not end its line, the driver begins one.
        let raised = |number, line: &str| Some(Verdict::Raised { number, line: line.into() });
        assert_eq!(of("no end\n1234abcd failed 0 AssertionError: 1 2\n"), raised(0, "AssertionError: 1 2"));
        assert_eq!(
            of("\n1234abcd failed 28 OSError: [Errno 28] No space\n"),
            raised(28, "OSError: [Errno 28] No space")
        );
    }

    #[test]
    fn every_end_has_its_word() {
        let ended = |end, stderr: &str, spent| outcome(end, None, stderr.as_bytes(), spent).to_string();
        assert_eq!(ended(End::Stopped(Stop::Time), "", true), "timed out");
        assert_eq!(ended(End::Stopped(Stop::Output), "", false), "too much output");
        assert_eq!(outcome(End::Stopped(Stop::Output), Some(Verdict::Done), b"", false), Outcome::TooMuchOutput);
        assert_eq!(outcome(End::Stopped(Stop::Time), Some(Verdict::Done), b"", false), Outcome::Passed);
        assert_eq!(ended(End::Stopped(Stop::Threads), "", false), "too many threads");
        assert_eq!(ended(End::Stopped(Stop::Disk), "", false), "too much written to disk");
        assert_eq!(ended(End::Signalled(24), "", false), "timed out");
        assert_eq!(ended(End::Signalled(9), "", true), "timed out");
        assert!(ended(End::Signalled(9), "", false).contains("signal 9, its own or the kernel's"));
        assert_eq!(ended(End::Signalled(11), "", true), "crashed by signal 11");
        assert_eq!(ended(End::Exited(0), "", false), "failed: it ended with exit code 0 before its tests had run");
        let fatal = ended(End::Exited(1), "one\nFatal Python error\n\n", false);
        assert!(fatal.ends_with("before its tests had run: Fatal Python error"), "{fatal}");
    }

    #[test]
    fn exceptions_are_told_apart_by_number() {
        assert_eq!(raised(0, "AssertionError"), Outcome::Failed { message: "AssertionError".into() });
        assert_eq!(raised(0, "MemoryError"), Outcome::OutOfMemory);
        assert_eq!(raised(12, "OSError: [Errno 12]"), Outcome::OutOfMemory);
        assert_eq!(raised(28, "OSError: [Errno 28]"), Outcome::DiskLimit);
        assert_eq!(raised(27, "OSError: [Errno 27]"), Outcome::DiskLimit);
        let words = |number| raised(number, "PermissionError").to_string();
        assert!(words(1).starts_with("forbidden: a process") && words(13).starts_with("forbidden: a file"));
        assert!(words(100).starts_with("forbidden: the network"));
        assert!(raised(0, "SystemExit: 0").to_string().contains("ended itself before its tests had run"));
        let Outcome::Failed { message } = raised(0, &"é".repeat(500)) else { panic!("another outcome") };
        assert_eq!(message.chars().count(), MOST + 1);
    }
}
