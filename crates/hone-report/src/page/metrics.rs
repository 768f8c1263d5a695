//! The other metrics of what the tuning was for. One metric decides, but the same answers can look otherwise by another: a model
//! that learned to answer shortly loses where the right text anywhere in an answer counts, and gains where the whole answer does.
//!
//! Values are those of the two scorecards, over all their questions. What it does not know: whether a difference is measurable;
//! only the metric that decides has an interval.

use hone_eval::ledger::TaskComparison;
use hone_eval::measures::Grid;
use hone_eval::scorecard::{MetricValue, ScorecardHeader};

use super::tasks::{self, TableRow};
use crate::Report;
use crate::grid::{Block, Cell};

/// What the table says, for people.
pub(crate) const EXPLAINED: &str = "The same answers by the task's other metrics, which the verdict leaves out; no intervals. \
                                    Where they disagree with the metric above, read the answers before you decide.";

const HEADER: [&str; 5] = ["task", "metric", "base", "tuned", "difference"];

/// The table for the page; `None` where the tasks have no other metric.
pub(crate) fn block(report: &Report, on_page: &dyn Fn(&str) -> bool) -> Option<Block> {
    let row = |task: TaskComparison| {
        let TableRow { base, tuned, difference, base_href, tuned_href, href, .. } =
            tasks::linked(&task, &report.sources, on_page);
        vec![
            Cell::word(&task.name),
            Cell::word(tasks::metric(&task.metric)),
            Cell::number(base).to(base_href),
            Cell::number(tuned).to(tuned_href),
            Cell::number(difference).to(href),
        ]
    };
    let rows: Vec<Vec<Cell>> = others(report).into_iter().map(row).collect();
    let head = |(i, word): (usize, &&str)| if i < 2 { Cell::word(*word) } else { Cell::number(*word) };
    (!rows.is_empty()).then(|| Block { header: HEADER.iter().enumerate().map(head).collect(), rows })
}

/// The same for Markdown.
pub(crate) fn grid(report: &Report) -> Option<Grid> {
    let row = |task: TaskComparison| {
        let TableRow { base, tuned, difference, .. } = tasks::row(&task);
        let less = if task.higher_is_better { "" } else { " ↓" };
        vec![task.name.clone(), format!("{}{less}", task.metric), base, tuned, difference]
    };
    let rows: Vec<Vec<String>> = others(report).into_iter().map(row).collect();
    (!rows.is_empty()).then(|| Grid { header: HEADER.map(str::to_owned).into(), rows })
}

/// The tasks that the tuning was for, once for each further metric that both scorecards have.
fn others(report: &Report) -> Vec<TaskComparison> {
    let of_task = |task: &TaskComparison| -> Vec<TaskComparison> {
        let mut cards = report.scorecards.iter().filter(|card| card.task == task.name);
        // Those of the first model stand before those of the second.
        let (Some(base), Some(tuned), None) = (cards.next(), cards.next(), cards.next()) else { return Vec::new() };
        let further = base.metrics.iter().filter(|metric| metric.name != task.metric);
        further.filter_map(|metric| by(task, metric, find(tuned, &metric.name)?)).collect()
    };
    report.ledger.asked().filter(|task| task.is_target && task.unpaired == 0).flat_map(of_task).collect()
}

fn find<'a>(card: &'a ScorecardHeader, name: &str) -> Option<&'a MetricValue> {
    card.metrics.iter().find(|metric| metric.name == name)
}

/// The task as another metric sees it.
fn by(task: &TaskComparison, base: &MetricValue, tuned: &MetricValue) -> Option<TaskComparison> {
    (base.value.is_finite() && tuned.value.is_finite()).then(|| TaskComparison {
        metric: base.name.clone(),
        higher_is_better: base.higher_is_better,
        is_share: base.is_share,
        base: base.value,
        tuned: tuned.value,
        difference: tuned.value - base.value,
        ..task.clone()
    })
}
