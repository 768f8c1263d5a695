//! Studies that ship inside the program, so that their names work from anywhere.

macro_rules! studies {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../../studies/", $name, ".yaml")))),*] };
}

/// Study files by name; a test compares the list with the directory.
const STUDIES: &[(&str, &str)] = studies![
    "code-shots",
    "context-awareness",
    "cot-impact",
    "ept-prompt-tuning",
    "inherent-limits",
    "instruct-qa",
    "instruction-robustness",
    "mask-tuning",
    "multi-head-routing",
    "negative-flips",
    "opt-iml-levels",
    "peft-frontier",
    "predicting-downstream",
    "safety-drift",
    "skill-localization"
];

/// Names of the studies there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    STUDIES.iter().map(|(name, _)| *name)
}

/// A study's text.
pub fn study(name: &str) -> Option<&'static str> {
    STUDIES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Plan, find, read};

    #[test]
    fn every_study_of_the_directory_ships_and_can_be_planned() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../studies");
        let entries = std::fs::read_dir(directory).expect("the studies").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
        files.sort();
        let mut listed: Vec<&str> = names().collect();
        listed.sort_unstable();
        let stems: Vec<String> = files.iter().map(|f| f.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(listed, stems);
        for file in files {
            let source = find(&file.to_string_lossy()).expect("found");
            let study = read(&source).unwrap_or_else(|error| panic!("{error}"));
            let plan = Plan::new(&source, &study, "DATA").unwrap_or_else(|error| panic!("{error}"));
            assert!(!plan.steps.is_empty());
            assert!(study.minutes <= 25.0, "{}: a study takes less than 25 minutes", source.name);
        }
    }
}
