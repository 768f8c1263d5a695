//! A task of a comparison, explained: how the difference between two models came about.

use super::card::{LESS, finite, meaning};
use super::shown::{Texts, of_target};
use super::{Example, ExplainError, Explanation, Options, Way, how, names, number};
use crate::compare::{CompareOptions, SIGNIFICANCE, compare};
use crate::ledger::{Ledger, PairedExample, TaskComparison};
use crate::scorecard::{Scorecard, ScorecardHeader};
use crate::statistics::{BootstrapOptions, power};

/// Numbers of a comparison that are no metric: each is explained with the task it belongs to.
pub const NUMBERS: [&str; 8] =
    ["difference", "gained", "lost", "negative_flip_rate", "positive_flip_rate", "mcnemar_p", "bootstrap_p", "p_holm"];

/// What a comparison knows of a task, from its ledger alone.
pub struct Known<'a> {
    /// The task's line.
    pub task: &'a TaskComparison,
    /// Its examples.
    pub examples: Vec<&'a PairedExample>,
    /// Tasks in the comparison.
    pub tasks: usize,
    /// Both models, as named.
    pub models: (&'a str, &'a str),
    /// What the first model's card says of the task, if it is there.
    pub card: Option<&'a ScorecardHeader>,
    /// Whether the task's texts are withheld, as its scorecard says.
    pub sensitive: bool,
}

/// Explains what was asked of a task: its metric, or one of [`NUMBERS`].
pub fn of(known: &Known<'_>, asked: &str, options: &Options) -> Explanation {
    let task = known.task;
    let header = ScorecardHeader { sensitive: known.sensitive, ..ScorecardHeader::default() };
    let texts = Texts::of(&header, options.show_sensitive);
    let mut examples = known.examples.clone();
    let size = |example: &PairedExample| (example.tuned_score - example.base_score).abs();
    let wanted = |example: &PairedExample| match asked {
        "gained" | "positive_flip_rate" => example.change == "gained",
        "lost" | "negative_flip_rate" => example.change == "lost",
        _ => false,
    };
    examples.sort_by(|a, b| wanted(b).cmp(&wanted(a)).then(size(b).total_cmp(&size(a))).then(lost(b).cmp(&lost(a))));
    let metric = if NUMBERS.contains(&asked) { format!("{asked} of {}", task.metric) } else { task.metric.clone() };
    Explanation {
        task: task.name.clone(),
        metric,
        model: format!("{} → {}", known.models.0, known.models.1),
        definition: definition(asked, task, known.card),
        value: finite(value(asked, task)),
        steps: steps(task, known, options),
        interval: Some((task.ci_low, task.ci_high)).filter(|(low, high)| low.is_finite() && high.is_finite()),
        variants: Vec::new(),
        n: task.n,
        order: "the largest changes first, losses before gains".into(),
        examples: examples.into_iter().take(options.limit).map(|example| shown(example, task, texts)).collect(),
    }
}

/// Explains a metric of two cards that is not the one they were compared by.
///
/// # Errors
/// Cards without the metric, or of different questions.
pub fn of_cards(
    base: &Scorecard,
    tuned: &Scorecard,
    asked: &str,
    options: &Options,
) -> Result<Explanation, ExplainError> {
    let ledger = ledger(base, tuned, asked, options.bootstrap)?;
    let known = Known {
        task: &ledger.tasks[0],
        examples: ledger.examples.iter().collect(),
        tasks: 1,
        models: (&ledger.base, &ledger.tuned),
        card: Some(&base.header),
        sensitive: base.header.sensitive || tuned.header.sensitive,
    };
    Ok(of(&known, asked, options))
}

/// All examples of two cards with their texts, sensitive or not, by a metric.
///
/// # Errors
/// Those of [`of_cards`].
pub fn examples(base: &Scorecard, tuned: &Scorecard, metric: &str) -> Result<Vec<PairedExample>, ExplainError> {
    // Nothing is resampled: only the pairs are wanted.
    let bootstrap = BootstrapOptions { resamples: 0, ..BootstrapOptions::default() };
    Ok(ledger(base, tuned, metric, bootstrap)?.examples)
}

