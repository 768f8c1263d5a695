//! A comparison with every measure there is, those that other verbs make too: each number of each leads to the rows behind it.

mod given;

use std::collections::BTreeMap;

use hone_eval::compare::{CompareOptions, compare};
use hone_eval::measures::MEASURES;
use hone_eval::reasoning::Trace;
use hone_eval::reasoning::interventions::Intervention;
use hone_eval::scorecard::{ChoiceScore, Completion, MetricValue, Scorecard, ScorecardHeader, ScorecardRow};
use hone_eval::statistics::BootstrapOptions;
use hone_eval::task::variants::Variant;
use hone_report::{Report, Side, Source};

/// Questions of two choices, right where the score is 1.
fn card(task: &str, scores: &[f64]) -> Scorecard {
    let choice = |text: &str, log_likelihood: f64| ChoiceScore {
        text: text.into(),
        log_likelihood,
        tokens: 1,
        is_greedy: false,
    };
    let row = |(i, &score): (usize, &f64)| ScorecardRow {
        id: i.to_string(),
        prompt_sha256: format!("hash {i}"),
        target: "yes".into(),
        answer: if score == 1.0 { "yes" } else { "no" }.into(),
        choices: vec![choice("no", -1.5), choice("yes", score - 2.0)],
        scores: [("acc".to_owned(), score)].into(),
        score,
        ..ScorecardRow::default()
    };
    let header = ScorecardHeader {
        task: task.into(),
        kind: "multiple_choice".into(),
        main_metric: "acc".into(),
        n: scores.len(),
        metrics: vec![share("acc")],
        ..ScorecardHeader::default()
    };
    Scorecard { header, rows: scores.iter().enumerate().map(row).collect() }
}

fn share(name: &str) -> MetricValue {
    MetricValue { name: name.into(), higher_is_better: true, is_share: true, ..MetricValue::default() }
}

fn labelled(mut card: Scorecard, labels: &[(&str, &str)]) -> Scorecard {
    card.header.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    card
}

fn way(mut card: Scorecard, name: &str, set: &str, index: usize) -> Scorecard {
    let of = card.header.task.clone();
    card.header.task = format!("{of}@{name}");
    card.header.variant = Some(Variant { of, name: name.into(), set: Some(set.into()), index });
    card
}

/// Written answers with a passage.
fn written(scores: &[f64]) -> Scorecard {
    let mut card = card("passages", scores);
    card.header.kind = "generate_until".into();
    card.header.metrics.push(share("recall"));
    card.header.metrics.push(share("k_precision"));
    for row in &mut card.rows {
        row.choices.clear();
        row.scored = Some(row.answer.clone());
        row.scores.extend([("recall".to_owned(), row.score), ("k_precision".to_owned(), 0.5)]);
    }
    card
}

/// Programs that pass, or of which a test fails.
fn programs(scores: &[f64]) -> Scorecard {
    let mut card = card("programs", scores);
    card.header.kind = "generate_until".into();
    card.header.main_metric = "pass@1".into();
    card.header.metrics = vec![share("pass@1")];
    for row in &mut card.rows {
        row.choices.clear();
        row.scored = Some(if row.score == 1.0 { "1 passed" } else { "1 failed: AssertionError" }.into());
        row.scores = [("pass@1".to_owned(), row.score)].into();
    }
    card
}

fn rewarded(task: &str, domain: &str, scores: &[f64]) -> Scorecard {
    let mut card = labelled(card(task, scores), &[("reward", "bench"), ("domain", domain)]);
    card.header.rewards = Some("head".into());
    for row in &mut card.rows {
        let reward = |right: bool, reward: f64| Completion { right, reward, characters: 3, ..Completion::default() };
        row.rewards = vec![reward(true, row.score), reward(false, 0.5)];
        row.choices.clear();
    }
    card
}

/// Two steps of reasoning before each answer, the first two of which move where they are cut.
fn reasoned(scores: &[f64]) -> Scorecard {
    let mut card = card("quiz", scores);
    for (i, row) in card.rows.iter_mut().enumerate() {
        let texts = |first: &str| vec![first.to_owned(), row.answer.clone()];
        let other = if i < 2 { "maybe" } else { row.answer.as_str() };
        let answers = BTreeMap::from([(Intervention::Cut, texts(other)), (Intervention::Filler, texts(&row.answer))]);
        row.reasoning = Some(Trace { text: "…".into(), steps: 2, answers });
    }
    card
}

