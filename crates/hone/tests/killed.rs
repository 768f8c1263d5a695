//! `hone eval --out`, killed as by `kill -9` within a wave, once and again: what was done stays as it was written, and the card is
//! that of a run that nobody disturbed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const ROWS: usize = 150;
const HANDS: [&str; 2] = ["left", "right"];

/// A task of `yaml` over rows of many lengths.
fn task(directory: &Path, name: &str, yaml: &str) -> PathBuf {
    let row = |i: usize| {
        let more = " It was a sunny day and they played in the park.".repeat(1 + i % 5);
        serde_json::json!({ "text": format!("Tom has {i} red balls and {} dogs.{more} He", i % 7), "right": i % 2, "hand": HANDS[i % 2] })
    };
    let rows: String = (0..ROWS).map(|i| row(i).to_string() + "\n").collect();
    std::fs::write(directory.join("rows.jsonl"), rows).expect("written");
    let file = directory.join(format!("{name}.yaml"));
    let yaml = format!("task: {name}\ndataset_path: rows.jsonl\ndoc_to_text: text\n{yaml}");
    std::fs::write(&file, yaml).expect("written");
    file
}

fn eval(task: &Path, out: &Path, more: &[String]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("hone"));
    command.args(["--quiet", "eval", "stories260k", "--tasks"]).arg(task).arg("--out").arg(out).args(more);
    command.stdout(Stdio::null());
    command
}

/// Lines of a file, those that are whole.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read(path).unwrap_or_default();
    let whole = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.map(|line| String::from_utf8(line[..line.len() - 1].to_vec()).expect("UTF-8")).collect()
}

/// Places of the examples that a part holds, as it holds them.
fn marked(part: &Path) -> Vec<usize> {
    let place = |line: &String| Some(serde_json::from_str::<Value>(line).ok()?["example"].as_u64()? as usize);
    lines(part).iter().filter_map(place).collect()
}

/// The lines of a card, without the seconds that it took.
fn card(path: &Path) -> Vec<String> {
    let mut lines = lines(path);
    let mut header: Value = serde_json::from_str(&lines[0]).expect("a header");
    header["seconds"] = Value::Null;
    lines[0] = header.to_string();
    lines
}

const KEPT: &str = "This row was kept. ";

/// Runs the task undisturbed, and killed where so many examples are done; whether rows were ever out of order.
fn killed(name: &str, yaml: &str, more: &[String], kills: &[usize]) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let file = task(directory.path(), name, yaml);
    let (whole, out) = (directory.path().join("whole"), directory.path().join("killed"));
    assert!(eval(&file, &whole, more).status().expect("it runs").success());
    let expected = card(&whole.join(format!("{name}.jsonl")));
    assert_eq!(expected.len(), 1 + ROWS);
    let (place, part) = (out.join(format!("{name}.jsonl")), out.join(format!("{name}.jsonl.part")));
    let (mut before, mut done) = (Vec::new(), Vec::new());
    let (mut within_a_wave, mut out_of_order) = (false, false);
    for &until in kills {
        let mut process = eval(&file, &out, more).spawn().expect("it runs");
        let patience = Instant::now() + Duration::from_secs(120);
        while marked(&part).len() < until && Instant::now() < patience {
            let ended = process.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{name}: it ended ({ended:?}) before it could be killed behind {until}");
            std::thread::sleep(Duration::from_millis(1));
        }
        process.kill().expect("SIGKILL");
        assert!(!process.wait().expect("it is ours").success());
        assert!(!place.exists(), "a scorecard is whole or not there");
        done = marked(&part);
        assert!(done.len() >= until && done.len() < ROWS, "{name}: {} of {ROWS} done", done.len());
        // Nothing that was done is gone or written anew.
        let now = lines(&part);
        let whole = before.len() - before.len().saturating_sub(1) % 2;
        assert_eq!(now[..whole], before[..whole], "{name}: killed behind {until}");
        before = now;
        within_a_wave |= done.len() % 64 != 0;
        let mut places = done.clone();
        places.sort_unstable();
        out_of_order |= places != done;
        places.dedup();
        assert_eq!(places.len(), done.len(), "{name}: an example was done twice: {done:?}");
    }
    assert!(within_a_wave, "killed between two waves every time");
    // To be known again.
    let text = std::fs::read_to_string(&part).expect("it is there");
    std::fs::write(&part, text.replace("\"prompt\":\"", &format!("\"prompt\":\"{KEPT}"))).expect("written");
    assert!(eval(&file, &out, more).status().expect("it runs").success());
    assert!(!part.exists());
    let mut found = card(&place);
    for (at, row) in found.iter_mut().skip(1).enumerate() {
        assert_eq!(row.contains(KEPT), done.contains(&at), "{name}: example {at}");
        *row = row.replacen(KEPT, "", 1);
    }
    assert!(found == expected, "{name}: the cards differ");
    out_of_order
}

#[test]
fn texts_that_are_drawn_several_times() {
    let yaml = "output_type: generate_until\ndoc_to_target: right\nrepeats: 2\n\
        generation_kwargs: {until: ['.'], max_gen_toks: 120, do_sample: true, temperature: 0.8}\n\
        metric_list: [{metric: exact_match}]\n";
    assert!(killed("texts", yaml, &[], &[5, 30, 100]), "texts end when they end");
}

const CHOICES: &str = "output_type: multiple_choice\n\
    doc_to_choice: [' was very happy.', ' went home with his mom and dad.']\n\
    doc_to_target: right\nmetric_list: [{metric: acc}, {metric: ece}]\n";

#[test]
fn choices_with_an_edit_of_their_own_each() {
    let edits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hone-edit/tests/golden/peft");
    let mut more = vec!["--route".to_owned(), "hand".to_owned()];
    for (hand, edit) in HANDS.iter().zip(["plain", "rslora"]) {
        more.extend(["--edit-for".to_owned(), format!("{hand}={}", edits.join(edit).display())]);
    }
    killed("routed", CHOICES, &more, &[5, 40, 90]);
}

#[test]
fn choices() {
    assert!(!killed("choices", CHOICES, &[], &[5, 40, 90]));
}
