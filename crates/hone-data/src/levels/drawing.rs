//! Which categories, tasks and rows are held out: those with the lowest hashes.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{CollectionTask, Held, HoldOut, Level, LevelsError, error};
use crate::error::names;

/// The level of each task.
pub(super) fn levels(
    tasks: &[CollectionTask],
    hold_out: &HoldOut,
    seed: u64,
    notes: &mut Vec<String>,
) -> Result<Vec<Level>, LevelsError> {
    let mut categories: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for task in tasks {
        categories.entry(&task.category).or_default().push(&task.name);
    }
    let all: Vec<&str> = categories.keys().copied().collect();
    let held_categories = held_categories(&all, hold_out, seed)?;
    categories.retain(|category, _| !held_categories.contains(category));
    let held_tasks = match &hold_out.tasks {
        Held::Count(count) => {
            let mut held = BTreeSet::new();
            for (category, own) in &categories {
                if *count >= own.len() {
                    let (held, all) = (own.len() - 1, own.len());
                    notes.push(format!(
                        "category `{category}` keeps one task to train on: {held} of {all} are held out"
                    ));
                }
                held.extend(lowest(own, (*count).min(own.len() - 1), seed, "task"));
            }
            held
        }
        Held::Names(asked) => named_tasks(tasks, asked, &categories)?,
    };
    if held_tasks.is_empty() && hold_out.asks_for(Level::Tasks) {
        let found = "one task in every category that stays";
        let next = "give a category a second task, or set `hold_out.tasks: 0`";
        return Err(error("hold_out.tasks", found, "a category with a task to hold out and one to train on", next));
    }
    let level = |task: &CollectionTask| match () {
        () if held_categories.contains(task.category.as_str()) => Level::Categories,
        () if held_tasks.contains(task.name.as_str()) => Level::Tasks,
        () => Level::Rows,
    };
    Ok(tasks.iter().map(level).collect())
}

fn held_categories<'a>(all: &[&'a str], hold_out: &'a HoldOut, seed: u64) -> Result<BTreeSet<&'a str>, LevelsError> {
    const PLACE: &str = "hold_out.categories";
    let held: BTreeSet<&str> = match &hold_out.categories {
        Held::Count(count) => lowest(all, *count, seed, "category").into_iter().collect(),
        Held::Names(asked) => {
            if let Some(unknown) = asked.iter().find(|name| !all.contains(&name.as_str())) {
                let known: Vec<String> = all.iter().map(|name| (*name).to_owned()).collect();
                let next = format!("there are {}", names(&known));
                return Err(error(PLACE, format!("`{unknown}`"), "the name of a category", next));
            }
            asked.iter().map(String::as_str).collect()
        }
    };
    if held.len() == all.len() {
        let found = format!("{} to hold out of {}", held.len(), all.len());
        let next = match all.len() {
            0 | 1 => "give the tasks two categories or more, or set `hold_out.categories: 0`",
            _ => "hold out fewer",
        };
        return Err(error(PLACE, found, "a category that is trained on", next));
    }
    Ok(held)
}

/// Tasks held out by name.
fn named_tasks<'a>(
    tasks: &[CollectionTask],
    asked: &'a [String],
    staying: &BTreeMap<&str, Vec<&str>>,
) -> Result<BTreeSet<&'a str>, LevelsError> {
    const PLACE: &str = "hold_out.tasks";
    for name in asked {
        let Some(task) = tasks.iter().find(|task| task.name == *name) else {
            let known: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
            let next = format!("there are {}", names(&known));
            return Err(error(PLACE, format!("`{name}`"), "the name of a task", next));
        };
        if !staying.contains_key(task.category.as_str()) {
            let found = format!("`{name}`, whose category `{}` is held out whole", task.category);
            let next = "take it from the list, or name the categories to hold out";
            return Err(error(PLACE, found, "tasks of categories that stay", next));
        }
    }
    let held: BTreeSet<&str> = asked.iter().map(String::as_str).collect();
    if let Some((category, own)) = staying.iter().find(|(_, own)| own.iter().all(|name| held.contains(name))) {
        let found = format!("every task of the category `{category}` ({})", own.len());
        let next = format!("leave one of them to train on, or hold out `{category}` by `hold_out.categories`");
        return Err(error(PLACE, found, "a task of each category that stays to train on", next));
    }
    Ok(held)
}

