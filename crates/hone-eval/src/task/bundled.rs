//! Task files and small data sets that ship inside the program, so that names work from anywhere.

macro_rules! tasks {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../../../../tasks/", $name, ".yaml")))),*] };
}

macro_rules! data {
    ($($file:literal),* $(,)?) => {
        &[$((concat!("demo/", $file), include_bytes!(concat!("../../../../assets/demo/", $file)).as_slice())),*]
    };
}

/// Task files by name; a test compares the list with the directory.
const TASKS: &[(&str, &str)] = tasks![
    "agnews",
    "arc_challenge",
    "arc_easy",
    "boolq",
    "demo_arc_easy",
    "demo_instructions",
    "demo_lambada",
    "demo_piqa",
    "demo_worked_answers",
    "finance",
    "gsm8k",
    "lambada",
    "medical",
    "openbookqa",
    "piqa",
    "sst2",
    "telecom",
    "wikitext",
    "winogrande",
    "xquad_en",
];

/// Data files by the path task files name them by.
const DATA: &[(&str, &[u8])] =
    data!["arc_easy.jsonl", "instructions.jsonl", "lambada.jsonl", "piqa.jsonl", "worked_answers.jsonl"];

/// Names of the tasks there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    TASKS.iter().map(|(name, _)| *name)
}

/// A task file's text.
pub fn task(name: &str) -> Option<&'static str> {
    TASKS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A data file's bytes.
pub fn data(path: &str) -> Option<&'static [u8]> {
    DATA.iter().find(|(known, _)| *known == path).map(|(_, bytes)| *bytes)
}
