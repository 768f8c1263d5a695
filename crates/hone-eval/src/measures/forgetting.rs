//! What was lost, skill by skill: every task's change with its interval, and the mean loss over skills.
//!
//! ```text
//! loss of a task  = (before − after), its sign turned where less is better; positive is worse
//! mean loss       = mean over skills of the mean loss over the examples of the skill's tasks (shares only)
//! ```
//!
//! Tasks that the tuning was for are left out. A task's skill is the label `skill` of its file's `metadata`; a task without one is a skill of its own. Tasks whose metric is
//! no share (perplexity) stand in the table in their own unit and are not averaged. A task's interval is the paired bootstrap
//! over its examples, a skill's that over the examples of each of its tasks, that of the mean loss the two-stage bootstrap over skills and examples, so it speaks of skills like these.
//! `measurably worse` counts the tasks whose interval lies above 0 after Holm's correction over all of them.
//!
//! What it does not know: skills that no task asks for; whether a loss matters; whether the format was lost or the skill
//! (a model that answers in another form fails an exact match).

use super::chart::{Bar, ChartData, Drawing};
use super::{How, Measure, MeasureOptions, Number, OF_QUESTIONS, Table, TaskMeasure, Unit};
use crate::error::EvalError;
use crate::intervals::interval_of;
use crate::pairing::Paired;
use crate::statistics::clusters::mean_of_clusters;
use crate::statistics::{groups, holm, mean};

/// The measure.
pub const MEASURE: Measure = Measure {
    name: "forgetting",
    question: "What did the update lose?",
    legend: "Loss is the score before minus the score after, so more is worse; a negative loss is a gain. The mean loss counts \
             every skill once, and its interval speaks of skills like these. A bar has a colour where its own interval leaves 0 \
             out, which one task in twenty does by chance; `measurably worse` counts those that stay after correction for all.",
    source: "battery of skills; two-stage bootstrap of Davison & Hinkley 1997, section 3.8",
    formulas: &[
        "loss of a task = before − after, its sign turned where less is better",
        "loss of a skill = mean over the examples of its tasks",
        "mean loss = mean over skills (shares only)",
    ],
    how: |number| match number {
        "mean_loss" => How::Bootstrap(
            "the skills, then of the examples within each, both models' answers to one together (two stages)",
        ),
        _ => OF_QUESTIONS,
    },
    differences: &[],
    unasked: true,
    of,
};

/// A task's loss.
struct Loss<'a> {
    skill: &'a str,
    task: &'a str,
    is_share: bool,
    before: f64,
    after: f64,
    loss: f64,
    low: f64,
    high: f64,
    p: f64,
    /// Example by example, for metrics that are means.
    each: Vec<f64>,
    n: usize,
}

