//! A data set's directory as Hugging Face's hub has it: which of its files are which split. What its card (the front matter of
//! `README.md`) says under `configs`; else what the names say, by the rules of the `datasets` package (checked against version 5.2):
//!
//! 1. `data/SPLIT-00000-of-00001….…`;
//! 2. directories named for a split (`train`, `dev`, `a_test` …), or else files (`train.jsonl`, `my-dev.csv` …);
//! 3. everything is `train`.
//!
//! Of files found by their names those of the most common kind are taken. Files and directories that begin with a dot or, of
//! directories, two underscores are passed over.
//!
//! What it does not know: data sets whose rows a Python script makes, archives, pictures and sound.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hone_data::config::FileKind;
use regex::Regex;
use serde::Deserialize;

/// Splits by name, each with its files' paths from the directory, in order.
pub type Splits = Vec<(String, Vec<PathBuf>)>;

/// Names of a split in files' names.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// What may stand beside such a name.
const BESIDE: &str = "[-._ 0-9]";

/// Files that are no data.
const NO_DATA: [&str; 6] =
    ["README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"];

/// Directories deeper than this are taken for a loop of links.
const MAX_DEPTH: usize = 32;

/// Longest card that is read, in bytes.
const MAX_CARD: u64 = 4 << 20;

/// What of a card is read.
#[derive(Default, Deserialize)]
struct Card {
    #[serde(default)]
    configs: Vec<Configuration>,
}

#[derive(Deserialize)]
struct Configuration {
    config_name: String,
    data_files: Option<DataFiles>,
    data_dir: Option<String>,
    #[serde(default)]
    default: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DataFiles {
    Train(OneOrMany),
    BySplit(Vec<SplitFiles>),
}

#[derive(Deserialize)]
struct SplitFiles {
    split: String,
    path: OneOrMany,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn to_vec(&self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one.clone()],
            OneOrMany::Many(many) => many.clone(),
        }
    }
}

/// The splits of the data set in `directory`; of its configuration `name`, if it has several.
///
/// # Errors
/// In words: a card that cannot be read, no such configuration, several and none named, or no data files.
pub fn splits(directory: &Path, name: Option<&str>) -> Result<Splits, String> {
    let all = listed(directory)?;
    let card = card(directory)?;
    if card.configs.is_empty() {
        // Without a card a configuration is a directory.
        let Some(name) = name else { return named_for(&all, Path::new("")) };
        return match all.iter().any(|file| file.starts_with(name)) {
            true => named_for(&all, Path::new(name)),
            false => {
                Err(format!("no configuration `{name}`: its card names none, and there is no directory of the name"))
            }
        };
    }
    let chosen = chosen(&card.configs, name)?;
    match &chosen.data_files {
        None => named_for(&all, Path::new(chosen.data_dir.as_deref().unwrap_or_default())),
        Some(DataFiles::Train(patterns)) => by_patterns(&all, &[("train".into(), patterns.to_vec())]),
        Some(DataFiles::BySplit(splits)) => {
            let patterns: Vec<_> = splits.iter().map(|split| (split.split.clone(), split.path.to_vec())).collect();
            by_patterns(&all, &patterns)
        }
    }
}

/// The name of a Python script that makes the rows of the data set in `directory`, if one lies there.
pub fn script(directory: &Path) -> Option<String> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".py")).min()
}

fn chosen<'a>(all: &'a [Configuration], name: Option<&str>) -> Result<&'a Configuration, String> {
    let names = || all.iter().map(|one| format!("`{}`", one.config_name)).collect::<Vec<_>>().join(", ");
    let is_default = |one: &&Configuration| all.len() == 1 || one.default || one.config_name == "default";
    match name {
        Some(name) => all
            .iter()
            .find(|one| one.config_name == name)
            .ok_or_else(|| format!("no configuration `{name}`; there are {}", names())),
        None => all
            .iter()
            .find(is_default)
            .ok_or_else(|| format!("several configurations, {}; name one in `dataset_name`", names())),
    }
}

/// The card of a directory; one without front matter says nothing.
fn card(directory: &Path) -> Result<Card, String> {
    let path = directory.join("README.md");
    let Ok(found) = std::fs::metadata(&path) else { return Ok(Card::default()) };
    if found.len() > MAX_CARD {
        return Err(format!("README.md is larger than {} MiB", MAX_CARD >> 20));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("README.md: {error}"))?;
    let text = text.replace("\r\n", "\n");
    let front = text.strip_prefix("---\n").and_then(|rest| Some(&rest[..=rest.find("\n---")?]));
    let Some(front) = front.filter(|front| !front.trim().is_empty()) else { return Ok(Card::default()) };
    serde_yaml_ng::from_str(front).map_err(|error| format!("README.md, the front matter: {error}"))
}

