//! `hone`: the binary. Each verb is one file under [`verbs`]: it parses flags, loads, calls a library crate, prints.
//!
//! Standard output carries results only (with `--json`, one JSON document and nothing else); progress and messages go to
//! standard error. Exit codes: 0 done, 1 a fault of ours (for a study: a claim does not hold), 2 something the user can mend, 3 a rule of `fail_if` was broken,
//! 130 stopped by Ctrl-C (what was done is saved).

mod args;
mod fail;
mod interrupt;
mod print;
mod progress;
mod verbs;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = args::parse();
    match verbs::run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}
