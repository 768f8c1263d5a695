//! From a recipe to a split data set: what is read, dropped, counted and refused.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{TestCodec, fixture, real_data};
use hone_data::{
    Abilities, BatchPlan, Body, Codec, DataConfig, DataError, DropReason, Example, Loaded, StepBatch, load, tokenise,
};
use proptest::prelude::*;

const CHAT: Abilities = Abilities { chat_template: true, tool_calls: true };

fn config(yaml: &str) -> DataConfig {
    serde_yaml_ng::from_str(yaml).unwrap()
}

fn load_in(base: &Path, yaml: &str) -> Result<Loaded, DataError> {
    load(&config(yaml), base, CHAT)
}

/// Loads files written for the test.
fn load_files(files: &[(&str, &str)], yaml: &str) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    load_in(dir.path(), yaml).map_err(|e| e.to_string().replace(&dir.path().display().to_string(), "DIR"))
}

fn rows(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    texts.into_iter().map(|t| format!("{}\n", serde_json::json!({ "text": t.as_ref() }))).collect()
}

fn texts(examples: &[Example]) -> Vec<String> {
    examples.iter().map(|e| e.body.texts().join("|")).collect()
}

#[test]
fn the_samples_load_with_their_formats_said_aloud() {
    let cases = [
        ("gsm8k.jsonl", 4, "question_answer", "4 of the first 4 rows have `question` and `answer` (texts)"),
        ("instructions.jsonl", 5, "alpaca", "5 of the first 5 rows have `instruction` and `output`"),
        (
            "tool_calls.jsonl",
            3,
            "sharegpt",
            "3 of the first 3 rows have `conversations` (a list of `from` and `value`)",
        ),
        ("preferences.jsonl", 2, "preference", "2 of the first 2 rows have `chosen` and `rejected`"),
        ("shakespeare.txt", 4, "text", "4 of the first 4 rows have `text`"),
    ];
    for (name, examples, format, why) in cases {
        let loaded = load_in(&fixture(""), &format!("path: {name}")).unwrap();
        let file = &loaded.report.files[0];
        let detection = file.detection.as_ref().unwrap();
        assert_eq!((detection.format.as_str(), detection.why.as_str()), (format, why));
        assert_eq!(
            (loaded.train.len(), file.rows, file.examples, loaded.report.rows_read),
            (examples, examples, examples, examples)
        );
        assert_eq!(loaded.train[1].source.row, 2);
    }
    let text = load_in(&fixture(""), "path: shakespeare.txt").unwrap();
    assert_eq!(text.train[1].body, Body::Text("All:\nSpeak, speak.".into()));
    assert_eq!(text.train[1].source.line, Some(4));
}