/// One side: the same questions, of which the second model has others right.
fn side(right: [f64; 6]) -> Vec<Scorecard> {
    let turned = |by: usize| {
        let mut scores = right;
        scores.rotate_left(by);
        scores
    };
    let wording = |name: &str, set: &str, i: usize| {
        way(labelled(card("wordings", &turned(i)), &[("variants", "wording")]), name, set, i)
    };
    let shots = |task: &str, by: usize| {
        [("none", "zero", 0), ("five", "shots", 1)]
            .map(|(name, set, i)| way(labelled(card(task, &turned(by + i)), &[("variants", "shots")]), name, set, i))
    };
    let mut cards = vec![
        labelled(card("boolq", &right), &[("skill", "reading")]),
        labelled(card("piqa", &turned(1)), &[("skill", "common sense")]),
        labelled(card("siqa", &turned(2)), &[("skill", "common sense")]),
        wording("w1", "observed", 0),
        wording("w2", "observed", 1),
        wording("w3", "unobserved", 2),
        written(&right),
        programs(&turned(5)),
        labelled(card("needle", &turned(3)), &[("context", "needle")]),
        labelled(card("keys", &turned(4)), &[("context", "pairs")]),
        labelled(card("harmful", &right), &[("safety", "harmful")]),
        labelled(card("harmless", &turned(1)), &[("safety", "benign")]),
        rewarded("bench_math", "Math", &right),
        rewarded("bench_facts", "Facts", &turned(2)),
        labelled(card("held_out", &right), &[("level", "tasks"), ("category", "qa")]),
        way(card("quiz", &turned(1)), "direct", "direct", 0),
        way(reasoned(&right), "reasoned", "reasoned", 1),
    ];
    for (by, task) in ["sum", "negation", "plural", "letters", "months"].into_iter().enumerate() {
        cards.extend(shots(task, by));
    }
    cards
}

