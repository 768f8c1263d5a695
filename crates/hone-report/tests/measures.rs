//! What was measured besides, on the page and in Markdown.

mod sample;

use hone_eval::ledger::Outcome;
use hone_eval::scorecard::{MetricValue, ScorecardHeader};

/// The sample's page, with the slashes of links as they are read.
fn rendered() -> String {
    hone_report::render(&sample::report()).expect("the sample renders").replace("&#x2f;", "/")
}

/// The page's text from the heading of a question to the next one.
fn part<'a>(html: &'a str, id: &str) -> &'a str {
    let from = html.find(&format!("<section id=\"{id}\">")).unwrap_or_else(|| panic!("no section {id}"));
    let rest = &html[from..];
    let next = ["better", "lost", "trust", "examples", "run", "provenance"]
        .iter()
        .filter(|other| **other != id)
        .filter_map(|other| rest.find(&format!("<section id=\"{other}\">")))
        .min();
    &rest[..next.unwrap_or(rest.len())]
}

#[test]
fn the_four_questions_stand_in_order_and_each_has_its_part() {
    let html = rendered();
    let places: Vec<usize> = ["verdict", "better", "lost", "trust", "examples", "run", "provenance"]
        .iter()
        .map(|id| html.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id}")))
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    let (better, lost, trust) = (part(&html, "better"), part(&html, "lost"), part(&html, "trust"));
    let row = |text: &str, task: &str| text.contains(&format!("<th scope=\"row\">{task}"));
    assert!(row(better, "telecom ◎") && !row(better, "boolq"), "what the tuning was for");
    assert!(row(lost, "boolq") && row(lost, "wikitext") && !row(lost, "telecom ◎"), "the rest");
    for (text, measures) in [(lost, ["forgetting", "compatibility"]), (trust, ["calibration", "everything_else"])] {
        let places: Vec<usize> = measures.iter().filter_map(|m| text.find(&format!("id=\"measure-{m}\""))).collect();
        assert!(places.len() == 2 && places.is_sorted(), "{measures:?} {places:?}");
    }
    assert!(trust.contains("Would it have seen a change?") && trust.contains("± ") && trust.contains("checks held"));
}

#[test]
fn measures_stand_on_the_page_with_their_tables() {
    let html = rendered();
    let section = html.split("<section id=\"measure-compatibility\"").nth(1).expect("the measure's section");
    let section = section.split("</section>").next().expect("its end");
    for part in [
        "What did the update break that worked?",
        "href=\"compatibility/telecom.jsonl\">7.0 %</a><span class=\"under\">4.2 to 10.5</span>",
        "8.0 points<span class=\"under\">4.8 to 12.0</span>",
        "<h4>telecom: flip matrix</h4>",
        "data-label=\"wrong after, another answer\"><span><a class=\"v\" href=\"compatibility/telecom.jsonl\">21</a><span class=\"under\">7.0 %</span>",
        "arXiv 2407.09435",
        "changes of the score up to 0.01 count as none",
    ] {
        assert!(section.contains(part), "no {part}: {section}");
    }
    assert!(
        section.contains("summaries | &lt;b&gt;") && !section.contains("<b>summaries"),
        "names are no HTML: {section}"
    );
    assert!(html.contains("<a href=\"#trust\">"), "the contents lead there");
}

#[test]
fn every_kind_of_chart_is_drawn_and_says_what_it_is() {
    let html = rendered();
    for title in ["Differences by task", "Loss by skill", "Reliability", "Faithfulness", "Spread over wordings"] {
        assert!(html.matches(&format!("<title>{title}</title><desc>")).count() >= 2, "no {title} in both widths");
    }
    assert!(html.contains("<desc>before, after: 30 layers by 9 heads, 0 % to 96 %</desc>"));
    assert!(!html.contains("NaN"));
    assert!(
        html.contains("<th scope=\"row\">arc_<wbr>easy</th>") && !html.contains("&lt;wbr"),
        "names break at underscores"
    );
}

#[test]
fn numbers_lead_to_their_rows_and_every_place_on_the_page_is_there() {
    let html = rendered();
    for link in [
        "href=\"../cards/base/telecom.jsonl\">31.0 %</a>",
        "href=\"../cards/tuned%202/telecom.jsonl\">43.4 %</a>",
        "href=\"#examples-telecom\">+12.4</a>",
        "href=\"#examples-boolq-lost\">−21 lost</a>",
        "href=\"calibration/telecom.jsonl\">",
    ] {
        assert!(html.contains(link), "no {link}");
    }
    let targets: Vec<&str> = html.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(targets.len() > 20, "{targets:?}");
    for target in targets {
        assert_eq!(html.matches(&format!("id=\"{target}\"")).count(), 1, "the place {target}");
    }
    // A task without examples and cards leads nowhere rather than to nothing.
    assert!(!html.contains("#examples-wikitext"));
}

