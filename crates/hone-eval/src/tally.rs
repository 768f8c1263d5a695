//! The numbers of a task's examples, a column a metric: what its scores and their standard errors are made of. A number takes
//! eight bytes, so a million examples of one metric take eight megabytes; texts are not kept.

use std::collections::BTreeMap;

use crate::metrics::ExampleScore;
use crate::rewards::ratings::UNPARSED;
use crate::scorecard::ScorecardRow;

/// Every example's scores and parts, in order.
#[derive(Default)]
pub struct Tally {
    examples: usize,
    columns: BTreeMap<String, Column>,
    /// Those that were not answered.
    unanswered: Vec<usize>,
    /// Why the first of them was not.
    first_unanswered: Option<String>,
    /// Those whose right choice is none of their choices.
    gold_missing: Vec<usize>,
    /// Those whose answers were rated by replies: how many replies, and how many of them held no rating.
    ratings: Vec<(usize, usize, usize)>,
}

/// One metric's numbers.
#[derive(Default)]
struct Column {
    /// One for each example; NaN for one without.
    scores: Vec<f64>,
    /// The parts of all examples, one behind the other.
    parts: Vec<f64>,
    /// Where each example's parts end; empty while nobody has any.
    ends: Vec<usize>,
}

impl Tally {
    /// Of rows.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a ScorecardRow>) -> Tally {
        let mut tally = Tally::default();
        rows.into_iter().for_each(|row| tally.add(row));
        tally
    }

    /// Adds an example.
    pub fn add(&mut self, row: &ScorecardRow) {
        for (metric, score) in &row.scores {
            let parts = row.parts.get(metric).map_or(&[][..], Vec::as_slice);
            match self.columns.get_mut(metric) {
                Some(column) => column.put(self.examples, *score, parts),
                None => self.columns.entry(metric.clone()).or_default().put(self.examples, *score, parts),
            }
        }
        if let Some(why) = &row.unanswered {
            self.unanswered.push(self.examples);
            self.first_unanswered.get_or_insert_with(|| why.clone());
        }
        if row.gold_missing {
            self.gold_missing.push(self.examples);
        }
        let replies = || row.rewards.iter().filter(|completion| completion.reply.is_some());
        if replies().next().is_some() {
            let none = replies().filter(|completion| completion.reward == UNPARSED).count();
            self.ratings.push((self.examples, replies().count(), none));
        }
        self.examples += 1;
        self.columns.values_mut().for_each(|column| column.scores.resize(self.examples, f64::NAN));
    }

    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.examples
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples == 0
    }

    /// How many a server could not be brought to answer, and why not the first of them.
    pub fn unanswered(&self) -> (usize, Option<&str>) {
        (self.unanswered.len(), self.first_unanswered.as_deref())
    }

    /// How many have a right choice that is none of their choices.
    pub fn gold_missing(&self) -> usize {
        self.gold_missing.len()
    }

    /// How many replies were to be ratings, and how many of them held none.
    pub fn ratings(&self) -> (usize, usize) {
        self.ratings.iter().fold((0, 0), |(all, none), (_, replies, without)| (all + replies, none + without))
    }

    /// Takes away what stands behind the first `examples`.
    pub fn truncate(&mut self, examples: usize) {
        self.examples = self.examples.min(examples);
        self.unanswered.retain(|at| *at < examples);
        self.gold_missing.retain(|at| *at < examples);
        self.ratings.retain(|(at, ..)| *at < examples);
        if self.unanswered.is_empty() {
            self.first_unanswered = None;
        }
        for column in self.columns.values_mut() {
            column.scores.truncate(examples);
            column.ends.truncate(examples);
            column.parts.truncate(column.ends.last().copied().unwrap_or(0));
        }
    }

    /// One metric's scores, example by example, NaN where an example has none; nothing if none has one.
    pub fn scores(&self, metric: &str) -> &[f64] {
        self.columns.get(metric).map_or(&[], |column| &column.scores)
    }

    /// One metric's numbers, example by example; NaN where an example has none.
    pub fn of_metric(&self, metric: &str) -> Vec<ExampleScore> {
        let none = Column::default();
        let column = self.columns.get(metric).unwrap_or(&none);
        let score = |i: usize| column.scores.get(i).copied().unwrap_or(f64::NAN);
        let of = |i| ExampleScore { score: score(i), parts: column.parts_of(i).to_vec() };
        (0..self.examples).map(of).collect()
    }
}

impl Column {
    /// The numbers of example `at`, behind those that are there.
    fn put(&mut self, at: usize, score: f64, parts: &[f64]) {
        self.scores.resize(at, f64::NAN);
        self.scores.push(score);
        if !parts.is_empty() || !self.ends.is_empty() {
            self.ends.resize(at, self.parts.len());
            self.parts.extend_from_slice(parts);
            self.ends.push(self.parts.len());
        }
    }

    fn parts_of(&self, at: usize) -> &[f64] {
        let Some(end) = self.ends.get(at) else { return &[] };
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.parts[from..*end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scorecard::Completion;

    /// Rows whose metrics and parts come and go.
    fn row(i: usize) -> ScorecardRow {
        let mut row = ScorecardRow::default();
        row.scores.insert("acc".into(), i as f64);
        if i % 3 == 1 {
            row.scores.insert("f1".into(), 0.5 * i as f64);
            row.parts.insert("f1".into(), vec![1.0; i]);
        }
        row.unanswered = (i == 4 || i == 6).then(|| format!("no answer to {i}"));
        row.gold_missing = i == 5;
        // Three answers rated in every other example, one of the replies no rating; the fourth answer has no reply.
        let completion = |n: usize| Completion {
            reward: if n == 0 { UNPARSED } else { n as f64 },
            reply: (n < 3).then(|| format!("[[{n}]]")),
            ..Completion::default()
        };
        row.rewards = if i.is_multiple_of(2) { (0..4).map(completion).collect() } else { Vec::new() };
        row
    }

    #[test]
    fn numbers_come_back_as_they_were_put_in_and_after_some_were_taken_away() {
        let rows: Vec<ScorecardRow> = (0..11).map(row).collect();
        let check = |tally: &Tally, n: usize| {
            assert_eq!(tally.len(), n);
            let first = (n > 4).then_some("no answer to 4");
            assert_eq!(tally.unanswered(), (usize::from(n > 4) + usize::from(n > 6), first));
            assert_eq!(tally.gold_missing(), usize::from(n > 5));
            assert_eq!(tally.ratings(), (3 * n.div_ceil(2), n.div_ceil(2)));
            for metric in ["acc", "f1", "absent"] {
                let found = tally.of_metric(metric);
                assert_eq!(found.len(), n);
                let scores = tally.scores(metric);
                assert!(metric == "absent" || n < 2 || scores.len() == n, "{metric}: {} of {n}", scores.len());
                for (example, row) in found.iter().zip(&rows) {
                    let score = row.scores.get(metric).copied().unwrap_or(f64::NAN);
                    assert_eq!(example.score.to_bits(), score.to_bits(), "{metric}");
                    assert_eq!(example.parts, row.parts.get(metric).cloned().unwrap_or_default(), "{metric}");
                }
            }
        };
        for n in 0..=rows.len() {
            let mut tally = Tally::of(&rows);
            tally.truncate(n);
            check(&tally, n);
            rows[n..].iter().for_each(|row| tally.add(row));
            check(&tally, rows.len());
        }
    }
}