/// Every file, its path from `directory`, sorted; hidden ones left out.
fn listed(directory: &Path) -> Result<Vec<PathBuf>, String> {
    fn below(root: &Path, at: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(root.join(at))? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            let path = at.join(&name);
            let is_directory = root.join(&path).is_dir();
            if text.starts_with('.') || (is_directory && text.starts_with("__")) {
                continue;
            }
            if !is_directory && !NO_DATA.contains(&&*text) {
                files.push(path);
            } else if is_directory && depth < MAX_DEPTH {
                below(root, &path, depth + 1, files)?;
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    below(directory, Path::new(""), 0, &mut files).map_err(|error| format!("{}: {error}", directory.display()))?;
    files.sort();
    Ok(files)
}

/// A path as patterns see it.
fn text_of(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Those of `files` that `patterns` mean, in the patterns' order, each once.
fn matching(files: &[PathBuf], patterns: &[Regex]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for pattern in patterns {
        for file in files.iter().filter(|file| pattern.is_match(&text_of(file))) {
            if !found.contains(file) {
                found.push(file.clone());
            }
        }
    }
    found
}

/// The files that a card's patterns mean.
fn by_patterns(files: &[PathBuf], splits: &[(String, Vec<String>)]) -> Result<Splits, String> {
    let one = |(split, patterns): &(String, Vec<String>)| {
        let globs = patterns.iter().map(|pattern| glob(pattern)).collect::<Result<Vec<_>, _>>()?;
        Ok((split.clone(), matching(files, &globs)))
    };
    splits.iter().map(one).collect()
}

/// The splits that the files below `base` are named for.
fn named_for(all: &[PathBuf], base: &Path) -> Result<Splits, String> {
    let files: Vec<PathBuf> = all.iter().filter_map(|file| Some(file.strip_prefix(base).ok()?.to_owned())).collect();
    let files: Vec<PathBuf> = files.into_iter().filter(|file| !file.as_os_str().is_empty()).collect();
    let mut splits = sharded(&files)?;
    if splits.is_empty() {
        splits = by_keyword(&files, |word| {
            [format!("^(.*/)?{word}/.*$"), format!("^(.*/)?{word}{BESIDE}[^/]*/.*$")]
                .into_iter()
                .chain([
                    format!("^(.*/)?[^/]*{BESIDE}{word}/.*$"),
                    format!("^(.*/)?[^/]*{BESIDE}{word}{BESIDE}[^/]*/.*$"),
                ])
                .collect()
        })?;
    }
    if splits.is_empty() {
        splits = by_keyword(&files, |word| {
            vec![format!("^(.*/)?{word}{BESIDE}[^/]*$"), format!("^(.*/)?[^/]*{BESIDE}{word}{BESIDE}[^/]*$")]
        })?;
    }
    if splits.is_empty() {
        splits.push(("train".into(), files));
    }
    let kept = most_common_kind(&splits).ok_or("no data files (.parquet, .jsonl, .json, .csv, .tsv, .txt)")?;
    for (_, files) in &mut splits {
        files.retain(|file| FileKind::of(file) == Some(kept));
        files.iter_mut().for_each(|file| *file = base.join(&*file));
    }
    splits.retain(|(_, files)| !files.is_empty());
    Ok(splits)
}

/// `data/SPLIT-00000-of-00001….…`, the known splits first, others by name.
fn sharded(files: &[PathBuf]) -> Result<Splits, String> {
    let pattern = regex(r"^data/([^/]*)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*$")?;
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        if let Some(parts) = pattern.captures(&text_of(file)) {
            found.entry(parts[1].to_owned()).or_default().push(file.clone());
        }
    }
    let mut splits: Splits = Vec::new();
    for (known, _) in KEYWORDS {
        splits.extend(found.remove_entry(known));
    }
    splits.extend(found);
    Ok(splits)
}

/// Files by the keywords of the splits, whose patterns `patterns` makes.
fn by_keyword(files: &[PathBuf], patterns: impl Fn(&str) -> Vec<String>) -> Result<Splits, String> {
    let mut splits = Vec::new();
    for (split, words) in KEYWORDS {
        let patterns: Vec<Regex> =
            words.iter().flat_map(|word| patterns(word)).map(|pattern| regex(&pattern)).collect::<Result<_, _>>()?;
        let found = matching(files, &patterns);
        if !found.is_empty() {
            splits.push((split.to_owned(), found));
        }
    }
    Ok(splits)
}

/// The kind of most files; Parquet in a draw, then JSON.
fn most_common_kind(splits: &Splits) -> Option<FileKind> {
    const ORDER: [FileKind; 6] =
        [FileKind::Parquet, FileKind::Jsonl, FileKind::Json, FileKind::Csv, FileKind::Tsv, FileKind::Text];
    let kinds: Vec<FileKind> =
        splits.iter().flat_map(|(_, files)| files).filter_map(|file| FileKind::of(file)).collect();
    let count = |kind: &FileKind| kinds.iter().filter(|other| *other == kind).count();
    ORDER.into_iter().rev().max_by_key(count).filter(|kind| count(kind) > 0)
}

/// A pattern of a card: `*` and `?` within a name, `[…]`, and `**` over any number of directories.
fn glob(pattern: &str) -> Result<Regex, String> {
    let mut text = String::from("^");
    let parts: Vec<&str> = pattern.trim_start_matches("./").split('/').collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        if *part == "**" {
            text.push_str(if last { ".*" } else { "(.*/)?" });
            continue;
        }
        let mut rest = part.chars();
        while let Some(c) = rest.next() {
            match c {
                '*' => text.push_str("[^/]*"),
                '?' => text.push_str("[^/]"),
                '[' if rest.as_str().contains(']') => {
                    let class: String = rest.by_ref().take_while(|c| *c != ']').collect();
                    let (not, class) = class.strip_prefix('!').map_or(("", &*class), |class| ("^", class));
                    text.push_str(&format!(
                        "[{not}{}]",
                        class.replace('\\', "\\\\").replace('[', "\\[").replace('&', "\\&")
                    ));
                }
                c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        if !last {
            text.push('/');
        }
    }
    text.push('$');
    regex(&text)
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        layouts: Vec<Layout>,
    }

    #[derive(Deserialize)]
    struct Layout {
        name: String,
        readme: String,
        files: Vec<String>,
        ask: Vec<Option<String>>,
        answers: Vec<Answer>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Splits { splits: BTreeMap<String, Vec<String>> },
        Error { error: String },
    }

    /// The same files in the same order as `datasets` (`tools/golden/data_sets.py`).
    #[test]
    fn splits_are_those_of_datasets() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/data_sets.json")).unwrap();
        let mut answered = 0;
        for layout in golden.layouts {
            let directory = tempfile::tempdir().unwrap();
            for file in &layout.files {
                let path = directory.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            if !layout.readme.is_empty() {
                std::fs::write(directory.path().join("README.md"), &layout.readme).unwrap();
            }
            for (name, answer) in layout.ask.iter().zip(layout.answers) {
                let found = splits(directory.path(), name.as_deref());
                match (found, answer) {
                    (Ok(found), Answer::Splits { splits }) => {
                        let found: BTreeMap<String, Vec<String>> = found
                            .iter()
                            .map(|(split, files)| (split.clone(), files.iter().map(|f| text_of(f)).collect()))
                            .collect();
                        assert_eq!(found, splits, "{}, {name:?}", layout.name);
                        answered += 1;
                    }
                    (Err(_), Answer::Error { .. }) => {}
                    (found, Answer::Splits { splits }) => {
                        panic!("{}, {name:?}: {found:?}, not {splits:?}", layout.name)
                    }
                    (found, Answer::Error { error }) => panic!("{}, {name:?}: {found:?}, not `{error}`", layout.name),
                }
            }
        }
        assert!(answered >= 12, "{answered}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let card = |text: &str| std::fs::write(directory.path().join("README.md"), text).unwrap();
        let refused = |name: Option<&str>| splits(directory.path(), name).unwrap_err();
        assert!(refused(None).contains("no data files"));
        std::fs::write(directory.path().join("a.jsonl"), "").unwrap();
        assert!(refused(Some("main")).contains("no configuration `main`"));
        card("---\nconfigs:\n- config_name: a\n- config_name: b\n---\n");
        assert!(refused(None).contains("`a`, `b`; name one in `dataset_name`"));
        assert!(refused(Some("c")).contains("no configuration `c`; there are `a`, `b`"));
        card("---\nconfigs:\n- config: a\n---\n");
        assert!(refused(None).contains("the front matter: configs[0]: missing field `config_name`"));
    }
}