#[test]
fn a_report_without_measures_has_no_section_of_them() {
    let mut report = sample::report();
    report.ledger.measures.clear();
    let html = hone_report::render(&report).expect("the sample renders");
    assert!(!html.contains("measure-"), "nothing was measured besides");
}

#[test]
fn without_a_named_target_every_task_is_asked_whether_it_is_better() {
    let mut report = sample::report();
    report.ledger.tasks.iter_mut().for_each(|task| task.is_target = false);
    let html = hone_report::render(&report).expect("the sample renders");
    assert!(part(&html, "better").contains("<th scope=\"row\">piqa"));
    let lost = part(&html, "lost");
    assert!(lost.contains("<tr class=\"worse\"><th scope=\"row\">boolq") && !lost.contains("<tr class=\"better\"><th"));
    report.ledger.tasks.retain(|task| task.verdict == "better");
    report.ledger.measures.clear();
    let html = hone_report::render(&report).expect("the sample renders");
    assert!(part(&html, "lost").contains("No task got measurably worse."));
    report.ledger.tasks.iter_mut().for_each(|task| task.is_target = true);
    let html = hone_report::render(&report).expect("the sample renders");
    assert!(part(&html, "lost").contains("what else it lost is not known"));
}

#[test]
fn markdown_of_measures_holds_the_same_tables() {
    let page = hone_report::markdown(&sample::report());
    let expected = "
### What did the update break that worked?

| task | metric | n | negative flips | positive flips | inconsistent | mean loss |
|---|---|---|---|---|---|---|
| telecom | acc | 300 | 7.0 % (4.2 to 10.5) | 19.3 % (11.6 to 28.9) | 20.0 % (12.0 to 30.0) | – |
| boolq | acc | 300 | 7.0 % (4.2 to 10.5) | 4.0 % (2.4 to 6.0) | – | – |
| summaries \\| <b> | rougeL | 40 | 47.5 % (28.5 to 71.2) | – | – | 8.0 points (4.8 to 12.0) |
";
    assert!(page.contains(expected), "{page}");
    let matrix = "#### telecom: flip matrix

|  | right after | wrong after, same answer | wrong after, another answer |
|---|---|---|---|
| right before | 72 | – | 21 |
| wrong before | 58 | 110 | 39 |
";
    assert!(page.contains(matrix), "{page}");
    assert!(page.contains("\n- summaries | <b>: changes of the score up to 0.01 count as none\n"), "{page}");
}

#[test]
fn the_report_in_markdown_answers_the_same_questions_in_the_same_order() {
    let page = hone_report::markdown(&sample::report());
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
    let questions = ["## Is it better?", "## What did it lose?", "## Can I trust it?", "## Where are the examples?"];
    assert_eq!(headings, questions);
    for part in [
        "# telecom-lora\n\n`SmolLM2-135M-Instruct` → `runs/telecom-lora/adapter`\n",
        "**Better at something, worse at something else.** Better on telecom",
        "> **Rule broken:** boolq may lose at most 2 points",
        "| telecom | acc | 300 | 31.0 % | 43.4 % | ▲ +12.4 | +10.3 to +14.5 | 0.048 |",
        "| wikitext | word_perplexity ↓ | 300 | 31.2 | 33.9 | ▼ +2.70 |",
        "| boolq | 12 | 21 | 162 | 105 |",
        "### What did the update lose?",
        "#### telecom: flip matrix",
        "| boolq | 300 | 11.0 % | ± ",
        "- Packed loss equals unpacked loss: **failed** (2.113 against 2.481)",
        "- telecom: [base](../cards/base/telecom.jsonl), [tuned](../cards/tuned%202/telecom.jsonl)\n",
        "Reproduce: `hone tune recipe.yaml --out runs/telecom-lora`\n",
    ] {
        assert!(page.contains(part), "no {part:?}: {page}");
    }
}