#[test]
fn a_row_in_several_wordings_is_one_row_everywhere() {
    let file = rows((0..60).map(|i| format!("the number {i}")));
    let yaml = "{path: a.jsonl, prompt_template: 'Say {{ text }}', wordings: ['Write {{ text }}', 'Spell {{ text }}'], \
                completion_template: ' {{ text }}', limit: 50, validation_fraction: 0.3, shuffle: false}";
    let loaded = load_files(&[("a.jsonl", &file)], yaml).unwrap();
    assert_eq!((loaded.report.rows_read, loaded.train.len() + loaded.validation.len()), (50, 150));
    assert!(loaded.report.files[0].limited && loaded.report.files[0].examples == 150);
    for side in [&loaded.train, &loaded.validation] {
        assert!(side.len() >= 15 && side.len().is_multiple_of(3), "{}", side.len());
        for row in side.chunks(3) {
            let said: Vec<String> = texts(row).iter().map(|text| text.split(' ').next().unwrap().into()).collect();
            assert_eq!(said, ["Say", "Write", "Spell"]);
            assert_eq!(row.iter().map(|e| e.wording).collect::<Vec<_>>(), [0, 1, 2]);
            assert!(row.iter().all(|e| e.source == row[0].source));
        }
    }
    let config = config(yaml);
    let data = tokenise(&loaded, &config, &TestCodec::plain()).unwrap();
    let plan = BatchPlan::for_examples(&data.train, &config, data.max_length, 2).unwrap();
    assert_eq!(plan.rows_per_epoch(), loaded.train.len() / 3);
    assert_eq!(plan.step(1), [6, 7, 8, 9, 10, 11]);
    let batch = StepBatch::new(&data.train, &plan.step(1)).layout();
    assert_eq!(batch.first_wordings, [0, 0, 0, 3, 3, 3]);
    // Without the first of them a row is still its own.
    let rest: Vec<_> = data.train.iter().filter(|e| e.wording > 0).cloned().collect();
    let plan = BatchPlan::for_examples(&rest, &config, data.max_length, 2).unwrap();
    assert_eq!((plan.rows_per_epoch(), plan.step(0)), (loaded.train.len() / 3, vec![0, 1, 2, 3]));
    let packed = load_files(&[("a.jsonl", &file)], &yaml.replace("limit: 50", "packing: true")).unwrap_err();
    assert!(packed.contains("`data.packing`: found `packing` beside `wordings`"), "{packed}");
}

#[test]
fn templates_see_other_rows_as_shots() {
    let file: String = (0..30).map(|i| format!("{{\"q\": \"q{i}\", \"a\": \"a{i}\"}}\n")).collect();
    let yaml = |more: &str| {
        let prompt = "{% for shot in shots %}{{ shot.q }}{{ shot.a }} {% endfor %}{{ q }}";
        format!("{{path: a.jsonl, prompt_template: '{prompt}', completion_template: '{{{{ a }}}}', {more}}}")
    };
    let prompts = |more: &str| -> Vec<String> {
        let loaded = load_files(&[("a.jsonl", &file)], &yaml(more)).unwrap();
        loaded.train.iter().map(|e| e.body.texts()[0].to_string()).collect()
    };
    let first = prompts("shots: 3, limit: 20");
    let mut seen = std::collections::BTreeSet::new();
    for (at, prompt) in first.iter().enumerate() {
        let words: Vec<&str> = prompt.split(' ').collect();
        let (own, shots) = words.split_last().unwrap();
        assert_eq!((*own, shots.len()), (format!("q{at}").as_str(), 3), "{prompt}");
        for shot in shots {
            let (q, a) = shot[1..].split_once('a').unwrap();
            let row: usize = q.parse().unwrap();
            assert!(q == a && row != at && row < 20, "row {at}: {shot}");
            seen.insert(row);
        }
        let distinct: std::collections::BTreeSet<_> = shots.iter().collect();
        assert_eq!(distinct.len(), 3, "{prompt}");
    }
    // Of 60 draws about one row in twenty is missed.
    assert!(first.len() == 20 && seen.len() >= 17, "{seen:?}");
    assert_eq!(prompts("shots: 3, limit: 20"), first);
    assert_ne!(prompts("shots: 3, limit: 20, seed: 1"), first);
    assert_eq!(prompts("shots: 2, limit: 3").len(), 3, "all the others");

    let refused = |file: &str, more: &str| load_files(&[("a.jsonl", file)], &yaml(more)).unwrap_err();
    // A copy of a row would show its answer, and is on its side of the split.
    let twice = file.repeat(2);
    let loaded = load_files(&[("a.jsonl", &twice)], &yaml("shots: 20, validation_fraction: 0.5")).unwrap();
    for example in loaded.train.iter().chain(&loaded.validation) {
        let words: Vec<&str> = example.body.texts()[0].split(' ').collect();
        let (own, shots) = words.split_last().unwrap();
        assert!(shots.iter().all(|shot| !shot.starts_with(&format!("{own}a"))), "{words:?}");
    }
    let rows =
        |side: &[Example]| -> std::collections::BTreeSet<usize> { side.iter().map(|e| e.source.row % 30).collect() };
    assert!(rows(&loaded.train).is_disjoint(&rows(&loaded.validation)) && !loaded.validation.is_empty());
    let once = load_files(&[("a.jsonl", &twice)], &yaml("shots: 2, duplicates: drop")).unwrap();
    assert_eq!((once.train.len(), once.report.duplicates), (30, 30));
    let same = "{\"q\": 1, \"a\": 2}\n".repeat(5);
    let copies = refused(&same, "shots: 2");
    assert!(copies.contains("found 0 rows that differ from it, expected 2"), "{copies}");
    let few = refused(&file, "shots: 3, limit: 3");
    assert!(few.contains("`data.shots`: found 3 beside 3 rows"), "{few}");
    let taken = refused("{\"q\": 1, \"a\": 2, \"shots\": 3}\n{\"q\": 1, \"a\": 2}\n", "shots: 1");
    assert!(taken.contains("row 1 (line 1), field `shots`: found a column of this name"), "{taken}");
    let alone = load_files(&[("a.jsonl", &file)], "{path: a.jsonl, columns: {prompt: q, completion: a}, shots: 1}");
    assert!(alone.unwrap_err().contains("`shots` without a `prompt_template`"));
    let unasked = refused(&file, "shots: 0");
    assert!(unasked.contains("no `shots`"), "{unasked}");
}

