//! Where the other adapters lie that an adapter names (X-LoRA's `adapters`): as PEFT finds them, from anywhere, in
//! `adapter_config.json`; and as seen from the adapter's own directory, in `hone.json`, so that all of it can be moved together.

use std::path::{Component, Path};

use serde_json::{Map, Value};

use super::{CONFIG, adapter_directory};

/// Finds the directories of other adapters: where they are `seen` from this one, which holds when they were moved
/// together; else where the configuration says, from this directory or from the working one.
pub(super) fn find(config: &mut Map<String, Value>, dir: &Path, seen: &Map<String, Value>) {
    let experts = config.get_mut("adapters").and_then(Value::as_object_mut);
    for (name, path) in experts.into_iter().flatten() {
        let places = [seen.get(name).and_then(Value::as_str), path.as_str()].into_iter().flatten();
        let there = |place: &str| adapter_directory(&dir.join(place)).join(CONFIG).exists().then(|| dir.join(place));
        let found = places.filter_map(there).next();
        if let Some(found) = found.and_then(|found| found.canonicalize().ok()?.to_str().map(Value::from)) {
            *path = found;
        }
    }
}

/// The ways from `dir` to the directories of other adapters that `config` names, by their names.
pub(super) fn seen_from(dir: &Path, config: &Map<String, Value>) -> Map<String, Value> {
    let experts = config.get("adapters").and_then(Value::as_object);
    let way = |(name, path): (&String, &Value)| Some((name.clone(), relative(dir, Path::new(path.as_str()?))?.into()));
    experts.into_iter().flatten().filter_map(way).collect()
}

/// The way from the directory `from` to `to`, where both are there and have more than the root in common.
fn relative(from: &Path, to: &Path) -> Option<String> {
    let (from, to) = (from.canonicalize().ok()?, to.canonicalize().ok()?);
    let mut same = from.components().zip(to.components()).take_while(|(a, b)| a == b);
    let shared = same.clone().count();
    if !same.any(|(part, _)| matches!(part, Component::Normal(_))) {
        return None;
    }
    let up = from.components().skip(shared).map(|_| "..");
    let down = to.components().skip(shared).map(|part| part.as_os_str().to_str());
    let parts: Option<Vec<&str>> = up.map(Some).chain(down).collect();
    Some(parts?.join("/"))
}