#[test]
fn what_the_tuning_was_for_decides_the_headline() {
    let judged = |of_target: &str, of_others: &[&str], outcome: Outcome| {
        let mut report = sample::report();
        report.ledger.outcome = outcome;
        report.ledger.tasks.truncate(1 + of_others.len());
        let verdicts = std::iter::once(&of_target).chain(of_others);
        report.ledger.tasks.iter_mut().zip(verdicts).for_each(|(task, verdict)| task.verdict = (*verdict).into());
        let html = hone_report::render(&report).expect("the sample renders");
        let words = html.split("<p class=\"outcome\">").nth(1).and_then(|rest| rest.split('<').next());
        let class = html.split("<section class=\"verdict ").nth(1).and_then(|rest| rest.split('"').next());
        let [words, class] = [words, class].map(|text| text.expect("a verdict").to_owned());
        let unseen = hone_eval::verdict::unseen(&report.ledger).map(|unseen| format!("; {unseen}")).unwrap_or_default();
        assert!(hone_report::markdown(&report).contains(&format!("**{words}{unseen}.**")), "both say the same");
        assert_eq!(html.contains("could go unseen"), !unseen.is_empty(), "{unseen}");
        let in_numbers = html.contains("<p class=\"decider\"><b>telecom ◎</b>");
        assert_eq!(in_numbers, of_target != "better", "a target that did not gain stands there in numbers");
        (words, class)
    };
    let said = |words: &str, class: &str| (words.to_owned(), class.to_owned());
    let missed = "Not measurably better at what it was tuned for";
    assert_eq!(
        judged("unchanged", &["better", "unchanged"], Outcome::Better),
        said(&format!("{missed}; nothing measurably lost"), "unchanged"),
        "gains elsewhere are no success"
    );
    assert_eq!(
        judged("unchanged", &["better", "worse"], Outcome::Mixed),
        said(&format!("{missed}, and worse at something else"), "worse")
    );
    assert_eq!(
        judged("worse", &["better"], Outcome::Mixed),
        said("Worse at what it was tuned for, better at something else", "worse")
    );
    assert_eq!(judged("worse", &["unchanged"], Outcome::Worse), said("Worse at what it was tuned for", "worse"));
    assert_eq!(
        judged("better", &["unchanged"], Outcome::Better),
        said("Better, and nothing measurably lost", "better")
    );
}

/// "Nothing measurably lost" is half a sentence without what would have been measured.
#[test]
fn a_verdict_without_losses_says_which_it_could_not_have_seen() {
    let judged = |change: &dyn Fn(&mut hone_eval::ledger::Ledger)| {
        let mut report = sample::report();
        report.ledger.outcome = Outcome::Better;
        for task in &mut report.ledger.tasks {
            let gained = if task.is_target { "better" } else { "unchanged" };
            (task.verdict, task.gained, task.lost) = (gained.into(), 15, 15);
        }
        report.ledger.tasks.truncate(3);
        change(&mut report.ledger);
        let page = hone_report::markdown(&report);
        let html = hone_report::render(&report).expect("the sample renders");
        let headline = page.lines().find(|line| line.starts_with("**Better")).expect("a headline").to_owned();
        let unseen = html.split("<span class=\"unseen\">").nth(1).and_then(|rest| rest.split("</span>").next());
        (headline, unseen.map(|text| text.replace("<wbr>", "")))
    };
    // 30 of 300 answers changed: δ = √0.1 (1.96 √300 + 0.8416 √(300 − 3.8415 + 0.7083)) / (300 + 0.7083) = 5.1 points.
    let (headline, on_page) = judged(&|_| {});
    let clause = "losses under about 5 points could go unseen with these questions";
    assert!(headline.starts_with(&format!("**Better, and nothing measurably lost; {clause}.**")), "{headline}");
    assert_eq!(on_page.as_deref(), Some(format!("; {clause}").as_str()));
    // Tasks that differ: the most and the least sensitive one.
    let (headline, _) = judged(&|ledger| {
        let small = ledger.tasks.iter_mut().filter(|task| !task.is_target).nth(1).expect("a second one");
        (small.n, small.gained, small.lost) = (40, 2, 2);
    });
    let [least, most] = [1, 2].map(|i| sample::report().ledger.tasks[i].name.clone());
    let clause = format!("losses under about 5 points ({least}) to 18 ({most}) could go unseen");
    assert!(headline.contains(&clause), "{headline}");
    // Three questions show nothing at all; and where something was lost, that is what is said.
    let (headline, _) = judged(&|ledger| {
        ledger.tasks.truncate(2);
        (ledger.tasks[1].n, ledger.tasks[1].gained, ledger.tasks[1].lost) = (3, 0, 0);
    });
    assert!(headline.contains(&format!("; any loss on {least} could go unseen with these questions")), "{headline}");
    let (headline, on_page) = judged(&|ledger| ledger.outcome = Outcome::Mixed);
    assert!(!headline.contains("unseen") && on_page.is_none(), "{headline}");
    // Only what the tuning was for was asked: nothing stands guard.
    let (headline, _) = judged(&|ledger| ledger.tasks.truncate(1));
    assert!(!headline.contains("unseen"), "{headline}");
}