/// The `count` names with the lowest hashes.
fn lowest<'a>(all: &[&'a str], count: usize, seed: u64, what: &str) -> Vec<&'a str> {
    let mut drawn: Vec<(u64, &str)> = all.iter().map(|name| (draw(seed, what, name), *name)).collect();
    drawn.sort_unstable();
    drawn.into_iter().take(count).map(|(_, name)| name).collect()
}

/// The first 64 bits of SHA-256 over what is drawn, the seed and a text.
fn draw(seed: u64, what: &str, text: &str) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update(b"hone-data levels 1 ");
    hasher.update(what.as_bytes());
    hasher.update(seed.to_le_bytes());
    hasher.update(text.as_bytes());
    let digest = hasher.finalize();
    let mut word = [0; 8];
    word.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(word)
}

/// What equal prompts have in common: the words in lower case, without the punctuation of prose around them. Signs inside words
/// and signs that stand alone count, since in sums and brackets they are the question.
pub fn key(prompt: &str) -> String {
    const PROSE: [char; 14] = ['.', ',', ';', ':', '!', '?', '"', '\'', '“', '”', '‘', '’', '…', '。'];
    let lower = prompt.to_lowercase();
    let bare = lower.split_whitespace().map(|word| word.trim_matches(PROSE)).filter(|word| !word.is_empty());
    bare.collect::<Vec<_>>().join(" ")
}

/// The rows of a task up to the limit, and those beyond it: of equal rows any, of others those with the lowest hashes.
pub(super) fn limited(
    task: &CollectionTask,
    keys: &[String],
    limit: Option<usize>,
    seed: u64,
) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..task.rows.len()).collect();
    let Some(limit) = limit.filter(|limit| *limit < order.len()) else { return (order, Vec::new()) };
    let place = |&at: &usize| (draw(seed, "limit", &keys[at]), &task.rows[at].prompt, &task.rows[at].completion);
    order.sort_by(|a, b| place(a).cmp(&place(b)));
    let mut beyond = order.split_off(limit);
    order.sort_unstable();
    beyond.sort_unstable();
    (order, beyond)
}

/// The rows of a trained task that are evaluated, and those that are trained on.
pub(super) fn sides(
    at: usize,
    task: &CollectionTask,
    keys: &[String],
    kept: &[usize],
    hold_out: &HoldOut,
    seed: u64,
) -> Result<(Vec<usize>, Vec<usize>), LevelsError> {
    if hold_out.rows == 0.0 {
        return Ok((Vec::new(), kept.to_vec()));
    }
    let mut drawn: Vec<(u64, &str)> =
        kept.iter().map(|&row| (draw(seed, "row", &keys[row]), keys[row].as_str())).collect();
    drawn.sort_unstable();
    drawn.dedup();
    if drawn.len() < 2 {
        let found = format!("`{}`, a task to train on, without two prompts that differ", task.name);
        let next = "give it more rows, raise `hold_out.limit`, or set `hold_out.rows: 0`";
        return Err(error(&format!("tasks.{at}"), found, "two or more, one to hold out and one to train on", next));
    }
    // 53 bits: exact in `f64`.
    let below = drawn.iter().filter(|(hash, _)| ((hash >> 11) as f64 / (1u64 << 53) as f64) < hold_out.rows).count();
    let held: BTreeSet<&str> = drawn.iter().take(below.clamp(1, drawn.len() - 1)).map(|(_, key)| *key).collect();
    Ok(kept.iter().partition(|row| held.contains(keys[**row].as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `int.from_bytes(sha256(b"hone-data levels 1 category" + seed.to_bytes(8, "little") + name).digest()[:8], "little")`.
    #[test]
    fn draws_are_the_first_bytes_of_sha_256() {
        assert_eq!(draw(3, "category", "numbers"), 16_759_540_063_567_842_639);
        assert_eq!(draw(3, "category", "spelling"), 8_180_117_452_765_471_684);
    }
}