#[test]
fn a_file_is_named_by_size_and_hash() {
    let loaded = load_files(&[("a.txt", "abc")], "path: a.txt").unwrap();
    let file = &loaded.report.files[0];
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((file.bytes, file.sha256.as_str()), (3, abc));
}

#[test]
fn a_data_set_is_encoded_with_every_row_accounted_for() {
    let codec = TestCodec::chat("qwen2.5");
    let config = config("{files: [gsm8k.jsonl, instructions.jsonl, tool_calls.jsonl], max_length: 300}");
    let loaded = load(&config, &fixture(""), codec.abilities()).unwrap();
    let data = tokenise(&loaded, &config, &codec).unwrap();
    let report = &data.report;
    assert_eq!(report.rows_read, data.train.len() + report.drops.total());
    assert_eq!(report.train.tokens, data.train.iter().map(|e| e.ids.len()).sum::<usize>());
    assert_eq!(report.train.lengths.histogram.iter().map(|b| b.count).sum::<usize>(), data.train.len());
    assert!(report.train.trained_share.min > 0.0 && report.train.trained_share.max < 1.0);
    assert!(
        report.train.truncated_tokens > 0 && report.train.truncated_sequences > 0,
        "two sample rows are longer than 300"
    );
    assert!(data.train.iter().all(|e| e.ids.len() <= 300 && e.trained.contains(&true)));
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(json["files"][0]["detection"]["format"], "question_answer");
    assert_eq!(json["formats"], serde_json::json!({"alpaca": 5, "question_answer": 4, "sharegpt": 3}));
    assert_eq!(serde_json::from_value::<hone_data::DataReport>(json).unwrap(), *report);
}

#[test]
fn a_data_set_that_never_teaches_where_to_stop_is_said_aloud() {
    let said = |yaml: &str| {
        let config = config(yaml);
        let loaded = load(&config, &fixture(""), CHAT).unwrap();
        tokenise(&loaded, &config, &TestCodec::plain()).unwrap().report
    };
    let whole = said("{path: gsm8k.jsonl, chat_template: never}");
    assert_eq!((whole.train.without_end, whole.notes.len()), (0, 0));
    let cut = said("{path: gsm8k.jsonl, chat_template: never, max_length: 80}");
    assert_eq!((cut.train.without_end, cut.train.sequences), (4, 4));
    assert!(cut.notes[0].contains("will not learn where to stop"), "{:?}", cut.notes);
}