fn report() -> Report {
    let (base, tuned) = (side([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), side([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
    let options = CompareOptions {
        bootstrap: BootstrapOptions { resamples: 200, ..BootstrapOptions::default() },
        measures: MEASURES.iter().collect(),
        ..CompareOptions::default()
    };
    let mut ledger = compare(&base, &tuned, &options).expect("the cards are comparable");
    let found: Vec<&str> = ledger.measures.iter().map(|measure| measure.name.as_str()).collect();
    assert_eq!(found, MEASURES.iter().map(|measure| measure.name).collect::<Vec<_>>(), "every measure has numbers");
    let source = |task: &str, side: Side, word: &str| Source {
        task: task.into(),
        side,
        path: format!("../{word}/{task}.jsonl"),
    };
    let [looked, scored, ladder] = given::measures();
    // Of maps there are no rows: the file stands for them.
    let maps = looked.tasks.iter().flat_map(|task| {
        [Side::Base, Side::Tuned].map(|side| Source {
            task: task.name.clone(),
            side,
            path: "../look/attention.json".into(),
        })
    });
    let maps: Vec<Source> = maps.collect();
    ledger.measures.extend([looked, scored, ladder]);
    let sources = ledger
        .tasks
        .iter()
        .flat_map(|task| [source(&task.name, Side::Base, "base"), source(&task.name, Side::Tuned, "tuned")]);
    Report {
        title: "every measure".into(),
        sources: sources.chain(maps).collect(),
        scorecards: Vec::new(),
        run: None,
        invariants: Vec::new(),
        provenance: Vec::new(),
        command: "hone compare base tuned".into(),
        ledger,
    }
}

/// The cells of a measure's section: their text with its tags.
fn cells(section: &str) -> Vec<&str> {
    section.split("<td class=\"").skip(1).filter_map(|rest| rest.split("</td>").next()).collect()
}

/// What is shown, without tags and without what stands before the cell's text.
fn text(cell: &str) -> String {
    let mut shown = String::new();
    let mut inside = true;
    for c in cell.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            c if !inside => shown.push(c),
            _ => {}
        }
    }
    shown
}

#[test]
fn every_number_of_every_measure_leads_to_its_rows() {
    let report = report();
    let html = hone_report::render(&report).expect("rendered").replace("&#x2f;", "/");
    let files: Vec<String> = report.sources.iter().map(|source| source.path.clone()).collect();
    let mut counted = BTreeMap::new();
    for measure in &report.ledger.measures {
        let section = html.split(&format!("<section id=\"measure-{}\"", measure.name)).nth(1);
        let section = section.and_then(|rest| rest.split("</section>").next()).expect("the measure's section");
        for cell in cells(section) {
            let text = text(cell);
            let is_number = text.trim_start_matches(['−', '+']).starts_with(|c: char| c.is_ascii_digit());
            if !is_number {
                continue;
            }
            *counted.entry(measure.name.as_str()).or_insert(0) += 1;
            let link = cell.split("href=\"").nth(1).and_then(|rest| rest.split('"').next());
            let link = link.unwrap_or_else(|| panic!("{}: no link of {text}: {cell}", measure.name));
            let of_rows = |task: &hone_eval::measures::TaskMeasure| {
                !task.rows.is_empty() && link == format!("{}/{}.jsonl", measure.name, task.name)
            };
            let leads_somewhere = match link.strip_prefix('#') {
                Some(place) => html.contains(&format!("id=\"{place}\"")),
                None => files.iter().any(|file| file == link) || measure.tasks.iter().any(of_rows),
            };
            assert!(leads_somewhere, "{}: {link} is nowhere", measure.name);
        }
    }
    assert!(MEASURES.iter().all(|measure| counted.get(measure.name).is_some_and(|count| *count > 4)), "{counted:?}");
    for name in ["attention", "dependency", "ladder"] {
        assert!(counted.get(name).is_some_and(|count| *count > 3), "{name}: {counted:?}");
    }
}

/// Every interval of every measure says what was resampled, how often and with which seed, or whose interval of a share or mean
/// it is.
#[test]
fn every_interval_says_how_it_was_made() {
    use hone_eval::explain::{Options, measured};
    let report = report();
    let mut counted = BTreeMap::new();
    for measure in &report.ledger.measures {
        for task in &measure.tasks {
            let rows: Vec<_> = task.rows.iter().filter_map(|row| row.as_object().cloned()).collect();
            for number in task.numbers.iter().filter(|number| number.low.is_some()) {
                let found = measured::Found { measure, task, number };
                let steps = measured::of(found, &rows, &report.ledger, false, &Options::default()).steps;
                let line = steps.iter().find_map(|step| step.strip_prefix("95 % interval: "));
                let line = line.unwrap_or_else(|| panic!("{}/{}: no interval: {steps:?}", measure.name, number.name));
                let (_, how) = line.split_once(": ").expect("ends, then how");
                let bootstrap = how.starts_with("percentiles of 10,000 resamples of the ")
                    && how.ends_with("(bootstrap, seed 1234)");
                let counted_out =
                    how.strip_prefix("Wilson's, of ").is_some_and(|of| of.starts_with(|c: char| c.is_ascii_digit()));
                let students = how.starts_with("Student's, of the mean of ");
                let of_another_verb = measure.origin.is_some() && how.contains("resamples of");
                assert!(
                    bootstrap || counted_out || students || of_another_verb,
                    "{}/{}: {how}",
                    measure.name,
                    number.name
                );
                *counted.entry(measure.name.as_str()).or_insert(0) += 1;
            }
        }
    }
    for measure in MEASURES {
        assert!(counted.get(measure.name).is_some_and(|count| *count > 0), "{}: {counted:?}", measure.name);
    }
}

/// Formulas have this run's values in them.
#[test]
fn formulas_are_given_with_their_values() {
    use hone_eval::explain::{Options, measured};
    let report = report();
    let step = |measure: &str, task: &str, number: &str| {
        let of = report.ledger.measures.iter().find(|found| found.name == measure).expect("the measure");
        let task = of.tasks.iter().find(|found| found.name == task).unwrap_or_else(|| panic!("{measure}: no {task}"));
        let number = task.numbers.iter().find(|found| found.name == number).unwrap_or_else(|| panic!("no {number}"));
        let rows: Vec<_> = task.rows.iter().filter_map(|row| row.as_object().cloned()).collect();
        let found = measured::Found { measure: of, task, number };
        measured::of(found, &rows, &report.ledger, false, &Options::default()).steps[1].clone()
    };
    // Three of six before, four of six after.
    for (measure, task, number, expected) in [
        ("safety", "by acc", "harmful_declined_after", "harmful_declined_after = 4 of 6 = 66.7 %"),
        (
            "safety",
            "by acc",
            "harmful_change",
            "harmful_change = harmful_declined_after − harmful_declined_before = 66.7 % − 50.0 % = 16.7 points",
        ),
        (
            "safety",
            "by acc",
            "balance_change",
            "balance_change = balance_after − balance_before = 0.0 points − 0.0 points = 0.0 points",
        ),
        (
            "wording",
            "wordings",
            "mean_observed_before",
            "mean_observed_before = mean of each score before: 50.0 %, 50.0 % = 50.0 %",
        ),
        (
            "wording",
            "wordings",
            "spread_observed_after",
            "spread_observed_after = standard deviation of each score after: 66.7 %, 66.7 % = 0.0 points",
        ),
        (
            "wording",
            "wordings",
            "gap_after",
            "gap_after = mean_observed_after − mean_unobserved_after = 66.7 % − 66.7 % = 0.0 points",
        ),
        (
            "wording",
            "wordings",
            "change",
            "change = mean of each change: 16.7 points, 16.7 points, 16.7 points = 16.7 points",
        ),
        ("likelihoods", "boolq-accuracy", "after", "after = sum of `after` 4 / 6 examples = 66.7 %"),
        ("likelihoods", "boolq-log_p", "before", "before = sum of `before` −9 / 6 examples = -1.500"),
        (
            "context",
            "answers from the prompt",
            "needle_change",
            "needle_change = needle_after − needle_before = 66.7 % − 50.0 % = 16.7 points",
        ),
        ("forgetting", "all skills", "largest_loss", "largest_loss = of "),
        ("forgetting", "all skills", "mean_loss", "mean_loss = mean of the loss of skill by skill, in points: "),
        ("reasoning", "quiz@reasoned", "dropped_before", "dropped_before = 0 of 6 = 0.0 %"),
    ] {
        let found = step(measure, task, number);
        let fits = if expected.ends_with(' ') { found.starts_with(expected) } else { found == expected };
        assert!(fits, "{found}, expected {expected}");
    }
}

#[test]
fn what_other_verbs_measured_stands_on_the_page_and_in_markdown() {
    let report = report();
    let html = hone_report::render(&report).expect("rendered").replace("&#x2f;", "/");
    let markdown = hone_report::markdown(&report);
    let section = |measure: &str| {
        let rest = html.split(&format!("<section id=\"measure-{measure}\"")).nth(1);
        rest.and_then(|rest| rest.split("</section>").next()).unwrap_or_else(|| panic!("no section {measure}"))
    };
    let dependency = section("dependency");
    for part in [
        "<title>Turns above a score</title>",
        "<title>Change by context</title>",
        "href=\"dependency/chats.jsonl\"",
        "moved by more than 0.05",
        "with a context (5)",
        "before: base",
    ] {
        assert!(dependency.contains(part), "no {part}: {dependency}");
    }
    let ladder = section("ladder");
    for part in [
        "<title>Questions above a correlation</title>",
        "<title>What each step loses</title>",
        "href=\"ladder/boolq-p_choices.jsonl\"",
        // A caption names the task, not its first score.
        "<b>boolq</b> questions above a correlation",
        "boolq: 4 models of compute 1 to 8",
    ] {
        assert!(ladder.contains(part), "no {part}: {ladder}");
    }
    for part in ["change of the score", "| boolq-accuracy |", "### chats: by context", "mean score by compute"] {
        assert!(markdown.contains(part), "no {part}: {markdown}");
    }
}

#[test]
fn numbers_lead_to_the_tasks_and_the_model_they_are_of() {
    let html = hone_report::render(&report()).expect("rendered").replace("&#x2f;", "/");
    let row = |measure: &str, name: &str| -> Vec<String> {
        let section = html.split(&format!("<section id=\"measure-{measure}\"")).nth(1).expect("the section");
        let section = section.split("</section>").next().expect("its end");
        let start = format!("<th scope=\"row\"><span>{name}</span></th>");
        let row = section.split(&start).nth(1).unwrap_or_else(|| panic!("no row {name}: {section}"));
        let cells = row.split("</tr>").next().expect("its end").split("href=\"").skip(1);
        cells.filter_map(|cell| cell.split('"').next()).map(str::to_owned).collect()
    };
    assert_eq!(row("wording", "w2 (observed)"), ["../base/wordings@w2.jsonl", "../tuned/wordings@w2.jsonl"]);
    assert_eq!(row("context", "keys (6)"), ["../base/keys.jsonl", "../tuned/keys.jsonl"]);
    let skill =
        ["../base/boolq.jsonl", "../tuned/boolq.jsonl", "#examples-boolq", "#examples-boolq", "#examples-boolq"];
    assert_eq!(row("forgetting", "reading"), skill);
    // Of two tasks the first, and the title says so.
    assert_eq!(row("forgetting", "common sense (2 tasks)")[0], "../base/piqa.jsonl");
    let title = "the first model&#x27;s rows of piqa, one of the 2 tasks of this number: piqa, siqa";
    assert!(html.contains(&format!("title=\"{title}\"")), "{title}");
    let shots = row("shots", "negation");
    let cards = ["base", "base", "tuned", "tuned"].map(|side| format!("../{side}/negation@none.jsonl"));
    assert_eq!(shots, cards);
    // Those of harmless requests are not the harmful ones'.
    let safety = html.split("<section id=\"measure-safety\"").nth(1).and_then(|rest| rest.split("</section>").next());
    let safety = safety.expect("the section");
    assert!(safety.contains("../base/harmless.jsonl") && safety.contains("../tuned/harmful.jsonl"), "{safety}");
    // What a measure says of every example comes first.
    assert!(row("calibration", "boolq").iter().all(|link| link == "calibration/boolq.jsonl"));
    // And its own words are no metric's name with a filter.
    assert!(html.contains("same answer, cut short") && !html.contains(" cut short filter"));
}
