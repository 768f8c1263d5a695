//! Three levels of generalisation: every row on one side, whatever the order; nothing evaluated that was trained on.

use std::collections::{BTreeMap, BTreeSet};

use hone_data::levels::{CollectionTask, Held, HoldOut, Level, LevelSplit, LevelsError, Row, TaskSplit, key, split};
use proptest::prelude::*;

fn task(name: &str, category: &str, prompts: impl IntoIterator<Item = String>) -> CollectionTask {
    let row = |prompt: String| Row { completion: format!(" {}", prompt.len()), prompt };
    CollectionTask { name: name.into(), category: category.into(), rows: prompts.into_iter().map(row).collect() }
}

/// `count` prompts of a task that are its own.
fn own(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{name}: what is {name}{i}?")).collect()
}

fn collection(names: &[(&str, &str)], rows: usize) -> Vec<CollectionTask> {
    names.iter().map(|(name, category)| task(name, category, own(name, rows))).collect()
}

const SIX: [(&str, &str); 6] = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "z"), ("f", "z")];

fn of<'a>(split: &'a LevelSplit, name: &str) -> &'a TaskSplit {
    split.tasks.iter().find(|task| task.name == name).unwrap()
}

fn names(split: &LevelSplit, level: Level) -> Vec<&str> {
    split.tasks.iter().filter(|task| task.level == level).map(|task| task.name.as_str()).collect()
}

#[test]
fn the_levels_are_what_their_names_say() {
    let tasks = collection(&SIX, 200);
    let made = split(&tasks, &HoldOut::default(), 0).unwrap();
    assert_eq!(Level::ALL.map(|level| names(&made, level).len()), [2, 2, 2]);
    let categories = |level: Level| -> BTreeSet<&str> {
        made.tasks.iter().filter(|task| task.level == level).map(|task| task.category.as_str()).collect()
    };
    assert_eq!(categories(Level::Rows), categories(Level::Tasks));
    assert!(categories(Level::Categories).is_disjoint(&categories(Level::Rows)));
    for own in &made.tasks {
        match own.level {
            // 40 ± 2·√(200·0.2·0.8) of 200, and nothing lost.
            Level::Rows => {
                assert!((own.evaluated.len() as i64 - 40).abs() <= 12, "{}", own.evaluated.len());
                assert_eq!(own.trained.len() + own.evaluated.len(), 200);
            }
            Level::Tasks | Level::Categories => assert_eq!((own.trained.len(), own.evaluated.len()), (0, 200)),
        }
    }
    assert!(made.pairs.is_empty() && made.notes.is_empty(), "{:?} {:?}", made.pairs, made.notes);
    // Another seed draws others.
    let mut others = (1..9).map(|seed| split(&tasks, &HoldOut::default(), seed).unwrap());
    assert!(others.any(|other| names(&other, Level::Categories) != names(&made, Level::Categories)));
}

#[test]
fn names_are_held_out_as_asked_and_a_limit_is_kept() {
    let tasks = collection(&SIX, 50);
    let hold_out = HoldOut {
        categories: Held::Names(vec!["y".into()]),
        tasks: Held::Names(vec!["f".into()]),
        rows: 0.5,
        limit: Some(20),
    };
    let made = split(&tasks, &hold_out, 7).unwrap();
    assert_eq!(Level::ALL.map(|level| names(&made, level)), [vec!["a", "b", "e"], vec!["f"], vec!["c", "d"]]);
    for own in &made.tasks {
        assert_eq!((own.trained.len() + own.evaluated.len(), own.beyond_limit.len()), (20, 30), "{own:?}");
    }
    // Nothing of a level is a fine thing to ask for.
    let none = HoldOut { categories: Held::Count(0), tasks: Held::Count(0), ..HoldOut::default() };
    assert_eq!(names(&split(&tasks, &none, 0).unwrap(), Level::Rows).len(), 6);
    let trained_alone = HoldOut { rows: 0.0, ..HoldOut::default() };
    let made = split(&tasks, &trained_alone, 0).unwrap();
    assert!(
        made.tasks.iter().filter(|t| t.level == Level::Rows).all(|t| t.evaluated.is_empty() && t.trained.len() == 50)
    );
}

