//! Where the time goes, by operation, forward and backward. Off until [`start`]; then each operation's [`Span`] adds its wall
//! time to its row when it is dropped. Spans do not nest: an operation inside another is part of it.
//!
//! One atomic load an operation while it is off. What is not in a span (reading data, recording the tape) is what the rows
//! leave of the whole.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Direction of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// Values.
    Forward,
    /// Gradients.
    Backward,
    /// The optimiser.
    Update,
}

impl Pass {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Update => "update",
        }
    }
}

/// Time of one operation in one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The operation.
    pub name: &'static str,
    /// The direction.
    pub pass: Pass,
    /// Calls.
    pub calls: u64,
    /// Wall time of all of them.
    pub time: Duration,
}

static ON: AtomicBool = AtomicBool::new(false);
static ROWS: Mutex<BTreeMap<(Pass, &'static str), (u64, Duration)>> = Mutex::new(BTreeMap::new());

/// Begins to measure, from nothing.
pub fn start() {
    ROWS.lock().unwrap_or_else(|e| e.into_inner()).clear();
    ON.store(true, Ordering::Relaxed);
}

/// Ends measuring; what was measured, the longest first.
pub fn stop() -> Vec<Row> {
    ON.store(false, Ordering::Relaxed);
    let rows = std::mem::take(&mut *ROWS.lock().unwrap_or_else(|e| e.into_inner()));
    let row = |((pass, name), (calls, time))| Row { name, pass, calls, time };
    let mut rows: Vec<Row> = rows.into_iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.time));
    rows
}

/// An operation under way; its time ends where this is dropped.
#[must_use]
pub struct Span(Option<(Pass, &'static str, Instant)>);

/// Opens a span.
pub fn span(name: &'static str, pass: Pass) -> Span {
    Span(ON.load(Ordering::Relaxed).then(|| (pass, name, Instant::now())))
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some((pass, name, start)) = self.0.take() else { return };
        let mut rows = ROWS.lock().unwrap_or_else(|e| e.into_inner());
        let row = rows.entry((pass, name)).or_default();
        row.0 += 1;
        row.1 += start.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_count_while_it_is_on() {
        drop(span("profile test", Pass::Forward));
        start();
        drop(span("profile test", Pass::Forward));
        let open = span("profile test", Pass::Forward);
        std::thread::sleep(Duration::from_millis(2));
        drop(open);
        let rows = stop();
        let row = rows.iter().find(|row| row.name == "profile test").copied();
        assert!(row.is_some_and(|row| row.calls == 2 && row.time >= Duration::from_millis(2)), "{rows:?}");
        assert!(stop().iter().all(|row| row.name != "profile test"), "stopping empties it");
    }
}
