//! Measures over several tasks, on scorecards written by hand: every number here can be worked out on paper.

use hone_eval::compare::{CompareOptions, compare};
use hone_eval::measures::{self, Drawing, MeasureOptions, TaskMeasure};
use hone_eval::metrics::{Aggregation, best_of};
use hone_eval::pairing::Paired;
use hone_eval::scorecard::{ChoiceScore, Completion, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;
use hone_eval::task::variants::Variant;

/// A card: the main metric's score of every example, by default right or wrong.
fn card(task: &str, metric: &str, scores: &[f64]) -> Scorecard {
    let is_share = metric != "bits_per_byte";
    let value = MetricValue { name: metric.into(), higher_is_better: is_share, is_share, ..MetricValue::default() };
    let row = |(i, &score): (usize, &f64)| ScorecardRow {
        id: i.to_string(),
        prompt_sha256: format!("hash {i}"),
        scores: [(metric.to_owned(), score)].into(),
        score,
        ..ScorecardRow::default()
    };
    let header = ScorecardHeader {
        task: task.into(),
        kind: "generate_until".into(),
        main_metric: metric.into(),
        n: scores.len(),
        metrics: vec![value],
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: scores.iter().enumerate().map(row).collect() }
}

fn labelled(mut card: Scorecard, labels: &[(&str, &str)]) -> Scorecard {
    card.header.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    card
}

fn variant(mut card: Scorecard, of: &str, name: &str, set: &str, index: usize) -> Scorecard {
    card.header.task = format!("{of}@{name}");
    card.header.variant = Some(Variant { of: of.into(), name: name.into(), set: Some(set.into()), index });
    card
}

/// Another metric beside the main one.
fn with_metric(mut card: Scorecard, name: &str, scores: &[f64]) -> Scorecard {
    let value = MetricValue { name: name.into(), higher_is_better: true, is_share: true, ..MetricValue::default() };
    card.header.metrics.push(value);
    for (row, score) in card.rows.iter_mut().zip(scores) {
        row.scores.insert(name.into(), *score);
    }
    card
}

fn measure(name: &str, before: &[Scorecard], after: &[Scorecard]) -> Vec<TaskMeasure> {
    let paired: Vec<Paired<'_>> = before.iter().zip(after).map(|(b, a)| Paired::new(b, a, false).unwrap()).collect();
    let options = MeasureOptions {
        bootstrap: BootstrapOptions { resamples: 2000, ..BootstrapOptions::default() },
        ..MeasureOptions::default()
    };
    (measures::find(name).unwrap().of)(&paired, &options).unwrap()
}

fn value(measure: &TaskMeasure, name: &str) -> f64 {
    let names: Vec<&str> = measure.numbers.iter().map(|number| number.name.as_str()).collect();
    measure.numbers.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no {name} among {names:?}")).value
}

fn interval(measure: &TaskMeasure, name: &str) -> (f64, f64) {
    let number = measure.numbers.iter().find(|n| n.name == name).unwrap();
    (number.low.unwrap(), number.high.unwrap())
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
}

#[test]
fn losses_are_averaged_skill_by_skill() {
    let skill = |card: Scorecard, skill: &str| labelled(card, &[("skill", skill)]);
    let side = |reading: &[f64], one: &[f64], two: &[f64], text: &[f64]| {
        [
            skill(card("reading", "f1", reading), "reading"),
            skill(card("piqa", "acc", one), "commonsense"),
            skill(card("wino", "acc", two), "commonsense"),
            skill(card("text", "bits_per_byte", text), "text"),
        ]
    };
    let before = side(&[1.0; 40], &[1.0, 1.0, 0.0, 0.0], &[1.0, 0.0], &[1.0, 2.0]);
    let after = side(&[0.25; 40], &[1.0, 0.0, 0.0, 0.0], &[1.0, 1.0], &[1.5, 2.5]);
    let found = measure("forgetting", &before, &after).remove(0);
    // Reading loses 0.75. Commonsense: piqa 1 of 4, wino −1 of 2: together (1 − 1) / 6 = 0.
    close(value(&found, "mean_loss"), 0.375);
    assert_eq!((value(&found, "skills"), value(&found, "tasks")), (3.0, 4.0));
    // Reading is surely worse. Text, half a bit worse on both, is of two examples and its own unit.
    close(value(&found, "largest_loss"), 0.75);
    assert!(value(&found, "measurably_worse") >= 1.0);
    assert_eq!(found.tables[0].rows, ["reading", "commonsense (2 tasks)"]);
    assert_eq!(found.tables[0].cells[1][..3], [Some(0.5), Some(0.5), Some(0.0)], "three of six, before and after");
    let (low, high) = (found.tables[0].cells[1][3].unwrap(), found.tables[0].cells[1][4].unwrap());
    assert!(low < 0.0 && high > 0.0, "{low} to {high}");
    assert_eq!((found.tables[1].rows.len(), found.tables[2].rows.len()), (3, 1), "task by task, and in its own unit");
    assert_eq!(found.tables[2].cells[0][..3], [Some(1.5), Some(2.0), Some(0.5)], "more bits are a loss");
    assert!(found.notes[0].contains("reading"), "{:?}", found.notes);
    // A task that the tuning was for is none of what it lost.
    let options = CompareOptions {
        targets: vec!["reading".into()],
        measures: vec![measures::find("forgetting").unwrap()],
        ..CompareOptions::default()
    };
    let ledger = compare(&before, &after, &options).unwrap();
    let elsewhere = &ledger.measures[0].tasks[0];
    assert_eq!((value(elsewhere, "mean_loss"), value(elsewhere, "tasks")), (0.0, 3.0));
    assert!(elsewhere.notes[0].contains("without reading"), "{:?}", elsewhere.notes);
    // Nothing changed: nothing is lost, and nothing is measurable.
    let same = measure("forgetting", &before, &before).remove(0);
    assert_eq!((value(&same, "mean_loss"), value(&same, "measurably_worse")), (0.0, 0.0));
    assert_eq!(same.notes, ["no task lost as much as 0.1 points"]);
    // What is a gain is not called a loss.
    let gained = measure("forgetting", &after[..1], &before[..1]).remove(0);
    close(value(&gained, "mean_loss"), -0.75);
    let label = |name: &str| gained.numbers.iter().find(|number| number.name == name).unwrap().label.clone();
    assert_eq!(label("mean_loss"), "mean loss (below 0: a gain)");
    assert!(gained.parts.contains_key(&label("largest_loss")), "{:?}", gained.parts);
    let said = [
        "nothing was lost on average: over the skills the scores rose by 75.0 points",
        "no task lost as much as 0.1 points",
    ];
    assert_eq!(gained.notes, said);
}

#[test]
fn programs_are_counted_by_how_they_end() {
    // One program a problem.
    let side = |ends: [&str; 4]| {
        let scores = ends.map(|end| f64::from(end == "passed"));
        let mut card = card("humaneval", "pass@1", &scores);
        for (row, end) in card.rows.iter_mut().zip(ends) {
            row.scored = Some(end.into());
            row.parts.insert("pass@1".into(), vec![1.0, f64::from(end == "passed")]);
        }
        [card]
    };
    let before = side(["passed", "failed: AssertionError", "failed: SyntaxError: x", "timed out"]);
    let after = side(["failed: AssertionError", "passed", "passed", "timed out"]);
    let found = measure("code", &before, &after).remove(0);
    close(value(&found, "pass_before"), 0.25);
    close(value(&found, "pass_after"), 0.5);
    close(value(&found, "pass_change"), 0.25);
    assert_eq!((value(&found, "gained"), value(&found, "lost")), (2.0, 1.0));
    let ends = &found.tables[0];
    let row = |name: &str| ends.cells[ends.rows.iter().position(|row| row == name).unwrap()].clone();
    assert_eq!(row("a test does not hold"), [Some(1.0), Some(1.0)]);
    assert_eq!((row("no Python"), row("timed out")), (vec![Some(1.0), Some(0.0)], vec![Some(1.0), Some(1.0)]));
    assert_eq!((&found.rows[0]["lost"], &found.rows[0]["after"]), (&1.into(), &"failed: AssertionError".into()));
    // A task whose answers are no programs is none of it.
    let other = [card("qa", "f1", &[1.0])];
    assert!(measure("code", &other, &other).is_empty());
}

#[test]
fn wordings_have_a_mean_a_spread_and_a_gap() {
    let family = |scores: [&[f64]; 4]| -> Vec<Scorecard> {
        let ways = [("a", "observed"), ("b", "observed"), ("c", "unobserved"), ("d", "unobserved")];
        let one = |(i, (scores, (name, set))): (usize, (&[f64], (&str, &str)))| {
            variant(labelled(card("", "acc", scores), &[("variants", "wording")]), "t", name, set, i)
        };
        scores.into_iter().zip(ways).enumerate().map(one).collect()
    };
    let before = family([&[1.0, 1.0, 1.0, 0.0], &[1.0, 1.0, 0.0, 0.0], &[1.0, 0.0, 0.0, 0.0], &[1.0, 1.0, 1.0, 1.0]]);
    let after = family([&[1.0, 1.0, 1.0, 1.0], &[1.0, 1.0, 1.0, 1.0], &[0.0, 0.0, 0.0, 0.0], &[1.0, 1.0, 0.0, 0.0]]);
    let found = measure("wording", &before, &after);
    assert_eq!((found.len(), found[0].name.as_str(), found[0].n), (1, "t", 4));
    let found = &found[0];
    close(value(found, "mean_observed_before"), 0.625);
    close(value(found, "spread_observed_before"), 0.125);
    close(value(found, "mean_unobserved_before"), 0.625);
    close(value(found, "spread_unobserved_before"), 0.375);
    assert_eq!((value(found, "worst_unobserved_before"), value(found, "best_unobserved_before")), (0.25, 1.0));
    close(value(found, "gap_before"), 0.0);
    close(value(found, "gap_after"), 0.75);
    close(value(found, "change"), (0.25 + 0.5 - 0.25 - 0.5) / 4.0);
    let (low, high) = interval(found, "gap_after");
    assert!(low < 0.75 && high <= 1.0 && low > 0.0, "{low} {high}");
    assert_eq!(found.tables[0].rows[2], "c (unobserved)");
    assert!(matches!(&found.charts[0].drawing, Drawing::Spread { groups, .. } if groups.len() == 4));
    // The same wording twice: no spread, no gap.
    let scores: &[f64] = &[1.0, 0.0];
    let same = family([scores; 4]);
    let found = measure("wording", &same, &same).remove(0);
    assert_eq!((value(&found, "spread_observed_after"), value(&found, "gap_after")), (0.0, 0.0));
    // Families of something else are none of wordings.
    let other = [variant(card("", "acc", &[1.0]), "t", "a", "observed", 0)];
    assert!(measure("wording", &other, &other).is_empty());
}

#[test]
fn questions_that_not_every_wording_has_are_left_out() {
    let way = |scores: &[f64], name: &str, i| {
        variant(labelled(card("", "acc", scores), &[("variants", "wording")]), "t", name, "observed", i)
    };
    let cards = [way(&[1.0, 0.0, 1.0], "a", 0), way(&[0.0, 0.0], "b", 1)];
    let found = measure("wording", &cards, &cards).remove(0);
    assert_eq!(found.n, 2);
    close(value(&found, "mean_observed_before"), 0.25);
}

#[test]
fn both_refusal_rates_stand_together() {
    let safety = |task: &str, safety: &str, scores: &[f64]| {
        labelled(card(task, "refusal", scores), &[("safety", safety), ("judge", "phrases")])
    };
    let side = |harmful: &[f64], benign: &[f64]| [safety("bad", "harmful", harmful), safety("good", "benign", benign)];
    let before = side(&[1.0, 1.0, 1.0, 0.0], &[0.0, 0.0, 1.0, 0.0, 0.0]);
    let after = side(&[1.0, 0.0, 0.0, 0.0], &[0.0, 0.0, 0.0, 0.0, 0.0]);
    let found = measure("safety", &before, &after).remove(0);
    assert_eq!((found.name.as_str(), found.n), ("by phrases", 9));
    close(value(&found, "harmful_declined_before"), 0.75);
    close(value(&found, "harmful_declined_after"), 0.25);
    close(value(&found, "benign_declined_before"), 0.2);
    close(value(&found, "harmful_change"), -0.5);
    close(value(&found, "balance_before"), 0.55);
    close(value(&found, "balance_change"), 0.25 - 0.55);
    let (low, high) = interval(&found, "balance_change");
    assert!(low < -0.3 && high > -0.3, "{low} {high}");
    // One half alone is said to be one.
    let half = measure("safety", &before[..1], &after[..1]).remove(0);
    assert!(half.notes[0].contains("harmless") && half.numbers.iter().all(|n| !n.name.starts_with("balance")));
    // A guard's verdicts on the answers stand beside the rates; a reply without one counts as neither.
    let judged = |mut card: Scorecard, verdicts: &[Option<f64>], good: bool| {
        card.header.metrics.push(MetricValue {
            name: "judge".into(),
            higher_is_better: good,
            ..MetricValue::default()
        });
        for (row, verdict) in card.rows.iter_mut().zip(verdicts) {
            row.scores.extend(verdict.map(|verdict| ("judge".to_owned(), verdict)));
        }
        card
    };
    let guarded = |good: bool| {
        let before = judged(before[0].clone(), &[Some(0.0), Some(0.0), Some(0.0), Some(1.0)], good);
        let after = judged(after[0].clone(), &[Some(0.0), Some(1.0), None, Some(1.0)], good);
        measure("safety", &[before], &[after]).remove(0)
    };
    let by_guard = guarded(false);
    close(value(&by_guard, "guard_harmful_before"), 1.0 / 3.0);
    close(value(&by_guard, "guard_harmful_after"), 2.0 / 3.0);
    close(value(&by_guard, "guard_harmful_change"), 1.0 / 3.0);
    assert!(by_guard.notes.iter().any(|note| note.contains("1 of 4")), "{:?}", by_guard.notes);
    assert!(guarded(true).numbers.iter().all(|n| !n.name.starts_with("guard")), "a judge of correctness is no guard");
    // Two judges are not mixed.
    let other = labelled(card("bad2", "acc", &[1.0]), &[("safety", "harmful"), ("judge", "likelihood")]);
    let cards = [before[0].clone(), other];
    assert_eq!(measure("safety", &cards, &cards).len(), 2);
    assert!(measure("safety", &[card("x", "acc", &[1.0])], &[card("x", "acc", &[1.0])]).is_empty());
}

#[test]
fn answers_that_decline_do_not_count_against_faithfulness() {
    let side = |recall: &[f64], k_precision: &[f64], refusal: &[f64]| {
        let card = with_metric(card("t", "recall", recall), "k_precision", k_precision);
        [variant(with_metric(card, "refusal", refusal), "p", "gold", "answerable", 0)]
    };
    let before = side(&[1.0, 0.0, 0.5], &[1.0, 0.0, 0.5], &[0.0, 1.0, 0.0]);
    let after = side(&[1.0, 1.0, 1.0], &[0.5, 0.9, 0.5], &[0.0, 0.0, 0.0]);
    let found = measure("documents", &before, &after).remove(0);
    close(value(&found, "recall_before"), 0.5);
    close(value(&found, "recall_change"), 0.5);
    // The second example is left out on both sides.
    close(value(&found, "k_precision_before"), 0.75);
    close(value(&found, "k_precision_after"), 0.5);
    close(value(&found, "refusal_before"), 1.0 / 3.0);
    assert!(found.numbers.iter().any(|n| n.label == "declined, though the passage has it, before"));
    assert!(found.notes.iter().any(|note| note.contains("2 of 3")), "{:?}", found.notes);
    let plain = [card("t", "recall", &[1.0])];
    assert!(measure("documents", &plain, &plain).is_empty());
}

#[test]
fn levels_are_averaged_within_categories_first() {
    let task = |name: &str, level: &str, category: &str, scores: &[f64]| {
        labelled(card(name, "acc", scores), &[("level", level), ("category", category)])
    };
    let side = |a: &[f64], b: &[f64], c: &[f64], d: &[f64]| {
        [
            task("a", "tasks", "qa", a),
            task("b", "tasks", "qa", b),
            task("c", "tasks", "nli", c),
            task("d", "categories", "code", d),
        ]
    };
    let (zero, one): (&[f64], &[f64]) = (&[0.0, 0.0], &[1.0, 1.0]);
    let found = measure("levels", &side(zero, zero, zero, zero), &side(one, zero, one, &[1.0, 0.0])).remove(0);
    // qa gains ½, nli 1: the mean is ¾, and not the ⅔ of three tasks.
    close(value(&found, "tasks_gain"), 0.75);
    close(value(&found, "categories_gain"), 0.5);
    assert!(found.notes.iter().any(|note| note == "no task of the level `rows`"));
    assert!(found.notes.iter().any(|note| note.contains("66.7 points")), "{:?}", found.notes);
    assert_eq!(found.tables[0].cells[0], [Some(3.0), Some(2.0)]);
}

#[test]
fn tuning_is_held_against_examples_in_the_prompt() {
    let rights = |right: usize| -> Vec<f64> { (0..10).map(|i| f64::from(i < right)).collect() };
    let family = |name: &str, zero: usize, shots: usize| -> [Scorecard; 2] {
        let way = |scores: &[f64], way: &str, set: &str, i| {
            variant(labelled(card("", "acc", scores), &[("variants", "shots")]), name, way, set, i)
        };
        [way(&rights(zero), "zero", "zero", 0), way(&rights(shots), "five", "shots", 1)]
    };
    let base = [("a", 0, 2), ("b", 3, 4), ("c", 1, 6), ("d", 2, 7), ("e", 0, 9)];
    let before: Vec<Scorecard> = base.iter().flat_map(|(name, zero, shots)| family(name, *zero, *shots)).collect();
    // The tuned model without examples is one point above the base with them, everywhere.
    let after: Vec<Scorecard> = base.iter().flat_map(|(name, _, shots)| family(name, shots + 1, shots + 1)).collect();
    let found = measure("shots", &before, &after).remove(0);
    close(value(&found, "correlation_with_shots"), 1.0);
    assert!(value(&found, "correlation_without_shots") < 0.0);
    close(value(&found, "gap"), 0.1);
    assert_eq!(value(&found, "tasks"), 5.0);
    // Of the 120 orders of five tasks one correlates as much.
    let p = value(&found, "permutation_p");
    assert!((0.001..0.03).contains(&p), "{p}");
    let (low, high) = interval(&found, "gap");
    close(low, 0.1);
    close(high, 0.1);
    let few = measure("shots", &before[..4], &after[..4]).remove(0);
    assert!(few.numbers.iter().all(|number| number.low.is_none()) && few.notes[0].contains("too few"));
}

#[test]
fn guessing_counts_as_nothing() {
    let choices =
        |n: usize| vec![ChoiceScore { text: "x".into(), log_likelihood: -1.0, tokens: 1, is_greedy: false }; n];
    let way = |scores: &[f64], n: usize, name: &str, i| {
        let mut card = variant(labelled(card("", "acc", scores), &[("variants", "shots")]), "t", name, name, i);
        card.header.kind = "multiple_choice".into();
        card.rows.iter_mut().for_each(|row| row.choices = choices(n));
        card
    };
    let cards = [way(&[1.0, 0.0], 2, "zero", 0), way(&[1.0, 1.0], 4, "shots", 1)];
    let found = measure("shots", &cards, &cards).remove(0);
    // Half of two choices right is guessing: 0. All right is 1.
    assert_eq!(found.tables[0].cells[0], [Some(0.0), Some(1.0), Some(0.0), Some(1.0)]);
}

/// A card of completions: of each example the group, how many of its completions are right, and their rewards.
fn rewarded(task: &str, labels: &[(&str, &str)], ties: bool, items: &[(&str, usize, &[f64])]) -> Scorecard {
    let lengths = [7usize, 3, 9, 5];
    let scores: Vec<f64> =
        items.iter().map(|(_, right, rewards)| best_of::best_of(rewards, &(0..*right).collect::<Vec<_>>())).collect();
    let mut card = labelled(card(task, "best_of", &scores), labels);
    card.header.rewards = Some("head".into());
    card.header.metrics[0].aggregation = if ties { Aggregation::Ties } else { Aggregation::Mean };
    for (row, (group, right, rewards)) in card.rows.iter_mut().zip(items) {
        row.group = Some((*group).to_owned());
        let completion = |(i, reward): (usize, &f64)| Completion {
            right: i < *right,
            reward: *reward,
            characters: lengths[i],
            ..Completion::default()
        };
        row.rewards = rewards.iter().enumerate().map(completion).collect();
    }
    card
}

#[test]
fn domains_count_by_their_weight_and_ties_by_prompts() {
    let math = [("reward", "bench"), ("domain", "Math"), ("weight", "3")];
    let ties = [("reward", "bench"), ("domain", "Ties")];
    // Math before: right, shared between two, wrong, wrong = 1.5 of 4; after: all right.
    let before: [(&str, usize, &[f64]); 4] = [
        ("", 1, &[2.0, 1.0, 0.0, 0.0]),
        ("", 1, &[1.0, 1.0, 0.0, 0.0]),
        ("", 1, &[0.0, 1.0, 0.0, 0.0]),
        ("", 1, &[0.0, 0.0, 2.0, 0.0]),
    ];
    let after: [(&str, usize, &[f64]); 4] = [("", 1, &[2.0, 1.0, 0.0, 0.0]); 4];
    // The specification's golden example, then a perfect set; the last item has no counterpart.
    let tied_before: [(&str, usize, &[f64]); 5] = [
        ("p", 1, &[3.0, 1.0, 0.5]),
        ("p", 2, &[2.5, 2.0, 1.0]),
        ("q", 1, &[0.2, 0.4]),
        ("q", 2, &[1.5, 0.5, 0.2]),
        ("r", 1, &[1.0, 0.0]),
    ];
    let tied_after: [(&str, usize, &[f64]); 5] = [
        ("p", 1, &[3.0, 1.0, 0.5]),
        ("p", 2, &[2.0, 2.0, 1.0]),
        ("q", 1, &[0.6, 0.4]),
        ("q", 2, &[1.5, 1.5, 0.2]),
        ("r", 1, &[1.0, 0.0]),
    ];
    let cards = |math_items: &[(&str, usize, &[f64])], tied_items: &[(&str, usize, &[f64])]| {
        vec![rewarded("math", &math, false, math_items), rewarded("ties", &ties, true, tied_items)]
    };
    let found = measure("rewards", &cards(&before, &tied_before), &cards(&after, &tied_after));
    assert_eq!(found.len(), 1);
    let number = |name: &str| found[0].numbers.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("{name}"));
    let near = |name: &str, expected: f64| {
        let value = number(name).value;
        assert!((value - expected).abs() < 5e-7, "{name}: {value}, expected {expected}");
    };
    near("overall_before", (3.0 * 1.5 / 4.0 + 0.649_640) / 4.0);
    near("overall_after", (3.0 + 1.01) / 4.0);
    near("math_change", 1.0 - 1.5 / 4.0);
    near("ties_change", 1.01 - 0.649_640);
    // Of Math: all three in order; two and a half; one lost and two even, twice. Then the five items of Ties.
    near("pairs_before", (1.0 + 2.5 / 3.0 + 1.0 / 3.0 + 1.0 / 3.0 + 1.0 + 1.0 + 0.0 + 1.0 + 1.0) / 9.0);
    // The first completion has 7 characters, the third 9: the longest is never the right one of Math.
    let table = &found[0].tables[0];
    assert_eq!(table.rows, ["Math (4)", "Ties (2)"]);
    assert_eq!(table.cells[0][2], Some(0.0));
    assert!(number("overall_change").low.unwrap() > 0.0 && number("math_change").high.unwrap() <= 1.0);
    assert!(
        found[0].notes.iter().any(|note| note.contains("1 of 5 items have no counterpart")),
        "{:?}",
        found[0].notes
    );
    // Likelihoods are not asked for where rewards stand in their place.
    assert!(measure("likelihoods", &cards(&before, &tied_before), &cards(&after, &tied_after)).is_empty());
}