#[test]
fn a_small_task_keeps_a_row_on_each_side() {
    for seed in 0..30 {
        for rows in [0.01, 0.99] {
            let hold_out = HoldOut { rows, ..HoldOut::default() };
            let made = split(&collection(&SIX, 3), &hold_out, seed).unwrap();
            for own in made.tasks.iter().filter(|task| task.level == Level::Rows) {
                assert!(!own.trained.is_empty() && !own.evaluated.is_empty(), "{seed} {rows} {own:?}");
            }
        }
    }
}

fn only(categories: &[&str], tasks: &[&str]) -> HoldOut {
    let owned = |names: &[&str]| Held::Names(names.iter().map(|name| (*name).to_owned()).collect());
    HoldOut { categories: owned(categories), tasks: owned(tasks), ..HoldOut::default() }
}

#[test]
fn equal_prompts_are_dropped_and_counted_by_pair() {
    let mut tasks = collection(&SIX, 20);
    let trained = split(&tasks, &only(&["z"], &["b"]), 0).unwrap();
    // Three prompts that `a` trains on, written a little otherwise, and one that it does not.
    for &row in &of(&trained, "a").trained[..3] {
        let prompt = tasks[0].rows[row].prompt.replace("what is", "  What\nis").replace('?', "");
        tasks[4].rows.push(Row { prompt, completion: " x".into() });
    }
    tasks[4].rows.push(Row { prompt: "Something else".into(), completion: " x".into() });
    let made = split(&tasks, &only(&["z"], &["b"]), 0).unwrap();
    assert_eq!((of(&made, "e").equal.clone(), of(&made, "e").evaluated.len()), (vec![20, 21, 22], 21));
    assert_eq!(of(&made, "a"), of(&trained, "a"));
    let pair = &made.pairs[0];
    assert_eq!((pair.evaluated.as_str(), pair.trained.as_str(), pair.equal, pair.leaked), ("e", "a", 3, 0));
    assert!((pair.share - 3.0 / 24.0).abs() < 1e-12 && made.pairs.len() == 1, "{:?}", made.pairs);
}

#[test]
fn signs_that_are_the_question_tell_prompts_apart() {
    assert_eq!(key(" What is\n“Life”? "), key("what is life"));
    assert_ne!(key("7 - 3"), key("7 + 3"));
    assert_ne!(key("7-3"), key("7+3"));
    assert_ne!(key("( ( ["), key("( [ ("));
}

