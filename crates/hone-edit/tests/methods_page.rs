//! `docs/methods.md` has a row for every method of the registry, says what the registry says, and no cell is empty.

use std::path::Path;

use hone_edit::method::{Mergeable, QuantisedBase};
use hone_edit::registry::METHODS;

fn rows() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/methods.md");
    let page = std::fs::read_to_string(path).unwrap();
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