#[test]
fn bad_rows_stop_or_are_counted() {
    let file = "{\"text\": \"a\"}\n{\"text\": 5}\n{oops\n{\"text\": \" \"}\n{\"text\": \"b\"}\n";
    let error = load_files(&[("a.jsonl", file)], "path: a.jsonl").unwrap_err();
    assert!(
        error.starts_with("DIR/a.jsonl: row 2 (line 2), field `text`: found the number 5, expected text"),
        "{error}"
    );
    let loaded = load_files(&[("a.jsonl", file)], "{path: a.jsonl, on_bad_row: skip}").unwrap();
    assert_eq!(texts(&loaded.train), ["a", "b"]);
    let drops = &loaded.report.drops;
    assert_eq!((drops.count(DropReason::Malformed), drops.count(DropReason::Empty)), (2, 1));
    assert_eq!(loaded.report.rows_read, 5);
    assert_eq!(drops.first[&DropReason::Malformed][0].detail, "`text`: found the number 5, expected text");
}

#[test]
fn rows_without_an_answer_are_empty() {
    let turn = |answer: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"Hi\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n"
        )
    };
    let loaded =
        load_files(&[("a.jsonl", &format!("{}{}{}", turn("Ho"), turn(" "), turn("")))], "path: a.jsonl").unwrap();
    assert_eq!((loaded.train.len(), loaded.report.drops.count(DropReason::Empty)), (1, 2));
    assert_eq!(loaded.report.drops.first[&DropReason::Empty][0].detail, "no answer");
    for row in ["instruction,output\nHi,\n", "question,answer\nHi,\n", "prompt,completion\nHi,\n"] {
        let error = load_files(&[("a.csv", row)], "path: a.csv").unwrap_err();
        assert!(error.contains("dropped: 1 empty (first: DIR/a.csv: row 1 (line 2): no answer)"), "{error}");
    }
}

#[test]
fn a_file_that_is_bad_from_the_first_row_on_names_that_row() {
    let error = load_files(&[("a.jsonl", "{oops\n")], "path: a.jsonl").unwrap_err();
    assert!(error.starts_with("DIR/a.jsonl: row 1 (line 1): found key must be a string"), "{error}");
    let error = load_files(&[("a.jsonl", "{oops\n")], "{path: a.jsonl, on_bad_row: skip}").unwrap_err();
    assert!(
        error.starts_with("no training examples: 1 rows read; dropped: 1 malformed (first: DIR/a.jsonl: row 1"),
        "{error}"
    );
}

#[test]
fn empty_data_is_an_error_with_the_reasons() {
    let error = load_files(&[("a.jsonl", "\n\n")], "path: a.jsonl").unwrap_err();
    assert!(error.starts_with("no training examples: not a row in `DIR/a.jsonl`;"), "{error}");
    let error = load_files(&[("a.jsonl", &rows(["", " "]))], "path: a.jsonl").unwrap_err();
    assert!(error.contains("2 rows read; dropped: 2 empty (first: DIR/a.jsonl: row 1 (line 1): no text)"), "{error}");
    let error =
        load_files(&[("a.jsonl", &rows(["a"])), ("v.jsonl", "")], "{path: a.jsonl, validation_files: [v.jsonl]}");
    assert!(error.unwrap_err().starts_with("no validation examples"));
}

#[test]
fn data_whose_tokens_are_all_masked_is_an_error_with_the_reasons() {
    let row = r#"{"messages": [{"role": "user", "content": "Hello?"}]}"#;
    let loaded = load_files(&[("a.jsonl", row)], "path: a.jsonl").unwrap();
    let error = tokenise(&loaded, &config("path: a.jsonl"), &TestCodec::chat("smollm2")).unwrap_err().to_string();
    assert!(error.contains("1 rows read; dropped: 1 no trained tokens (first: "), "{error}");
    let long = r#"{"prompt": "one two three four", "completion": " five"}"#;
    let loaded = load_files(&[("a.jsonl", long)], "path: a.jsonl").unwrap();
    let error =
        tokenise(&loaded, &config("{path: a.jsonl, max_length: 4}"), &TestCodec::plain()).unwrap_err().to_string();
    assert!(error.contains("1 all trained tokens cut off (first: ") && error.contains("`max_length`"), "{error}");
}

