//! What goes to standard output and standard error. A reader that leaves early (`hone … | head`) ends the program quietly,
//! a full disk behind `>` is an error with a next step; `println!` would panic on both.
//!
//! Texts of models, servers and data may hold control characters, which move a terminal's cursor, name its window or worse. On a terminal
//! they are shown as pictures (`␛`); what goes into a file or a pipe is left as it is.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write};

use crate::fail::Failure;

/// Writes to standard output at once.
pub fn to_stdout(text: Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = match stdout.is_terminal() {
        true => stdout.write_all(visible(&text.to_string()).as_bytes()),
        false => stdout.write_fmt(text),
    };
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::reader_left()),
        Err(error) => Err(Failure::from(error).doing("writing to standard output")),
    }
}

/// Writes a line to standard error. Remarks that nobody can read are no reason to stop the work.
pub fn to_stderr(line: Arguments<'_>) {
    let mut stderr = std::io::stderr().lock();
    let _ = match stderr.is_terminal() {
        true => writeln!(stderr, "{}", visible(&line.to_string())),
        false => writeln!(stderr, "{line}"),
    };
}

/// What the program itself colours, between which texts stand.
pub const TRAINED: (&str, &str) = ("\x1b[1;32m", "\x1b[0m");

/// A text without control characters, but for line ends, tabs and [`TRAINED`].
fn visible(text: &str) -> Cow<'_, str> {
    let is_harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(is_harmless) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let own = [TRAINED.0, TRAINED.1].into_iter().find(|own| rest.starts_with(own));
        let taken = own.map_or(c.len_utf8(), str::len);
        match c {
            _ if own.is_some() || is_harmless(c) => shown.push_str(&rest[..taken]),
            '\x7f' => shown.push('␡'),
            '\0'..'\x20' => shown.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
            _ => shown.push('\u{fffd}'),
        }
        rest = &rest[taken..];
    }
    shown.into()
}

/// As `print!`, but a `Result`.
macro_rules! out {
    ($($text:tt)*) => { $crate::print::to_stdout(format_args!($($text)*)) };
}

/// As `println!`, but a `Result`.
macro_rules! outln {
    ($($text:tt)*) => { $crate::print::to_stdout(format_args!("{}\n", format_args!($($text)*))) };
}

/// As `eprintln!`, but never a panic.
macro_rules! remark {
    ($($text:tt)*) => { $crate::print::to_stderr(format_args!($($text)*)) };
}

pub(crate) use {out, outln, remark};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_do_nothing() {
        let plain = "two\tcolumns\nand ümläuts 🙂";
        assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
        assert_eq!(visible("\x1b]0;name\x07 \x1b[2J\r\x08\x7f\u{9b}31m"), "␛]0;name␇ ␛[2J␍␈␡\u{fffd}31m");
        let coloured = format!("{}trained \x1b[8m{}", TRAINED.0, TRAINED.1);
        assert_eq!(visible(&coloured), format!("{}trained ␛[8m{}", TRAINED.0, TRAINED.1));
    }
}