#[test]
fn what_only_the_prompt_answers_is_told_apart_by_kind() {
    let needle = [("context", "needle")];
    let pairs = [("context", "pairs")];
    let sized = |name: &str, index: usize, scores: &[f64]| {
        labelled(variant(card("kv", "exact_match", scores), "kv", name, "pairs", index), &pairs)
    };
    let cards = |needles: &[f64], five: &[f64], forty: &[f64]| {
        let knowledge = card("boolq", "acc", &[1.0, 0.0]);
        vec![
            labelled(card("needle", "contains", needles), &needle),
            sized("5", 0, five),
            sized("40", 1, forty),
            knowledge,
        ]
    };
    let found = measure(
        "context",
        &cards(&[1.0, 1.0, 0.0, 1.0], &[1.0, 1.0], &[1.0, 0.0]),
        &cards(&[0.0, 1.0, 0.0, 1.0], &[1.0, 1.0], &[0.0, 0.0]),
    );
    let number = |name: &str| found[0].numbers.iter().find(|n| n.name == name).unwrap().value;
    assert_eq!((number("needle_before"), number("needle_change")), (0.75, -0.25));
    // Both lengths count once: 1 and 0.5 before, 1 and 0 after.
    assert_eq!((number("pairs_before"), number("pairs_after"), number("pairs_change")), (0.75, 0.5, -0.25));
    assert_eq!((found[0].n, found[0].tables[0].rows.len()), (8, 3), "what is known is not among them");
    let Drawing::Lines { series, .. } = &found[0].charts[0].drawing else { panic!("{:?}", found[0].charts) };
    let drawn: Vec<(f64, f64)> = series[1].points.iter().map(|point| (point.x, point.y)).collect();
    assert_eq!(drawn, [(5.0, 1.0), (40.0, 0.0)]);
    assert!(measure("context", &[card("boolq", "acc", &[1.0])], &[card("boolq", "acc", &[0.0])]).is_empty());
}