#[test]
fn other_metrics_of_what_the_tuning_was_for_stand_beside_the_one_that_decides() {
    let mut report = sample::report();
    let metric = |name: &str, value: f64| MetricValue {
        name: name.into(),
        value,
        higher_is_better: true,
        is_share: true,
        ..MetricValue::default()
    };
    let card =
        |task: &str, metrics: Vec<MetricValue>| ScorecardHeader { task: task.into(), metrics, ..Default::default() };
    report.scorecards = vec![
        card("telecom", vec![metric("acc", 0.31), metric("f1,line", 0.19), metric("only_before", 0.1)]),
        card("boolq", vec![metric("acc", 0.61), metric("f1", 0.5)]),
        card("telecom", vec![metric("acc", 0.434), metric("f1,line", 0.456)]),
        card("boolq", vec![metric("acc", 0.58), metric("f1", 0.4)]),
    ];
    let page = hone_report::markdown(&report);
    let table = "| task | metric | base | tuned | difference |\n|---|---|---|---|---|\n| telecom | f1,line | 19.0 % | 45.6 % | +26.6 |\n\n";
    assert!(page.contains(table), "{page}");
    let html = hone_report::render(&report).expect("the sample renders").replace("&#x2f;", "/");
    let better = part(&html, "better");
    for part in ["f1 (line filter)", "href=\"../cards/tuned%202/telecom.jsonl\">45.6 %</a>", "By other metrics"] {
        assert!(better.contains(part), "no {part}: {better}");
    }
    // Examples that only one side has are in its card, and not in the comparison.
    report.ledger.tasks[0].unpaired = 3;
    assert!(!hone_report::markdown(&report).contains("f1,line"));
}

#[test]
fn marks_tell_what_may_be_chance_and_small_differences_have_digits() {
    let mut report = sample::report();
    let task = &mut report.ledger.tasks[0];
    (task.p_holm, task.is_share) = (Some(0.41), false);
    (task.base, task.tuned, task.difference, task.ci_low, task.ci_high) = (0.4363, 0.4325, -0.0038, -0.0079, -0.00001);
    let page = hone_report::markdown(&report);
    assert!(page.contains("| 0.436 | 0.432 | △ −0.0038 | −0.0079 to 0.0000 | 0.410 |"), "{page}");
}

#[test]
fn what_the_tuning_was_for_is_the_first_to_be_read_question_by_question() {
    let mut report = sample::report();
    report.ledger.tasks.rotate_left(1);
    report.ledger.tasks.iter_mut().for_each(|task| task.verdict = "unchanged".into());
    report.ledger.tasks[0].verdict = "worse".into();
    let html = hone_report::render(&report).expect("the sample renders");
    let first = |before: &str| html.split(before).nth(1).map(|rest| rest.trim_start().starts_with("telecom"));
    assert_eq!((first("<p class=\"name\">"), first("class=\"of-task unchanged\">\n  <h3>")), (Some(true), Some(true)));
    assert!(html.find("id=\"examples-telecom\"") < html.find("id=\"examples-boolq\""));
}

#[test]
fn effects_and_the_questions_they_need_stand_beside_what_could_have_been_seen() {
    let html = rendered();
    let table = part(&html, "trust").split("</table>").next().expect("the table");
    let row = table.split("<th scope=\"row\">boolq</th>").nth(1).and_then(|rest| rest.split("</tr>").next());
    let row = row.expect("the task's row");
    // 12 gained and 21 lost of 300: (1.96 √0.11 + 0.8416 √(0.11 − 0.03²))² / 0.03² = 956.9.
    assert!(row.contains("href=\"#examples-boolq\">h +0.20</a>") && row.contains(">957</a>"), "{row}");
    let gained = table.split("<th scope=\"row\">telecom</th>").nth(1).and_then(|rest| rest.split("</tr>").next());
    assert!(gained.is_some_and(|row| row.ends_with("<td class=\"n extra\">–</td>")), "enough were asked: {table}");
    assert!(html.contains("Cohen&#x27;s h where answers are right or wrong"), "what it is stands below");
    let page = hone_report::markdown(&sample::report());
    let boolq = page.lines().find(|line| line.starts_with("| boolq | 300 | 11.0 % |")).expect("the task's line");
    assert!(boolq.ends_with(" points | −3.0 | h +0.20 | 957 |"), "{boolq}");
    assert!(page.contains("| change found | effect | questions needed to see it |") && page.contains("d_z"), "{page}");
}

#[test]
fn a_single_question_has_no_interval_to_show() {
    let mut report = sample::report();
    for task in &mut report.ledger.tasks {
        (task.n, task.ci_low, task.ci_high) = (1, f64::NAN, f64::NAN);
        (task.verdict, task.base) = ("unchanged".into(), 0.0);
    }
    let html = hone_report::render(&report).expect("the sample renders");
    assert!(!html.contains("NaN") && html.contains(", 1 question, by acc"), "{html}");
    let page = hone_report::markdown(&report);
    assert!(!page.contains("NaN") && page.contains("| = +12.4 | – |"), "{page}");
}