/// A sentence of `words` words that nothing else has.
fn sentence(name: &str, words: usize) -> String {
    (0..words).map(|i| format!("{name}{i}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn runs_of_what_is_a_prompts_own_leak_and_its_template_does_not() {
    let long = "Read the text with great care and say in one word what it is about, without any further words. Text:";
    let asked = |name: &str| {
        (0..6).map(|i| format!("{long} the {} Answer:", sentence(&format!("{name}{i}w"), 20))).collect::<Vec<_>>()
    };
    let short = |name: &str| -> Vec<String> { (0..6).map(|i| format!("{long} the {name}{i} Answer:")).collect() };
    let tasks = || vec![task("a", "x", asked("a")), task("b", "x", asked("b")), task("c", "y", short("c"))];
    let hold_out = only(&["y"], &["b"]);
    // The instruction, 19 words, is everywhere, in fewer than 11 examples; nobody leaks by it, not even with `the` behind it.
    let made = split(&tasks(), &hold_out, 0).unwrap();
    assert!(made.pairs.is_empty(), "{:?}", made.pairs);
    assert_eq!((of(&made, "b").evaluated.len(), of(&made, "c").evaluated.len()), (6, 6));
    // The same sentence in another instruction.
    let row = of(&made, "a").trained[0];
    let mut more = tasks();
    let text = sentence(&format!("a{row}w"), 20);
    more[2].rows.push(Row { prompt: format!("{long} the {text} indeed. Answer:"), completion: " yes".into() });
    let made = split(&more, &hold_out, 0).unwrap();
    assert_eq!((&of(&made, "c").leaked, of(&made, "c").evaluated.len()), (&vec![6], 6));
    assert_eq!((made.pairs[0].trained.as_str(), made.pairs[0].leaked, made.pairs.len()), ("a", 1, 1));
    // A long answer that is trained on, asked for in another way.
    let mut answers = tasks();
    answers[0].rows[row].completion = format!(" {}", sentence("answer", 15));
    answers[1].rows[2].completion = format!(" Well: {}", sentence("answer", 15));
    let made = split(&answers, &hold_out, 0).unwrap();
    assert_eq!(of(&made, "b").leaked, [2]);
}

fn refused(tasks: &[CollectionTask], hold_out: &HoldOut) -> LevelsError {
    split(tasks, hold_out, 0).unwrap_err()
}

#[test]
fn a_level_that_would_be_empty_says_what_to_change() {
    let all = HoldOut::default();
    let one = refused(&collection(&SIX[..2], 5), &all);
    assert_eq!(one.place, "hold_out.categories");
    assert!(one.next.contains("hold_out.categories: 0"), "{one}");
    let single = refused(&collection(&[("a", "x"), ("b", "y")], 5), &all);
    assert_eq!(single.place, "hold_out.tasks");
    assert!(single.next.contains("hold_out.tasks: 0"), "{single}");
    let alike = refused(
        &[task("a", "x", vec!["Same?".into(), "same".into()])],
        &HoldOut { categories: Held::Count(0), tasks: Held::Count(0), ..all.clone() },
    );
    assert!(alike.place == "tasks.0" && alike.found.contains("without two prompts that differ"), "{alike}");
    // The held-out category is a copy of a trained one.
    let copy: Vec<CollectionTask> = [("a", "x"), ("b", "x"), ("c", "y")].map(|(n, c)| task(n, c, own("a", 9))).into();
    let none = HoldOut { rows: 0.0, ..only(&["y"], &["b"]) };
    let dropped = refused(&copy, &none);
    assert!(dropped.place == "hold_out.tasks" && dropped.found.contains("9 have a prompt"), "{dropped}");
    let unknown = refused(&collection(&SIX, 5), &only(&["w"], &[]));
    assert!(unknown.found == "`w`" && unknown.next.contains("`x`, `y`, `z`"), "{unknown}");
    assert!(refused(&collection(&SIX, 5), &only(&["z"], &["e"])).found.contains("held out whole"));
    assert!(refused(&collection(&SIX, 5), &only(&["z"], &["a", "b"])).found.contains("every task of the category `x`"));
    assert_eq!(refused(&collection(&SIX, 5), &only(&["x", "y", "z"], &[])).expected, "a category that is trained on");
    assert_eq!(refused(&collection(&SIX, 5), &HoldOut { rows: 1.0, ..all }).place, "hold_out.rows");
    assert_eq!(refused(&collection(&SIX, 5), &HoldOut { rows: 0.0, ..only(&[], &[]) }).place, "hold_out");
}

#[test]
fn a_category_of_one_task_keeps_it() {
    let made = split(&collection(&[("a", "x"), ("b", "x"), ("c", "y")], 9), &only(&[], &["b"]), 0).unwrap();
    assert_eq!(names(&made, Level::Rows), ["a", "c"]);
    let counted = HoldOut { categories: Held::Count(0), ..HoldOut::default() };
    let made = split(&collection(&[("a", "x"), ("b", "x"), ("c", "y")], 9), &counted, 0).unwrap();
    assert_eq!((of(&made, "c").level, made.notes.len()), (Level::Rows, 1));
    assert!(made.notes[0].contains("`y` keeps one task to train on: 0 of 1"), "{:?}", made.notes);
}

/// Small collections whose prompts often meet: the words are few, the sentences of the second kind long enough to leak.
fn collections() -> impl Strategy<Value = Vec<CollectionTask>> {
    let short = prop::collection::vec(prop::sample::select(vec!["red", "Blue", "green.", "7", "-"]), 1..4);
    let long = (0usize..4, 0usize..3).prop_map(|(of, from)| {
        sentence(&format!("s{of}w"), 18).split(' ').skip(from).map(str::to_owned).collect::<Vec<_>>()
    });
    let prompt = prop_oneof![short.prop_map(|words| words.join(" ")), long.prop_map(|words| words.join(" "))];
    let rows = prop::collection::vec(prompt, 3..12);
    prop::collection::vec((0usize..4, rows), 5..9).prop_map(|tasks| {
        let made = tasks.into_iter().enumerate();
        made.map(|(i, (category, rows))| task(&format!("t{i}"), &format!("c{category}"), rows)).collect()
    })
}

/// What went where, by what the rows say: nothing of the order is left in it.
fn content(tasks: &[CollectionTask], made: &LevelSplit) -> BTreeMap<String, (Level, Vec<Vec<String>>)> {
    let rows = |task: &CollectionTask, of: &[usize]| {
        let mut rows: Vec<String> = of.iter().map(|&row| format!("{:?}", task.rows[row])).collect();
        rows.sort();
        rows
    };
    let lists = |t: &CollectionTask, o: &TaskSplit| {
        [&o.trained, &o.evaluated, &o.beyond_limit, &o.equal, &o.leaked].map(|of| rows(t, of)).to_vec()
    };
    tasks.iter().zip(&made.tasks).map(|(t, o)| (o.name.clone(), (o.level, lists(t, o)))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_on_one_side_and_no_prompt_on_both(
        tasks in collections(),
        seed in 0u64..1000,
        rows in 0.0f64..0.9,
        limit in prop::option::of(2usize..9),
    ) {
        let hold_out = HoldOut { rows, limit, ..HoldOut::default() };
        let Ok(made) = split(&tasks, &hold_out, seed) else { return Ok(()) };
        let mut trained: BTreeSet<String> = BTreeSet::new();
        for (task, own) in tasks.iter().zip(&made.tasks) {
            let lists = [&own.trained, &own.evaluated, &own.beyond_limit, &own.equal, &own.leaked];
            let mut all: Vec<usize> = lists.into_iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..task.rows.len()).collect::<Vec<_>>());
            prop_assert!(own.level == Level::Rows || own.trained.is_empty());
            trained.extend(own.trained.iter().map(|&row| key(&task.rows[row].prompt)));
        }
        for (task, own) in tasks.iter().zip(&made.tasks) {
            prop_assert!(own.evaluated.iter().all(|&row| !trained.contains(&key(&task.rows[row].prompt))));
            prop_assert!(own.equal.iter().all(|&row| trained.contains(&key(&task.rows[row].prompt))));
        }
        // Levels are what they are called.
        let trains = |category: &str| made.tasks.iter().any(|t| t.category == category && !t.trained.is_empty());
        for own in &made.tasks {
            prop_assert_eq!(trains(&own.category), own.level != Level::Categories);
        }
    }

    #[test]
    fn the_order_of_tasks_and_rows_does_not_matter(
        tasks in collections(),
        order in prop::collection::vec(any::<u64>(), 40),
        seed in 0u64..1000,
        limit in prop::option::of(2usize..9),
    ) {
        let hold_out = HoldOut { limit, ..HoldOut::default() };
        let mut shuffled: Vec<(u64, CollectionTask)> = order.iter().copied().zip(tasks.clone()).collect();
        shuffled.sort_by_key(|(at, _)| *at);
        let mut shuffled: Vec<CollectionTask> = shuffled.into_iter().map(|(_, task)| task).collect();
        for task in &mut shuffled {
            let mut rows: Vec<(u64, Row)> = order.iter().rev().copied().zip(task.rows.clone()).collect();
            rows.sort_by_key(|(at, _)| *at);
            task.rows = rows.into_iter().map(|(_, row)| row).collect();
        }
        match (split(&tasks, &hold_out, seed), split(&shuffled, &hold_out, seed)) {
            (Ok(made), Ok(other)) => {
                prop_assert_eq!(content(&tasks, &made), content(&shuffled, &other));
                prop_assert_eq!(made.pairs, other.pairs);
            }
            (Err(error), Err(other)) => {
                // Which of several tasks is named first, and its place, follows the order.
                prop_assert_eq!(error.place.split('.').next(), other.place.split('.').next());
            }
            (made, other) => prop_assert!(false, "{:?} but {:?}", made, other),
        }
    }

    #[test]
    fn a_new_category_changes_the_draw_only_by_being_drawn(seed in 0u64..1000, new in "[d-k]{1,3}", count in 1usize..3) {
        let hold_out = HoldOut { categories: Held::Count(count), tasks: Held::Count(0), ..HoldOut::default() };
        let held = |tasks: &[CollectionTask]| -> BTreeSet<String> {
            let made = split(tasks, &hold_out, seed).unwrap();
            made.tasks.into_iter().filter(|t| t.level == Level::Categories).map(|t| t.category).collect()
        };
        let mut tasks = collection(&[("a", "x"), ("b", "y"), ("c", "z"), ("l", "w")], 6);
        let before = held(&tasks);
        tasks.push(task("new", &new, own("new", 6)));
        let after = held(&tasks);
        match after.contains(&new) {
            true => prop_assert_eq!(after.intersection(&before).count(), count - 1),
            false => prop_assert_eq!(after, before),
        }
    }
}
