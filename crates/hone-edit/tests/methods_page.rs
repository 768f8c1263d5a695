//! `docs/methods.md` has a row for every method of the registry, says what the registry says, and no cell is empty. It names
//! every field of PEFT's whose default is another one in a recipe.

use std::path::Path;

use hone_edit::EditError;
use hone_edit::method::{Mergeable, QuantisedBase};
use hone_edit::registry::{METHODS, from_recipe, schema_of};
use serde_json::{Map, Value, json};

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/methods.md");
    std::fs::read_to_string(path).unwrap()
}

/// The rows of the first table.
fn rows() -> Vec<Vec<String>> {
    let page = page();
    let page = page.split("\n## ").next().unwrap();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_string()).collect();
    page.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

#[test]
fn every_method_has_a_full_row_that_agrees_with_the_registry() {
    let rows = rows();
    assert_eq!(rows.len(), METHODS.len(), "a row for every method, and no other");
    for info in METHODS {
        let row = rows.iter().find(|row| row[0] == format!("`{}`", info.name));
        let row = row.unwrap_or_else(|| panic!("docs/methods.md has no row for `{}`", info.name));
        assert_eq!(row.len(), 7, "cells of `{}`", info.name);
        assert!(row.iter().all(|cell| !cell.is_empty()), "`{}` has an empty cell", info.name);
        assert_eq!(row[3], info.peft_type, "type of `{}`", info.name);
        let mergeable = info.mergeable == Mergeable::Yes;
        assert_eq!(row[5].starts_with("yes"), mergeable, "`{}`: mergeable", info.name);
        let base = match info.quantised_base {
            QuantisedBase::Kept => "kept",
            QuantisedBase::Expanded => "expanded",
            QuantisedBase::No(_) => "no",
        };
        assert!(row[6].starts_with(base), "`{}`: quantised base is `{base}`, the page says `{}`", info.name, row[6]);
        let own = info.peft_type.starts_with("HONE_");
        assert!(own || row[4].parse::<f64>().is_ok_and(|error| error <= 1e-4), "`{}`: parity `{}`", info.name, row[4]);
    }
}

/// A recipe's `method` with nothing but its type, or with PEFT's defaults; `None` if it needs a field.
fn fields_of(name: &str, defaults: &str) -> Option<Map<String, Value>> {
    let recipe = json!({"type": name, "defaults": defaults});
    match from_recipe(recipe.as_object().unwrap(), &mut Vec::new()) {
        Ok(method) => Some(method.fields()),
        Err(EditError::Needs { .. }) => None,
        Err(error) => {
            // PEFT wants the number of virtual tokens said.
            assert!(defaults == "peft" && error.to_string().contains("found 0"), "{name}: {error}");
            None
        }
    }
}

#[test]
fn defaults_are_pefts_but_for_those_that_the_page_names() {
    let page = page();
    let section = page.split("\n## Whose defaults?").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).collect();
    let named = |method: &str, field: &str| {
        let of = |row: &&str| row.contains(&format!("`{method}`")) || row.starts_with("| prompts");
        rows.iter().filter(|row| of(row)).any(|row| row.contains(&format!("`{field}`")))
    };
    let mut compared = 0;
    for info in METHODS.iter().filter(|info| !info.peft_type.starts_with("HONE_")) {
        let schema = schema_of(info);
        let (Some(ours), pefts) = (fields_of(info.name, "hone"), fields_of(info.name, "peft")) else { continue };
        for (field, value) in ours.iter().filter(|(field, _)| *field != "task_type") {
            let default = schema["properties"][field].get("default").unwrap_or(&Value::Null);
            if let Some(pefts) = &pefts {
                assert_eq!(
                    pefts.get(field).unwrap_or(&Value::Null),
                    default,
                    "{}: {field} with PEFT's defaults",
                    info.name
                );
            }
            let same = value == default || (field == "target_modules" && value == "all-linear");
            assert!(same || named(info.name, field), "{}: {field} is {value}, PEFT's is {default}", info.name);
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
}