#[test]
fn lengths_beyond_the_models_limit_are_refused_before_anything_is_encoded() {
    let loaded = load_files(&[("a.jsonl", &rows(["a b c"]))], "path: a.jsonl").unwrap();
    let codec = TestCodec { max_length: 512, ..TestCodec::plain() };
    let said = |yaml: &str| tokenise(&loaded, &config(yaml), &codec).unwrap_err().to_string();
    let error = said("{path: a.jsonl, max_length: 600}");
    assert!(error.contains("`data.max_length`: found 600, expected at most 512"), "{error}");
    assert!(said("{path: a.jsonl, max_length: 1}").contains("expected at least 2"));
    assert_eq!(tokenise(&loaded, &config("path: a.jsonl"), &codec).unwrap().max_length, 512);
}

#[test]
fn recipes_that_contradict_themselves_name_the_key() {
    let said = |yaml: &str| load_files(&[("a.jsonl", &rows(["a"]))], yaml).unwrap_err();
    assert!(said("{}").starts_with("recipe, `data.path`: found no file"));
    assert!(said("{path: a.jsonl, mix: [{path: a.jsonl}]}").contains("`data.mix`: found both"));
    assert!(said("{path: a.jsonl, validation_fraction: 1.5}").contains("found 1.5, expected a share"));
    assert!(said("{path: a.jsonl, validation_fraction: .nan}").contains("found NaN"));
    assert!(
        said("{path: a.jsonl, validation_fraction: 0.1, validation_files: [a.jsonl]}").contains("expected one of them")
    );
    assert!(said("{mix: [{path: a.jsonl, weight: 1}, {path: a.jsonl}]}").contains("1 of 2 sources with a `weight`"));
    assert!(said("{mix: [{path: a.jsonl, weight: -1}]}").contains("`data.mix[0].weight`: found -1"));
    assert!(said("{mix: [{weight: 1}]}").contains("`data.mix[0].path`: found no file"));
    assert!(said("{path: b.jsonl}").starts_with("DIR/b.jsonl: no such file"));
    let unknown =
        serde_yaml_ng::from_str::<DataConfig>("{path: a.jsonl, validaton_fraction: 0.1}").unwrap_err().to_string();
    assert!(unknown.contains("unknown field `validaton_fraction`"), "{unknown}");
}

