//! How far an evaluation is: its waves of examples, what of them is done, who is told, and where rows go as soon as they are made.
//!
//! A wave is the same examples whatever of it is done already, since draws of sampled texts count the prompts of a wave, and a
//! server is judged by how many of a wave it answers. Of a wave that an earlier run began only the rest is left.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Progress, check_gold};
use crate::error::EvalError;
use crate::scorecard::ScorecardRow;
use crate::task::{Item, Prompts, Task};

/// Examples of a wave: worked on together, and as many prompts generated together. Draws of a sampled generation depend on it,
/// so it is no setting.
pub(crate) const WAVE: usize = 64;

/// An example that is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Its place among the examples.
    pub at: usize,
    /// Its row.
    pub row: ScorecardRow,
    /// How many of its prompts were cut.
    pub truncated: usize,
}

/// Where examples go as soon as they are done: in any order within a wave, one wave after the other.
pub type Sink<'a> = dyn FnMut(Vec<Finished>) -> Result<(), EvalError> + 'a;

/// What of an evaluation is done already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// So many examples, from the first on.
    pub examples: usize,
    /// Those further on, by their places: fewer than a wave.
    pub beyond: BTreeSet<usize>,
    /// Prompts cut among all of them.
    pub truncated: usize,
}

impl Done {
    /// How many examples that is.
    pub fn count(&self) -> usize {
        self.examples + self.beyond.len()
    }

    fn has(&self, at: usize) -> bool {
        at < self.examples || self.beyond.contains(&at)
    }
}

/// Examples that are worked on together.
pub(crate) struct Wave {
    /// The place of the first.
    pub from: usize,
    /// All of them.
    pub items: Vec<Item>,
    /// Those that are not done, by their places in `items`, in order. There are some.
    pub left: Vec<usize>,
}

impl Wave {
    /// The examples that are not done.
    pub fn left(&self) -> Vec<&Item> {
        self.left.iter().map(|&at| &self.items[at]).collect()
    }

    /// The `n`-th of them, done.
    pub fn finished(&self, n: usize, row: ScorecardRow, truncated: usize) -> Finished {
        Finished { at: self.from + self.left[n], row, truncated }
    }
}

/// An evaluation under way.
pub(crate) struct Course<'a> {
    task: &'a Task,
    /// Examples in all.
    total: usize,
    /// What was done when it began.
    earlier: Done,
    /// Examples that are done.
    done: usize,
    /// Prompts cut among them.
    pub truncated: usize,
    /// Where the next wave begins.
    next: usize,
    progress: &'a mut dyn FnMut(&Progress<'_>),
    stop: &'a AtomicBool,
    sink: &'a mut Sink<'a>,
}

impl<'a> Course<'a> {
    /// The first `total` examples of `task`, where `earlier` ones are done; `prompts` are drawn up to there.
    pub fn begin(
        task: &'a Task,
        prompts: &mut Prompts<'_>,
        total: usize,
        earlier: Done,
        progress: &'a mut dyn FnMut(&Progress<'_>),
        stop: &'a AtomicBool,
        sink: &'a mut Sink<'a>,
    ) -> Result<Course<'a>, EvalError> {
        let next = earlier.examples.min(total) / WAVE * WAVE;
        (0..next).try_for_each(|index| prompts.skip(index))?;
        let (done, truncated) = (earlier.count(), earlier.truncated);
        Ok(Course { task, total, earlier, done, truncated, next, progress, stop, sink })
    }

    /// The next wave of which something is left.
    pub fn wave(&mut self, prompts: &mut Prompts<'_>) -> Result<Option<Wave>, EvalError> {
        while self.next < self.total {
            let from = self.next;
            self.next = self.total.min(from + WAVE);
            let items: Vec<Item> = (from..self.next).map(|i| prompts.item(i)).collect::<Result<_, _>>()?;
            if from == 0 {
                check_gold(self.task, &items)?;
            }
            let left: Vec<usize> = (0..items.len()).filter(|at| !self.earlier.has(from + at)).collect();
            if !left.is_empty() {
                return Ok(Some(Wave { from, items, left }));
            }
        }
        Ok(None)
    }

    /// Hands over examples that are done, and says how far it is; an error if the user stops.
    pub fn finish(&mut self, examples: Vec<Finished>) -> Result<(), EvalError> {
        if !examples.is_empty() {
            self.done += examples.len();
            self.truncated += examples.iter().map(|example| example.truncated).sum::<usize>();
            (self.sink)(examples)?;
        }
        self.report()
    }

    /// Says how far it is; an error if the user stops.
    pub fn report(&mut self) -> Result<(), EvalError> {
        (self.progress)(&Progress { task: self.task.name(), done: self.done, total: self.total });
        self.stopped()
    }

    /// An error if the user stops.
    pub fn stopped(&self) -> Result<(), EvalError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(EvalError::Stopped { task: self.task.name().into(), done: self.done, total: self.total }),
            false => Ok(()),
        }
    }
}
