//! What goes to standard output and standard error. A reader that leaves early (`hone … | head`) ends the program quietly,
//! a full disk behind `>` is an error with a next step; `println!` would panic on both.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use crate::fail::Failure;

/// Writes to standard output at once.
pub fn to_stdout(text: Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::reader_left()),
        Err(error) => Err(Failure::from(error).doing("writing to standard output")),
    }
}

/// Writes a line to standard error. Remarks that nobody can read are no reason to stop the work.
pub fn to_stderr(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
