//! Progress bars on standard error, quiet when asked or when nobody watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `length` steps; `unit` names them. Shows rate and time left, then whatever message is set.
pub fn bar(length: u64, what: &str, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{prefix:>12} {bar:28} {pos}/{len} {elapsed} (left {eta}) {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A bar over steps of different length: whoever moves it says the time left.
pub fn steps(length: u64, what: &str, quiet: bool) -> ProgressBar {
    let bar = bar(length, what, quiet);
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {bar:28} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

/// A spinner for work of unknown length.
pub fn spinner(what: &str, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