fn of(all: &[Paired<'_>], options: &MeasureOptions) -> Result<Vec<TaskMeasure>, EvalError> {
    let first_of_its_task =
        |paired: &&Paired<'_>| paired.base.variant.as_ref().is_none_or(|variant| variant.index == 0);
    let (targets, others): (Vec<&Paired<'_>>, Vec<&Paired<'_>>) =
        all.iter().filter(first_of_its_task).partition(|paired| paired.is_target);
    let losses: Vec<Loss<'_>> = others.into_iter().map(|paired| loss(paired, options)).collect();
    let Some(n) = (!losses.is_empty()).then(|| losses.iter().map(|loss| loss.n).sum()) else { return Ok(Vec::new()) };
    let mut skills: Vec<&str> = Vec::new();
    for loss in &losses {
        if !skills.contains(&loss.skill) {
            skills.push(loss.skill);
        }
    }
    let mut measure =
        TaskMeasure { name: "all skills".into(), metric: "each task's own".into(), n, ..TaskMeasure::default() };
    measure.tasks = losses.iter().map(|loss| loss.task.to_owned()).collect();
    measure.parts.extend(losses.iter().map(|loss| (label(loss), vec![loss.task.to_owned()])));
    measure.notes.extend(targets.iter().map(|paired| format!("without {}, which the tuning was for", paired.task())));
    let clusters: Vec<Vec<f64>> =
        skills.iter().map(|skill| shares_of(&losses, skill)).filter(|c| !c.is_empty()).collect();
    if clusters.is_empty() {
        measure.notes.push("no task's metric is a share, so losses are not averaged".into());
    } else {
        let value = mean(&clusters.iter().map(|cluster| mean(cluster)).collect::<Vec<_>>());
        let interval = mean_of_clusters(&clusters, &options.bootstrap);
        let ends = Some((interval.low, interval.high));
        measure.numbers.push(Number::new("mean_loss", &signed("mean loss", value), value, ends, Unit::Points));
        if !is_loss(value) && is_loss(-value) {
            let gain = Unit::Points.shown(-value);
            measure.notes.push(format!("nothing was lost on average: over the skills the scores rose by {gain}"));
        }
    }
    let corrected = holm(&losses.iter().map(|loss| loss.p).collect::<Vec<_>>());
    let worse = |(loss, p): (&Loss<'_>, &f64)| loss.low > 0.0 && *p < crate::compare::SIGNIFICANCE;
    let count = losses.iter().zip(&corrected).filter(|pair| worse(*pair)).count();
    let plain = |name: &str, label: &str, value: usize| Number::new(name, label, value as f64, None, Unit::Count);
    measure.numbers.push(plain("skills", "skills", skills.len()));
    measure.numbers.push(plain("tasks", "tasks", losses.len()));
    measure.numbers.push(plain("measurably_worse", "measurably worse", count));
    let shares: Vec<&Loss<'_>> = losses.iter().filter(|loss| loss.is_share).collect();
    if let Some(worst) = shares.iter().max_by(|a, b| a.loss.total_cmp(&b.loss)) {
        let interval = Some((worst.low, worst.high));
        let label = signed("largest loss", worst.loss);
        measure.numbers.push(Number::new("largest_loss", &label, worst.loss, interval, Unit::Points));
        measure.parts.insert(label, vec![worst.task.to_owned()]);
        measure.notes.push(match is_loss(worst.loss) {
            true => format!("the largest loss is that of {} ({})", worst.task, worst.skill),
            false => "no task lost as much as 0.1 points".into(),
        });
    }
    let by_skill: Vec<SkillLoss> = skills.iter().filter_map(|skill| of_skill(&losses, skill, options)).collect();
    measure.parts.extend(by_skill.iter().map(|skill| (skill.label.clone(), skill.tasks.clone())));
    measure.tables.extend(tables(&losses, &by_skill));
    let bar = |loss: &&Loss<'_>| Bar {
        name: label(loss),
        value: loss.loss,
        low: Some(loss.low).filter(|low| low.is_finite()),
        high: Some(loss.high).filter(|high| high.is_finite()),
    };
    if !shares.is_empty() {
        let bars = shares.iter().map(bar).collect();
        let drawing = Drawing::Forest { x: "loss (points)".into(), unit: Unit::Points, bars };
        measure.charts.push(ChartData { title: "Loss by skill".into(), drawing });
    }
    Ok(vec![measure])
}

/// Whether anything is left of a loss as it is shown.
fn is_loss(loss: f64) -> bool {
    loss > 0.0 && Unit::Points.shown(loss) != Unit::Points.shown(0.0)
}

/// What a loss is called: below 0 it is none.
fn signed(what: &str, loss: f64) -> String {
    if is_loss(-loss) { format!("{what} (below 0: a gain)") } else { what.into() }
}

fn loss<'a>(paired: &Paired<'a>, options: &MeasureOptions) -> Loss<'a> {
    let harm = -paired.sign();
    let on = |indices: &[usize]| {
        let of = |scores: &[crate::metrics::ExampleScore]| paired.value(indices.iter().map(|&i| &scores[i]));
        harm * (of(&paired.after) - of(&paired.before))
    };
    let whole: Vec<usize> = (0..paired.n()).collect();
    let interval = interval_of(paired.metric.aggregation, &paired.before, &options.bootstrap, &on);
    let base = paired.base;
    let is_mean = paired.metric.aggregation == crate::metrics::Aggregation::Mean;
    let each = paired.before.iter().zip(&paired.after).map(|(b, a)| harm * (a.score - b.score));
    Loss {
        skill: base.labels.get("skill").map_or(base.task.as_str(), String::as_str),
        task: &base.task,
        is_share: paired.metric.is_share && is_mean,
        before: paired.value(paired.before.iter()),
        after: paired.value(paired.after.iter()),
        loss: on(&whole),
        low: interval.low,
        high: interval.high,
        p: if interval.p.is_nan() { 1.0 } else { interval.p },
        each: each.collect(),
        n: paired.n(),
    }
}