#[test]
fn a_recipe_survives_being_written_and_read_and_has_a_documented_schema() {
    let yaml = "{mix: [{path: a.jsonl, weight: 2, format: alpaca}, {files: [b.csv], weight: 1, columns: {prompt: q}}], packing: true, train_on: all, too_long: split}";
    let read = config(yaml);
    assert_eq!(config(&serde_yaml_ng::to_string(&read).unwrap()), read);
    assert_eq!(read.weights(), [2.0, 1.0]);
    let schema = serde_json::to_value(schemars::schema_for!(DataConfig)).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    for (key, property) in properties {
        assert!(property["description"].is_string(), "`{key}` has no description in the schema");
    }
    assert!(properties.len() > 20);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn duplicates_are_counted_and_dropped_on_request() {
    let file = rows(["one  two", "three", "one two ", "one\ntwo", "One two"]);
    let loaded = load_files(&[("a.jsonl", &file)], "path: a.jsonl").unwrap();
    assert_eq!((loaded.train.len(), loaded.report.duplicates), (5, 2));
    assert!(loaded.report.notes.iter().any(|n| n.contains("`duplicates: drop`")), "{:?}", loaded.report.notes);
    let loaded = load_files(&[("a.jsonl", &file)], "{path: a.jsonl, duplicates: drop}").unwrap();
    assert_eq!(texts(&loaded.train), ["one  two", "three", "One two"]);
    assert_eq!((loaded.report.duplicates, loaded.report.drops.count(DropReason::Duplicate)), (2, 2));
}

#[test]
fn texts_that_only_join_to_the_same_are_no_duplicates() {
    let file = "{\"prompt\": \"a b\", \"completion\": \"c\"}\n{\"prompt\": \"a\", \"completion\": \"b c\"}\n";
    assert_eq!(load_files(&[("a.jsonl", file)], "path: a.jsonl").unwrap().report.duplicates, 0);
}

#[test]
fn validation_files_are_held_out_and_what_they_share_is_counted() {
    let files = [("a.jsonl", rows(["a", "b", "c"])), ("v.jsonl", rows(["b", "d"]))];
    let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let loaded = load_files(&files, "{path: a.jsonl, validation_files: [v.jsonl], limit: 2}").unwrap();
    assert_eq!(
        (texts(&loaded.train), texts(&loaded.validation)),
        (vec!["a".into(), "b".into()], vec!["b".into(), "d".into()])
    );
    assert_eq!(loaded.report.validation_in_training, 1);
    assert!(
        loaded.report.notes.iter().any(|n| n.starts_with("1 of 2 validation examples are also in the training data"))
    );
    assert!(loaded.report.files[0].limited && !loaded.report.files[1].limited);
}

#[test]
fn a_mix_reads_each_source_in_its_own_way() {
    let files = [
        ("qa.csv", "q,a\nWho?,Me.\nWhen?,Now.\nWhere?,Here.\n"),
        ("t.txt", "First.\n\nSecond.\n"),
        ("nested.json", "{\"rows\": [{\"text\": \"x\"}]}"),
    ];
    let yaml = "mix:\n- {path: qa.csv, columns: {question: q, answer: a}, limit: 2}\n- {path: t.txt, sample_by: document}\n\
                - {path: nested.json, field: rows}";
    let loaded = load_files(&files, yaml).unwrap();
    assert_eq!(loaded.train.iter().map(|e| e.part).collect::<Vec<_>>(), [0, 0, 1, 2]);
    assert_eq!(texts(&loaded.train), ["Who?|Me.", "When?|Now.", "First.\n\nSecond.", "x"]);
}

#[test]
fn tools_a_template_does_not_show_are_said_aloud() {
    let no_tools = Abilities { tool_calls: false, ..CHAT };
    let loaded = load(&config("path: tool_calls.jsonl"), &fixture(""), no_tools).unwrap();
    assert!(
        loaded
            .report
            .notes
            .iter()
            .any(|n| n.contains("come with `tools`, which the model's chat template does not show"))
    );
    assert!(load_in(&fixture(""), "path: tool_calls.jsonl").unwrap().report.notes.is_empty());
}

/// Which of `texts` are held out.
fn held_out(texts: &[String], fraction: f64) -> BTreeSet<String> {
    let yaml = format!("{{path: a.jsonl, validation_fraction: {fraction}}}");
    match load_files(&[("a.jsonl", &rows(texts))], &yaml) {
        Ok(loaded) => self::texts(&loaded.validation).into_iter().collect(),
        // Everything was held out.
        Err(error) if error.starts_with("no training examples") => texts.iter().cloned().collect(),
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_split_depends_on_each_example_alone(
        texts in prop::collection::btree_set("[a-z]{3,8}", 2..40),
        more in prop::collection::btree_set("[A-Z]{3,8}", 0..10),
        fraction in 0.05f64..0.6,
    ) {
        let texts: Vec<String> = texts.into_iter().collect();
        let held = held_out(&texts, fraction);
        let reversed: Vec<String> = texts.iter().rev().cloned().collect();
        prop_assert_eq!(&held_out(&reversed, fraction), &held);
        // Added examples move none of the old ones; a larger share only adds.
        let added: Vec<String> = texts.iter().chain(&more).cloned().collect();
        let with_more: BTreeSet<String> = held_out(&added, fraction).into_iter().filter(|t| texts.contains(t)).collect();
        prop_assert_eq!(&with_more, &held);
        prop_assert!(held_out(&texts, fraction + 0.2).is_superset(&held));
    }
}

#[test]
fn the_split_meets_its_share_and_keeps_copies_together() {
    let texts: Vec<String> = (0..4000).map(|i| format!("example {}", i / 2)).collect();
    let loaded = load_files(&[("a.jsonl", &rows(&texts))], "{path: a.jsonl, validation_fraction: 0.1}").unwrap();
    // 2,000 different examples, each twice; 200 ± 2·√(2000·0.1·0.9) of them held out.
    let held = loaded.validation.len();
    assert!((held as i64 - 400).abs() <= 54, "{held} of 4000 held out");
    assert_eq!(held % 2, 0);
    let train: BTreeSet<String> = self::texts(&loaded.train).into_iter().collect();
    assert!(self::texts(&loaded.validation).iter().all(|t| !train.contains(t)));
}

#[test]
fn real_data_sets_load_and_every_row_is_accounted_for() {
    let Some(root) = real_data("real data sets") else { return };
    // File, further settings, rows, format.
    let cases = [
        ("instructions/alpaca_en_demo.jsonl", "", 999, "alpaca"),
        ("instructions/alpaca_zh_demo.jsonl", "", 1000, "alpaca"),
        ("instructions/simple_instructions_1100.jsonl", "", 1100, "alpaca"),
        ("medical/medquad.jsonl", "", 1000, "alpaca"),
        ("gsm8k/train.jsonl", "", 1500, "question_answer"),
        ("gsm8k/test.jsonl", "", 1319, "question_answer"),
        ("math/SVAMP.jsonl", "", 1000, "question_answer"),
        ("p3_prompted/p3_sample.jsonl", "", 1528, "prompt_completion"),
        ("tool_calls/glaive_toolcall_en_demo.jsonl", "", 150, "sharegpt"),
        ("preferences/dpo_en_demo.jsonl", "", 150, "preference"),
        ("safety/hh_rlhf_harmless_test.jsonl", "", 400, "preference"),
        ("text/lambada_test.jsonl", "", 1000, "text"),
        ("commonsense/boolq_train.jsonl", "columns: {output: answer}", 600, "alpaca"),
        (
            "bbh/word_sorting.json",
            "field: examples, columns: {prompt: input, completion: target}",
            100,
            "prompt_completion",
        ),
        (
            "classification/sst2_dev.jsonl",
            "prompt_template: '{{ text }} It was', completion_template: ' {{ label }}'",
            0,
            "template",
        ),
    ];
    let codec = TestCodec::chat("qwen2.5");
    for (name, settings, rows, format) in cases {
        let config = config(&format!("{{path: {name}, on_bad_row: skip, {settings}}}"));
        let loaded = load(&config, &root, codec.abilities()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let report = &loaded.report;
        assert_eq!(report.files[0].detection.as_ref().unwrap().format, format, "{name}");
        assert!(rows == 0 || report.rows_read == rows, "{name}: {} rows", report.rows_read);
        assert_eq!(report.rows_read, loaded.train.len() + report.drops.total(), "{name}");
        eprintln!(
            "{name}: {} rows, {format}, {}, {} duplicates",
            report.rows_read,
            report.drops.summary(),
            report.duplicates
        );
        if format == "preference" {
            continue;
        }
        let data = tokenise(&loaded, &config, &codec).unwrap_or_else(|e| panic!("{name}: {e}"));
        for example in &data.train {
            let share = example.trained_tokens() as f64 / example.ids.len() as f64;
            assert!(share > 0.0 && share < 1.0, "{name}: {}", example.source);
        }
    }
}
