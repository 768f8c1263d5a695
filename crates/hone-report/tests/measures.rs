//! What was measured besides, on the page and in Markdown.

mod sample;

#[test]
fn measures_stand_on_the_page_with_their_tables() {
    let html = hone_report::render(&sample::report()).expect("the sample renders");
    let section = html.split("<section id=\"measure-compatibility\">").nth(1).expect("the measure's section");
    let section = section.split("</section>").next().expect("its end");
    for part in [
        "What did the update break that worked?",
        "<td class=\"n\">7.0 % (4.2 to 10.5)</td>",
        "<td class=\"n\">8.0 points (4.8 to 12.0)</td>",
        "<h3>telecom: flip matrix</h3>",
        "<td class=\"n\">39</td>",
        "arXiv 2407.09435",
        "changes of the score up to 0.01 count as none",
    ] {
        assert!(section.contains(part), "no {part}: {section}");
    }
    assert!(section.contains("summaries | &lt;b&gt;") && !section.contains("<b>"), "names are no HTML: {section}");
    assert!(html.contains("<a href=\"#measure-compatibility\">"), "the contents lead there");
}

#[test]
fn a_report_without_measures_has_no_section_of_them() {
    let mut report = sample::report();
    report.ledger.measures.clear();
    let html = hone_report::render(&report).expect("the sample renders");
    assert!(!html.contains("measure-"), "nothing was measured besides");
}

#[test]
fn markdown_holds_the_same_tables() {
    let page = hone_report::measures::markdown(&sample::report().ledger);
    let expected = "# SmolLM2-135M-Instruct → runs/telecom-lora/adapter

## What did the update break that worked?

| task | metric | n | negative flips | positive flips | inconsistent | mean loss |
|---|---|---|---|---|---|---|
| telecom | acc | 300 | 7.0 % (4.2 to 10.5) | 19.3 % (11.6 to 28.9) | 20.0 % (12.0 to 30.0) | – |
| summaries \\| <b> | rougeL | 40 | 47.5 % (28.5 to 71.2) | – | – | 8.0 points (4.8 to 12.0) |
";
    assert!(page.starts_with(expected), "{page}");
    let matrix = "### telecom: flip matrix

|  | right after | wrong after, same answer | wrong after, another answer |
|---|---|---|---|
| right before | 72 | – | 21 |
| wrong before | 58 | 110 | 39 |
";
    assert!(page.contains(matrix), "{page}");
    assert!(page.ends_with("- summaries | <b>: changes of the score up to 0.01 count as none\n"), "{page}");
}