/// The losses of a skill's examples, those of all its tasks; nothing of tasks that are no shares.
fn shares_of(losses: &[Loss<'_>], skill: &str) -> Vec<f64> {
    let own = losses.iter().filter(|loss| loss.skill == skill && loss.is_share);
    own.flat_map(|loss| loss.each.iter().copied()).collect()
}

/// A skill's loss, over the examples of all its tasks, which are drawn task by task.
struct SkillLoss {
    label: String,
    tasks: Vec<String>,
    /// Before, after, loss, and the loss' lower and upper end.
    numbers: [f64; 5],
}

/// `None` of a skill without a task whose score is a share.
fn of_skill(losses: &[Loss<'_>], skill: &str, options: &MeasureOptions) -> Option<SkillLoss> {
    let own: Vec<&Loss<'_>> = losses.iter().filter(|loss| loss.skill == skill && loss.is_share).collect();
    let n: usize = own.iter().map(|loss| loss.n).sum();
    let over = |of: fn(&Loss<'_>) -> f64| own.iter().map(|loss| loss.n as f64 * of(loss)).sum::<f64>() / n as f64;
    let (low, high) = match own.as_slice() {
        [] => return None,
        [one] => (one.low, one.high),
        several => {
            let sizes: Vec<usize> = several.iter().map(|loss| loss.each.len()).collect();
            let of_task = |(loss, at): (&&Loss<'_>, &Vec<usize>)| at.iter().map(|&i| loss.each[i]).sum::<f64>();
            let interval = groups::interval(&sizes, &options.bootstrap, &|drawn| {
                several.iter().zip(drawn).map(of_task).sum::<f64>() / n as f64
            });
            (interval.low, interval.high)
        }
    };
    let label = match own.len() {
        1 => skill.to_owned(),
        tasks => format!("{skill} ({tasks} tasks)"),
    };
    let numbers = [over(|loss| loss.before), over(|loss| loss.after), over(|loss| loss.loss), low, high];
    Some(SkillLoss { label, tasks: own.iter().map(|loss| loss.task.to_owned()).collect(), numbers })
}

fn label(loss: &Loss<'_>) -> String {
    if loss.skill == loss.task { loss.task.to_owned() } else { format!("{} ({})", loss.skill, loss.task) }
}

/// A table of the skills, one of the tasks where a skill has several, and one of those whose metric is no share.
fn tables(losses: &[Loss<'_>], by_skill: &[SkillLoss]) -> Vec<Table> {
    let columns = || ["before", "after", "loss", "from", "to"].map(str::to_owned).into();
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    let of_tasks = |title: &str, is_share: bool, unit: Unit| {
        let of: Vec<&Loss<'_>> = losses.iter().filter(|loss| loss.is_share == is_share).collect();
        (!of.is_empty()).then(|| Table {
            title: title.into(),
            unit,
            columns: columns(),
            rows: of.iter().map(|loss| label(loss)).collect(),
            cells: of.iter().map(|l| [l.before, l.after, l.loss, l.low, l.high].map(finite).into()).collect(),
        })
    };
    let skills = (!by_skill.is_empty()).then(|| Table {
        title: "Skill by skill, in points".into(),
        unit: Unit::Points,
        columns: columns(),
        rows: by_skill.iter().map(|skill| skill.label.clone()).collect(),
        cells: by_skill.iter().map(|skill| skill.numbers.map(finite).into()).collect(),
    });
    let several = by_skill.iter().any(|skill| skill.tasks.len() > 1);
    let tasks = several.then(|| of_tasks("Task by task, in points", true, Unit::Points)).flatten();
    let others = of_tasks("In the metric's own unit", false, Unit::Plain);
    skills.into_iter().chain(tasks).chain(others).collect()
}
