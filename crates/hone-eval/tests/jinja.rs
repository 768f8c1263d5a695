//! What templates print is what jinja2 prints, with the harness' settings (`tools/golden/jinja.py`): methods of texts, filters, formats,
//! tuples, conditions without `else`.

use std::collections::BTreeMap;

use hone_eval::task::template::Templates;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Golden {
    row: Map<String, Value>,
    /// Templates, and what each prints; nothing where jinja2 raises an error.
    cases: Vec<(String, Option<String>)>,
}

/// Templates that jinja2 renders and that are refused here, each with a part of the message. None prints another text.
const REFUSED: &[(&str, &str)] = &[
    ("{{ h|pprint }}", "pprint of more than a line"),
    ("{{ long|pprint }}", "pprint of more than a line"),
    ("{{ q.translate('a') }}", "no method named translate"),
    ("{{ q.encode('utf-8') }}", "no method named encode"),
    ("{{ n.bit_length() }}", "no method named bit_length"),
];

/// Templates that print something else: `~` is the engine's own, which writes the digits of large floats out.
const DIFFERENT: &[(&str, &str)] = &[("{{ 'a'~1e20 }}", "a100000000000000000000.0")];

/// Templates that print something here and raise errors in jinja2: a filter it lacks, values of several types in an order.
const ALLOWED: &[&str] = &["{{ [1,2]|zip }}", "{{ s|dictsort(false,'value') }}"];

fn printed(template: &str, columns: &Map<String, Value>) -> Result<String, String> {
    let mut templates = Templates::new();
    templates.add("it", template)?;
    templates.render("it", columns)
}

#[test]
fn templates_print_what_jinja2_prints() {
    let golden: Golden = serde_json::from_str(include_str!("golden/jinja.json")).unwrap();
    let refused: BTreeMap<&str, &str> = REFUSED.iter().copied().collect();
    let different: BTreeMap<&str, &str> = DIFFERENT.iter().copied().collect();
    let mut wrong = Vec::new();
    for (template, expected) in &golden.cases {
        let found = printed(template, &golden.row);
        let agrees = match (expected, &found, refused.get(template.as_str())) {
            (Some(expected), Ok(found), None) => {
                different.get(template.as_str()).unwrap_or(&expected.as_str()) == found
            }
            (Some(_), Err(error), Some(part)) => error.contains(part),
            (None, Err(_), None) => true,
            (None, Ok(_), None) => ALLOWED.contains(&template.as_str()),
            _ => false,
        };
        if !agrees {
            wrong.push(format!("{template}\n     jinja2 {expected:?}\n     found  {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), golden.cases.len(), wrong.join("\n"));
    assert!(golden.cases.len() > 1500, "{}", golden.cases.len());
    assert!(REFUSED.iter().all(|(template, _)| golden.cases.iter().any(|(other, _)| other == template)));
}