/// Two cards compared by a metric, with all their examples.
fn ledger(
    base: &Scorecard,
    tuned: &Scorecard,
    asked: &str,
    bootstrap: BootstrapOptions,
) -> Result<Ledger, ExplainError> {
    let header = &base.header;
    let Some(metric) = header.metrics.iter().find(|metric| names(asked, &metric.name)) else {
        let known: Vec<&str> = header.metrics.iter().map(|metric| metric.name.as_str()).collect();
        return Err(ExplainError::unknown(asked, &format!("the scorecards of {}", header.task), &known));
    };
    let by = |card: &Scorecard| {
        let mut card = card.clone();
        card.header.main_metric = metric.name.clone();
        card.header.variant = None;
        // What may be shown is decided when it is shown.
        card.header.sensitive = false;
        card
    };
    let options = CompareOptions {
        bootstrap,
        allow_different_prompts: true,
        examples_kept: usize::MAX,
        ..CompareOptions::default()
    };
    Ok(compare(&[by(base)], &[by(tuned)], &options)?)
}

/// The other ways a task was asked, with their differences.
pub fn ways(tasks: &[TaskComparison], name: &str) -> Vec<Way> {
    let family =
        |task: &TaskComparison| task.name.split_once(crate::task::variants::SEPARATOR).map(|(of, _)| of.to_owned());
    let Some(of) = tasks.iter().find(|task| task.name == name).and_then(family) else { return Vec::new() };
    let others = tasks.iter().filter(|task| task.name != name && family(task).as_deref() == Some(&of));
    others.map(|task| Way { task: task.name.clone(), value: finite(task.difference) }).collect()
}

fn lost(example: &PairedExample) -> bool {
    example.change == "lost"
}

fn definition(asked: &str, task: &TaskComparison, card: Option<&ScorecardHeader>) -> String {
    let of = match asked {
        "difference" => "score of the second model less that of the first, on the same questions",
        "gained" => "questions that were wrong before and right after",
        "lost" => "questions that were right before and wrong after",
        "negative_flip_rate" => "share of questions that were right before and wrong after",
        "positive_flip_rate" => "share of questions that were wrong before and right after",
        "mcnemar_p" => "how often gains and losses would be as uneven if each were a coin's flip (exact McNemar test)",
        "bootstrap_p" => {
            "how often resamples of the questions fall on the far side of no difference, twice (bootstrap)"
        }
        "p_holm" => "the p-value after Holm's correction for the number of tasks",
        _ => {
            let of = meaning(card.unwrap_or(&ScorecardHeader::default()), &task.metric);
            let less = if task.target_is_to_avoid() { LESS } else { "" };
            return format!("{of}{less}; here its change from the first model to the second");
        }
    };
    of.into()
}

fn value(asked: &str, task: &TaskComparison) -> f64 {
    match asked {
        "gained" => task.gained as f64,
        "lost" => task.lost as f64,
        "negative_flip_rate" => task.negative_flip_rate,
        "positive_flip_rate" => task.positive_flip_rate,
        "mcnemar_p" => task.mcnemar_p.unwrap_or(f64::NAN),
        "bootstrap_p" => task.bootstrap_p.unwrap_or(f64::NAN),
        "p_holm" => task.p_holm.unwrap_or(f64::NAN),
        _ => task.difference,
    }
}

