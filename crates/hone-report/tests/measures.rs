//! What was measured besides, on the page and in Markdown.

mod sample;

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
        "data-label=\"wrong after, another answer\"><span>21<span class=\"under\">7.0 %</span>",
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
