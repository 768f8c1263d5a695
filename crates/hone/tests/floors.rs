//! Arrows point down: a crate uses only crates on floors below its own. Reads every manifest of the workspace.

use std::collections::BTreeMap;
use std::path::Path;

/// The floors of ARCHITECTURE.md.
const FLOORS: [(&str, u32); 11] = [
    ("hone-engine", 0),
    ("hone-model", 1),
    ("hone-data", 1),
    ("hone-edit", 2),
    ("hone-train", 3),
    ("hone-eval", 3),
    ("hone-locate", 4),
    ("hone-predict", 4),
    ("hone-study", 4),
    ("hone-report", 5),
    ("hone", 6),
];

/// Crates of this workspace that a manifest names under `[dependencies]`, `[dev-dependencies]` and the like.
fn own_dependencies(manifest: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("").trim_matches('"');
            if name == "hone" || name.starts_with("hone-") {
                names.push(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn no_arrow_runs_upward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let floors: BTreeMap<_, _> = FLOORS.into_iter().collect();
    let mut seen = 0;
    for entry in std::fs::read_dir(root.join("crates")).expect("the crates folder") {
        let folder = entry.expect("an entry").path();
        let name = folder.file_name().and_then(|n| n.to_str()).expect("a name").to_owned();
        let floor = *floors.get(name.as_str()).unwrap_or_else(|| panic!("crate `{name}` has no floor in this test"));
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
        for dependency in own_dependencies(&manifest) {
            let below = floors.get(dependency.as_str()).unwrap_or_else(|| panic!("unknown crate `{dependency}`"));
            assert!(*below < floor, "`{name}` (floor {floor}) uses `{dependency}` (floor {below})");
        }
        seen += 1;
    }
    assert_eq!(seen, FLOORS.len(), "a crate of the table is missing");
}

#[test]
fn the_code_map_names_every_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for (name, floor) in FLOORS {
        assert!(map.contains(&format!("| {floor} | `{name}`")), "ARCHITECTURE.md has no row `| {floor} | `{name}``");
    }
}

#[test]
fn manifests_are_read_section_by_section() {
    let manifest = "[package]\nname = \"hone-x\"\n[dependencies]\nhone-engine.workspace = true\nserde = \"1\"\n[lints]\nhone-y = 1\n";
    assert_eq!(own_dependencies(manifest), ["hone-engine"]);
}