fn steps(task: &TaskComparison, known: &Known<'_>, options: &Options) -> Vec<String> {
    let TaskComparison { metric, n, gained, lost, both_right, both_wrong, .. } = task;
    let signed = |value: f64| format!("{}{}", if value >= 0.0 { "+" } else { "" }, number(value));
    let mut steps = vec![
        format!("before: {metric} = {} ({})", number(task.base), known.models.0),
        format!("after:  {metric} = {} ({})", number(task.tuned), known.models.1),
    ];
    let difference = signed(task.difference);
    let flips = task.mcnemar_p.is_some();
    if flips {
        steps.push(format!(
            "of {n} questions {gained} were gained, {lost} lost, {both_right} right both times, {both_wrong} wrong both times"
        ));
        let by = if task.higher_is_better { format!("{gained} − {lost}") } else { format!("{lost} − {gained}") };
        steps.push(format!("difference = ({by}) / {n} = {difference}"));
        steps.push(format!("negative_flip_rate = {lost} / {n} = {}", number(task.negative_flip_rate)));
        steps.push(format!("positive_flip_rate = {gained} / {n} = {}", number(task.positive_flip_rate)));
    } else {
        steps.push(format!("difference = {} − {} = {difference}", number(task.tuned), number(task.base)));
    }
    let made = how(&options.bootstrap, &format!("the {n} questions, both answers of a question together"));
    let level = 100.0 * options.bootstrap.level;
    let has_ends = task.ci_low.is_finite() && task.ci_high.is_finite();
    steps.push(match has_ends {
        true => format!("{level:.0} % interval: {} to {}: {made}", signed(task.ci_low), signed(task.ci_high)),
        false => format!("no {level:.0} % interval: a single question says nothing of others"),
    });
    if let Some(p) = task.mcnemar_p {
        let changed = gained + lost;
        steps.push(match changed {
            0 => "exact McNemar test: no answer changed, p = 1".into(),
            _ => format!(
                "exact McNemar test: p = min(1, 2 · P(X ≤ {})), X the heads of {changed} coins, = {}",
                gained.min(lost),
                number(p)
            ),
        });
    } else if let Some(p) = task.bootstrap_p {
        steps.push(format!("p = {}: twice the share of resamples on the far side of 0", number(p)));
    }
    if let Some(p) = task.p_holm.filter(|_| known.tasks > 1) {
        steps.push(format!(
            "after Holm's correction over the {} tasks of the comparison: p = {}",
            known.tasks,
            number(p)
        ));
    }
    let interval = match has_ends {
        true if task.ci_low > 0.0 || task.ci_high < 0.0 => "the interval leaves out 0",
        true => "the interval holds 0",
        false => "there is no interval",
    };
    let p = task.mcnemar_p.or(task.bootstrap_p).unwrap_or(1.0);
    let below = if p < SIGNIFICANCE { "below" } else { "not below" };
    steps.push(format!("{}: {interval}, p is {below} {SIGNIFICANCE}, {n} questions", task.verdict));
    steps.extend(detectable(task, options));
    steps
}

/// What a comparison like this one could have seen.
fn detectable(task: &TaskComparison, options: &Options) -> Option<String> {
    let smallest = smallest_detectable(task, options.bootstrap.level)?;
    Some(format!(
        "a change of ±{} would have been seen in {} of 100 such comparisons",
        number(smallest),
        (100.0 * power::USUAL).round()
    ))
}

/// The smallest difference that a comparison like this task's finds with the usual power, in the metric's unit; `None` where
/// none would be found, or nothing varies.
pub fn smallest_detectable(task: &TaskComparison, level: f64) -> Option<f64> {
    if task.mcnemar_p.is_some() {
        let changed = (task.gained + task.lost) as f64 / task.n.max(1) as f64;
        return power::detectable_share(task.n, changed, level, power::USUAL);
    }
    let half = (task.ci_high - task.ci_low) / 2.0;
    // Half an interval is so many standard errors.
    let errors = power::detectable_mean(1.0, level, 0.5);
    (half.is_finite() && half > 0.0).then(|| power::detectable_mean(half / errors, level, power::USUAL))
}

fn shown(example: &PairedExample, task: &TaskComparison, texts: Texts) -> Example {
    let mut out = Example { id: example.id.clone(), ..Example::default() };
    let words = example.change.replace('_', " ");
    out.fact("score", format!("{} → {} ({words})", number(example.base_score), number(example.tuned_score)));
    out.fact("asked", texts.tail(&example.prompt));
    out.fact(of_target(task.target_is_to_avoid()), texts.head(&example.target));
    if !example.base_answer.is_empty() || !example.tuned_answer.is_empty() {
        out.fact("before", texts.head(&example.base_answer));
        out.fact("after", texts.head(&example.tuned_answer));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(gained: usize, lost: usize) -> TaskComparison {
        let n = 300;
        TaskComparison {
            name: "boolq".into(),
            metric: "acc".into(),
            higher_is_better: true,
            is_share: true,
            n,
            base: 0.5,
            tuned: 0.5 + (gained as f64 - lost as f64) / n as f64,
            difference: (gained as f64 - lost as f64) / n as f64,
            ci_low: 0.06,
            ci_high: 0.18,
            mcnemar_p: Some(crate::statistics::mcnemar_exact(gained as u64, lost as u64)),
            bootstrap_p: Some(0.001),
            effect: None,
            p_holm: Some(0.002),
            unpaired: 0,
            gained,
            lost,
            both_right: 150 - lost,
            both_wrong: 150 - gained,
            negative_flip_rate: lost as f64 / n as f64,
            positive_flip_rate: gained as f64 / n as f64,
            verdict: "better".into(),
            is_target: false,
            is_variant: false,
        }
    }

    fn example(id: &str, change: &str, before: f64, after: f64) -> PairedExample {
        PairedExample {
            task: "boolq".into(),
            id: id.into(),
            change: change.into(),
            prompt: "Is it?".into(),
            target: "yes".into(),
            base_answer: "no".into(),
            tuned_answer: "yes".into(),
            base_score: before,
            tuned_score: after,
        }
    }

    #[test]
    fn the_steps_hold_the_flips_and_the_test() {
        let (task, lost, gained) = (task(58, 21), example("3", "lost", 1.0, 0.0), example("4", "gained", 0.0, 1.0));
        let card = ScorecardHeader { kind: "multiple_choice".into(), ..ScorecardHeader::default() };
        let known = Known {
            task: &task,
            examples: vec![&gained, &lost],
            tasks: 4,
            models: ("base", "tuned"),
            card: Some(&card),
            sensitive: true,
        };
        let found = of(&known, "acc", &Options::default());
        let steps = found.steps.join("\n");
        for part in [
            "before: acc = 0.5000 (base)",
            "difference = (58 − 21) / 300 = +0.1233",
            "2 · P(X ≤ 21)), X the heads of 79 coins, = 3.76e−5",
            "over the 4 tasks",
            "95 % interval: +0.0600 to +0.1800: percentiles of 10,000 resamples of the 300 questions",
            "would have been seen in 80 of 100",
        ] {
            assert!(steps.contains(part), "no {part}: {steps}");
        }
        assert_eq!(found.examples.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["3", "4"], "losses first");
        let texts = format!("{:?}", found.examples);
        assert!(!texts.contains("Is it?") && texts.contains("withheld"), "{texts}");
        let gains = of(&known, "gained", &Options { show_sensitive: true, ..Options::default() });
        assert_eq!((gains.value, gains.examples[0].id.as_str()), (58.0, "4"));
        assert!(format!("{:?}", gains.examples).contains("Is it?"));
    }

    #[test]
    fn a_single_question_has_no_interval_and_no_number_that_is_none() {
        let one = TaskComparison { n: 1, ci_low: f64::NAN, ci_high: f64::NAN, ..task(0, 1) };
        let known = Known { task: &one, examples: vec![], tasks: 1, models: ("a", "b"), card: None, sensitive: false };
        let found = of(&known, "acc", &Options::default());
        let steps = found.steps.join("\n");
        assert!(steps.contains("no 95 % interval") && steps.contains("there is no interval"), "{steps}");
        assert!(!steps.contains("NaN") && found.interval.is_none(), "{steps}");
        // And the ledger is read again.
        let text = serde_json::to_string(&one).unwrap();
        assert!(text.contains("\"ci_low\":null"), "{text}");
        let read: TaskComparison = serde_json::from_str(&text).unwrap();
        assert!(read.ci_low.is_nan() && read.ci_high.is_nan());
    }

    #[test]
    fn what_could_have_been_seen_comes_from_flips_or_from_the_interval() {
        let flips = task(58, 21);
        let expected = power::detectable_share(300, 79.0 / 300.0, 0.95, power::USUAL);
        assert_eq!(smallest_detectable(&flips, 0.95), expected);
        let scores = TaskComparison { mcnemar_p: None, ..flips };
        // Half the interval is 1.96 standard errors, and it takes 2.80 of them.
        let found = smallest_detectable(&scores, 0.95).unwrap();
        assert!((found - 0.06 / 1.959_964 * 2.801_585).abs() < 1e-6, "{found}");
    }
}
