//! Readers: every file kind, and what each does with broken files.

mod common;

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hone_data::DataError;
use hone_data::config::{FileKind, SampleBy};
use hone_data::readers::{Limits, RawRow, ReaderOptions, open, resolve, stream};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

type Read = Result<RawRow, DataError>;

fn read_with(kind: FileKind, bytes: &[u8], options: &ReaderOptions) -> Result<Vec<Read>, DataError> {
    let path: Arc<Path> = Path::new("data.file").into();
    Ok(stream(Cursor::new(bytes.to_vec()), kind, path, options)?.collect())
}

fn read(kind: FileKind, bytes: &[u8]) -> Vec<Read> {
    read_with(kind, bytes, &ReaderOptions::default()).unwrap()
}

fn values(rows: Vec<Read>) -> Vec<Value> {
    rows.into_iter().map(|r| Value::Object(r.unwrap().columns)).collect()
}

fn message(rows: &[Read], at: usize) -> String {
    rows[at].as_ref().unwrap_err().to_string()
}

fn small(row_bytes: usize) -> ReaderOptions {
    ReaderOptions { limits: Limits { row_bytes, ..Limits::default() }, ..ReaderOptions::default() }
}

#[test]
fn jsonl_counts_lines_and_skips_empty_ones() {
    let rows = read(FileKind::Jsonl, b"\xEF\xBB\xBF{\"a\": 1}\r\n\n  \n{\"a\": \"\xC3\xA9\"}");
    let places: Vec<_> = rows.iter().map(|r| r.as_ref().unwrap().source.clone()).map(|s| (s.row, s.line)).collect();
    assert_eq!(places, [(1, Some(1)), (2, Some(4))]);
    assert_eq!(values(rows), [json!({"a": 1}), json!({"a": "é"})]);
}

#[test]
fn a_broken_json_line_is_an_error_of_that_line_only() {
    let rows = read(FileKind::Jsonl, b"{\"a\": 1}\n{\"a\": \n[1]\n{\"a\": \"\xFF\"}\n{\"a\": 2}\n");
    assert_eq!(rows.len(), 5);
    assert!(rows[0].is_ok() && rows[4].is_ok());
    assert_eq!(
        message(&rows, 1),
        "data.file: row 2 (line 2): found EOF while parsing a value at character 5 of the row, expected one JSON object; \
         next step: correct the row, or set `on_bad_row: skip` to leave such rows out"
    );
    assert!(
        message(&rows, 2).contains("row 3 (line 3): found a list of 1 items, expected an object with named fields")
    );
    assert!(
        message(&rows, 3).contains("row 4 (line 4): found bytes that are not UTF-8 after 7 bytes of the row"),
        "{}",
        message(&rows, 3)
    );
}

#[test]
fn a_line_beyond_the_limit_is_skipped_without_being_held() {
    let long = format!("{{\"a\": 1}}\n{{\"a\": \"{}\"}}\n{{\"a\": 3}}\n", "x".repeat(100_000));
    let rows = read_with(FileKind::Jsonl, long.as_bytes(), &small(1000)).unwrap();
    assert_eq!(rows.len(), 3);
    assert!(message(&rows, 1).contains("row 2 (line 2): found more than 1000 bytes"));
    assert_eq!(rows[2].as_ref().unwrap().source.line, Some(3));
}

#[test]
fn nesting_beyond_the_parsers_depth_is_an_error_not_a_stack_overflow() {
    let deep = format!("{{\"a\": {}1{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    assert!(message(&read(FileKind::Jsonl, deep.as_bytes()), 0).contains("recursion limit exceeded"));
    let list = format!("[{deep}]");
    assert!(message(&read(FileKind::Json, list.as_bytes()), 0).contains("recursion limit exceeded"));
}

#[test]
fn rows_beyond_the_limit_end_the_file_with_an_error() {
    let limits = Limits { rows: 2, ..Limits::default() };
    let options = ReaderOptions { limits, ..ReaderOptions::default() };
    let rows = read_with(FileKind::Jsonl, b"{}\n{}\n{}\n{}\n", &options).unwrap();
    assert_eq!(rows.len(), 3);
    assert!(message(&rows, 2).contains("more than 2 rows"));
}

#[test]
fn a_json_list_streams_its_elements_with_their_lines() {
    let text = br#" [ {"a": "]},{[\"\\", "b": [1, {"c": 2}]},
        {"a": "x"} ]
    "#;
    let rows = read(FileKind::Json, text);
    assert_eq!(rows[1].as_ref().unwrap().source.line, Some(2));
    assert_eq!(values(rows), [json!({"a": "]},{[\"\\", "b": [1, {"c": 2}]}), json!({"a": "x"})]);
    assert!(read(FileKind::Json, b"[]").is_empty());
    assert!(read(FileKind::Json, b"  \n").is_empty());
}

#[test]
fn a_broken_json_list_says_where() {
    let broken = |text: &str| {
        let rows = read(FileKind::Json, text.as_bytes());
        rows.into_iter().find_map(Result::err).map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(broken("[{\"a\": 1},\n {\"a\": ").contains("line 2, after 2 elements: found the end of the file inside"));
    assert!(broken("[{\"a\": 1}").contains("found the end of the file inside an element"));
    assert!(broken("[{\"a\": 1},").contains("found the end of the file, expected `]`"));
    assert!(broken("[{\"a\": 1}] {}").contains("found more text after the list"));
    assert!(broken("[{\"a\": 1} {\"a\": 2}]").contains("row 1 (line 1): found trailing characters"));
    assert!(broken("[,]").contains("row 1"));
    assert!(broken("[1, {}]").contains("row 1 (line 1): found the number 1, expected an object"));
    let refused = read_with(FileKind::Json, b"nonsense", &ReaderOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("found the character 'n', expected `[`"), "{refused}");
}

#[test]
fn an_element_beyond_the_limit_ends_a_json_list() {
    let text = format!("[{{}}, {{\"a\": \"{}", "x".repeat(5000));
    let rows = read_with(FileKind::Json, text.as_bytes(), &small(1000)).unwrap();
    assert_eq!(rows.len(), 2);
    assert!(message(&rows, 1).contains("an element of more than 1000 bytes (row 2)"));
}

#[test]
fn a_json_object_gives_the_rows_under_its_field() {
    let under = |field: &str, text: &[u8]| {
        let options = ReaderOptions { field: Some(field.into()), ..ReaderOptions::default() };
        read_with(FileKind::Json, text, &options)
    };
    let text = br#"{"name": "x", "splits": {"train": [{"a": 1}, {"a": 2}]}}"#;
    assert_eq!(values(under("splits.train", text).unwrap()), [json!({"a": 1}), json!({"a": 2})]);
    let error = under("splits.test", text).unwrap_err().to_string();
    assert!(error.contains("`splits.test`: found no `test`; there are `train`"), "{error}");
    let error = under("name", text).unwrap_err().to_string();
    assert!(error.contains("found the text \"x\", expected a list"), "{error}");
    let error = under("name.more", text).unwrap_err().to_string();
    assert!(error.contains("where `more` was looked for"), "{error}");
    let error =
        read_with(FileKind::Json, br#"{"rows": [1], "n": 2}"#, &ReaderOptions::default()).unwrap_err().to_string();
    assert!(error.contains("one object with lists under `rows`") && error.contains("`field`"), "{error}");
}

/// The list is found between other values whatever they hold, however the text comes in, and what follows it is read to its end.
#[test]
fn a_list_under_a_field_is_streamed_from_the_midst_of_its_object() {
    let text = "{\n \"skip\": {\"rows\": [0], \"s\": \"]}\\\\\"}, \"\\\\\": 1, \"a\\\"b\": [[\"}\"]], \"rows\": {\"x\": null,\n                 \"caf\\u00e9\": [ {\"n\": [1, {\"m\": \"[\"}]} ,\n{\"n\": 2}], \"rest\": [{}]} , \"last\": \"}\" }\n ";
    let rows = |text: &[u8], capacity: usize| -> Result<Vec<Read>, DataError> {
        let options = ReaderOptions { field: Some("rows.caf\u{e9}".into()), ..ReaderOptions::default() };
        let path: Arc<Path> = Path::new("data.file").into();
        let reader = std::io::BufReader::with_capacity(capacity, Cursor::new(text.to_vec()));
        Ok(stream(reader, FileKind::Json, path, &options)?.collect())
    };
    let whole: Value = serde_json::from_str(text).unwrap();
    for capacity in 1..9 {
        let found = rows(text.as_bytes(), capacity).unwrap();
        let lines: Vec<_> = found.iter().map(|row| row.as_ref().unwrap().source.line).collect();
        assert_eq!(lines, [Some(3), Some(4)]);
        assert_eq!(json!(values(found)), whole["rows"]["caf\u{e9}"]);
    }
    // Asked once more behind the end, there is nothing.
    let options = ReaderOptions { field: Some("rows.caf\u{e9}".into()), ..ReaderOptions::default() };
    let mut stream =
        stream(Cursor::new(text.as_bytes()), FileKind::Json, Path::new("data.file").into(), &options).unwrap();
    assert_eq!(stream.by_ref().count(), 2);
    assert!(stream.next().is_none() && stream.next().is_none());
    // Cut off anywhere, it is an error, before the rows or behind them.
    let end = text.trim_end().len();
    for cut in 1..end {
        let found = rows(&text.as_bytes()[..cut], 7);
        assert!(found.is_err() || found.unwrap().iter().any(Result::is_err), "cut at {cut}: {}", &text[..cut]);
    }
    let trailing = rows(format!("{text}]").as_bytes(), 7).unwrap();
    assert!(message(&trailing, 2).contains("line 5: found the character ']', expected the end of the file"));
    let colon = rows(b"{\"a\" 1}", 7).unwrap_err().to_string();
    assert!(colon.contains("line 1: found the character '1', expected `:`"), "{colon}");
}

/// A long list is no long text in memory: a row over the limit is refused, the list as a whole has none.
#[test]
fn a_list_under_a_field_has_the_limits_of_a_list() {
    let field = ReaderOptions { field: Some("data".into()), ..small(1000) };
    let many = format!("{{\"data\": [{}{{}}]}}", "{\"a\": 1}, ".repeat(5000));
    assert_eq!(read_with(FileKind::Json, many.as_bytes(), &field).unwrap().len(), 5001);
    let long = format!("{{\"other\": \"{0}\", \"data\": [{{}}, {{\"a\": \"{0}\"}}]}}", "x".repeat(5000));
    let rows = read_with(FileKind::Json, long.as_bytes(), &field).unwrap();
    assert!(rows[0].is_ok() && message(&rows, 1).contains("an element of more than 1000 bytes (row 2)"));
}

#[test]
fn json_lines_under_the_extension_json_are_read_as_lines() {
    assert_eq!(values(read(FileKind::Json, b"{\"a\": 1}\n{\"a\": 2}\n")), [json!({"a": 1}), json!({"a": 2})]);
    assert_eq!(values(read(FileKind::Json, b"{\"a\": 1}\n")), [json!({"a": 1})]);
    let spread = b"{\n  \"a\": 1\n}\n";
    assert_eq!(values(read(FileKind::Json, spread)), [json!({"a": 1})]);
}

#[test]
fn csv_takes_quotes_and_line_ends_in_cells() {
    let rows = read(FileKind::Csv, b"question, answer\n\"a, \"\"b\"\"\nc\",d\ne,\n");
    let lines: Vec<_> = rows.iter().map(|r| r.as_ref().unwrap().source.line).collect();
    assert_eq!(lines, [Some(2), Some(4)]);
    let expected = [json!({"question": "a, \"b\"\nc", "answer": "d"}), json!({"question": "e", "answer": ""})];
    assert_eq!(values(rows), expected);
    assert_eq!(values(read(FileKind::Tsv, b"a\tb\n1, 2\t3\n")), [json!({"a": "1, 2", "b": "3"})]);
    assert!(read(FileKind::Csv, b"").is_empty());
}

#[test]
fn broken_csv_says_where() {
    let rows = read(FileKind::Csv, b"a,b\n1,2\n3\n4,5,6\n7,\xFF\n8,9\n");
    assert_eq!(rows.len(), 5);
    assert!(message(&rows, 1).contains("row 2 (line 3): found 1 columns, expected 2, as in the header"));
    assert!(message(&rows, 2).contains("row 3 (line 4): found 3 columns"));
    assert!(message(&rows, 3).contains("row 4 (line 5): found bytes that are not UTF-8 in column 2"));
    assert!(rows[4].is_ok());
    let twice = read_with(FileKind::Csv, b"a,b,a\n", &ReaderOptions::default()).err().unwrap().to_string();
    assert!(twice.contains("header: found the column `a` twice"));
}

#[test]
fn a_quote_that_is_never_closed_does_not_read_the_rest_into_memory() {
    let mut text = String::from("a,b\n1,2\n3,\"open\n");
    text.push_str(&"4,5\n".repeat(200_000));
    let rows = read_with(FileKind::Csv, text.as_bytes(), &small(10_000)).unwrap();
    let error = rows.last().unwrap().as_ref().unwrap_err().to_string();
    assert!(
        error.contains("a row of more than 10000 bytes") && error.contains("a quote that is never closed"),
        "{error}"
    );
}

#[test]
fn plain_text_by_line_paragraph_and_document() {
    let text = b"\n one\r\ntwo\n \n\n\nthree\n";
    let rows = |sample_by| {
        let options = ReaderOptions { sample_by, ..ReaderOptions::default() };
        let rows = read_with(FileKind::Text, text, &options).unwrap();
        rows.into_iter()
            .map(|r| r.unwrap())
            .map(|r| (r.source.line.unwrap(), r.columns["text"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(SampleBy::Line), [(2, json!(" one")), (3, json!("two")), (7, json!("three"))]);
    assert_eq!(rows(SampleBy::Paragraph), [(2, json!(" one\ntwo")), (7, json!("three"))]);
    assert_eq!(rows(SampleBy::Document), [(2, json!(" one\ntwo\n \n\n\nthree"))]);
}

#[test]
fn plain_text_that_is_no_utf8_or_too_long_says_where() {
    let rows = read(FileKind::Text, b"good\n\nbad \xFF\n\ngood\n");
    assert_eq!(rows.len(), 3);
    assert!(message(&rows, 1).contains("row 2 (line 3): found bytes that are not UTF-8 after 4 bytes"));
    let rows = read_with(FileKind::Text, "ab\n".repeat(100).as_bytes(), &small(50)).unwrap();
    assert_eq!(rows.len(), 1);
    assert!(message(&rows, 0).contains("more than 50 bytes"));
}

const SCHEMA: &str = "message rows {
    required binary prompt (UTF8);
    optional binary completion (UTF8);
    optional int64 id;
    required boolean good;
    required double score;
    optional group messages (LIST) {
        repeated group list {
            optional group element {
                optional binary role (UTF8);
                optional binary content (UTF8);
            }
        }
    }
}";

/// Two rows: one of everything, one of nulls.
fn parquet_bytes() -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::new())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let text = |words: &[&str]| words.iter().map(|w| ByteArray::from(*w)).collect::<Vec<_>>();
    let mut column = 0;
    while let Some(mut out) = group.next_column().unwrap() {
        match column {
            0 => out.typed::<ByteArrayType>().write_batch(&text(&["2+2=", "3+3="]), None, None),
            1 => out.typed::<ByteArrayType>().write_batch(&text(&["4"]), Some(&[1, 0]), None),
            2 => out.typed::<Int64Type>().write_batch(&[7], Some(&[1, 0]), None),
            3 => out.typed::<BoolType>().write_batch(&[true, false], None, None),
            4 => out.typed::<DoubleType>().write_batch(&[0.5, f64::NAN], None, None),
            5 => out.typed::<ByteArrayType>().write_batch(
                &text(&["user", "assistant"]),
                Some(&[4, 4, 0]),
                Some(&[0, 1, 0]),
            ),
            _ => out.typed::<ByteArrayType>().write_batch(&text(&["hi", "ho"]), Some(&[4, 4, 0]), Some(&[0, 1, 0])),
        }
        .unwrap();
        out.close().unwrap();
        column += 1;
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

#[test]
fn parquet_rows_come_with_their_types() {
    let rows = values(read(FileKind::Parquet, &parquet_bytes()));
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let first = json!({
        "prompt": "2+2=", "completion": "4", "id": 7, "good": true, "score": 0.5,
        "messages": [turn("user", "hi"), turn("assistant", "ho")],
    });
    let second =
        json!({"prompt": "3+3=", "completion": null, "id": null, "good": false, "score": null, "messages": null});
    assert_eq!(rows, [first, second]);
}

#[test]
fn parquet_written_by_pyarrow_gives_pyarrows_rows() {
    // Made by tools/golden/data_parquet.py.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let expected: Vec<Value> = serde_json::from_slice(&std::fs::read(golden.join("parquet.json")).unwrap()).unwrap();
    for name in ["none", "snappy", "gzip", "zstd", "brotli", "lz4", "pages-v2"] {
        let path = golden.join(format!("{name}.parquet"));
        let file = hone_data::readers::DataFile { path: path.into(), kind: FileKind::Parquet };
        let rows = values(open(&file, &ReaderOptions::default()).unwrap().collect());
        assert_eq!(rows, expected, "{name}");
    }
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let whole = parquet_bytes();
    for cut in [0, 3, 4, 11, whole.len() / 2, whole.len() - 1] {
        let error = read_with(FileKind::Parquet, &whole[..cut], &ReaderOptions::default()).err().unwrap().to_string();
        assert!(error.starts_with("data.file: footer: found "), "{error}");
    }
    // Every byte changed once: an error with the file's name, or other values, and an end.
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x5A;
        let Ok(rows) = read_with(FileKind::Parquet, &bytes, &ReaderOptions::default()) else { continue };
        assert!(rows.len() <= 3, "byte {at}: {} rows", rows.len());
        for error in rows.into_iter().filter_map(Result::err) {
            assert!(error.to_string().starts_with("data.file: "), "{error}");
        }
    }
}

/// A Parquet file that is all footer: its schema's elements, each with so many children.
fn parquet_with_schema(children: impl ExactSizeIterator<Item = i32>) -> Vec<u8> {
    let varint = |mut n: u64, out: &mut Vec<u8>| {
        while n > 0x7f {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    };
    let mut footer = vec![0x15, 2, 0x19, 0xfc]; // version 1; the schema, a list of structs
    varint(children.len() as u64, &mut footer);
    for count in children {
        footer.extend([0x35, 2, 0x18, 1, b'g', 0x15]); // optional, named `g`
        varint(((count << 1) ^ (count >> 31)) as u32 as u64, &mut footer);
        footer.push(0);
    }
    footer.extend([0x16, 0, 0x19, 0x0c, 0]); // no rows, no row groups
    let length = footer.len() as u32;
    [b"PAR1", &footer[..], &length.to_le_bytes(), b"PAR1"].concat()
}

#[test]
fn a_parquet_schema_is_refused_before_memory_or_stack_is_taken_for_it() {
    let refusal =
        |bytes: &[u8]| read_with(FileKind::Parquet, bytes, &ReaderOptions::default()).err().unwrap().to_string();
    for (children, expected) in [
        (vec![i32::MAX], "schema: found schema element 0 with 2147483647 children, but 0 elements follow"),
        (vec![2, 1_000_000_000, 0], "schema element 1 with 1000000000 children, but 1 elements follow"),
        (vec![-1], "a schema element with -1 children"),
        ([vec![1; 200_000], vec![0]].concat(), "a schema of more than 100 levels"),
    ] {
        let error = refusal(&parquet_with_schema(children.into_iter()));
        assert!(error.starts_with("data.file: ") && error.contains(expected), "{error}");
    }
    // The tree these counts make is whole.
    let rows = read_with(FileKind::Parquet, &parquet_with_schema([2, 1, 0, 0].into_iter()), &ReaderOptions::default());
    assert!(rows.unwrap().is_empty());
}

fn write(path: PathBuf, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn paths_globs_and_directories_are_resolved_in_a_fixed_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.jsonl", "a.jsonl", "sub/c.csv", "sub/deep/d.parquet", "notes.xyz", ".hidden.jsonl", "odd[1].jsonl"]
    {
        write(dir.path().join(name), "{}\n");
    }
    let names = |patterns: &[&str], kind| -> Result<Vec<String>, DataError> {
        let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
        let files = resolve(&patterns, dir.path(), kind)?;
        Ok(files.iter().map(|f| f.path.strip_prefix(dir.path()).unwrap().display().to_string()).collect())
    };
    assert_eq!(names(&["b.jsonl", "a.jsonl", "b.jsonl"], None).unwrap(), ["b.jsonl", "a.jsonl"]);
    assert_eq!(names(&["*.jsonl"], None).unwrap(), [".hidden.jsonl", "a.jsonl", "b.jsonl", "odd[1].jsonl"]);
    assert_eq!(names(&["odd[1].jsonl"], None).unwrap(), ["odd[1].jsonl"]);
    assert_eq!(names(&["**/*.csv"], None).unwrap(), ["sub/c.csv"]);
    let all = ["a.jsonl", "b.jsonl", "odd[1].jsonl", "sub/c.csv", "sub/deep/d.parquet"];
    assert_eq!(names(&["."], None).unwrap().iter().map(|n| n.trim_start_matches("./")).collect::<Vec<_>>(), all);
    assert_eq!(names(&["notes.xyz"], Some(FileKind::Text)).unwrap(), ["notes.xyz"]);
    let refused = |patterns: &[&str]| names(patterns, None).unwrap_err().to_string();
    assert!(refused(&["none.jsonl"]).contains("no such file"));
    assert!(refused(&["*.none"]).contains("a glob that matches no data file"));
    assert!(refused(&["notes.xyz"]).contains("`reader: jsonl`"));
}

#[test]
fn a_file_without_rights_or_a_directory_in_its_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = hone_data::readers::DataFile { path: dir.path().into(), kind: FileKind::Jsonl };
    let error = open(&file, &ReaderOptions::default()).err().unwrap().to_string();
    assert!(error.contains(&dir.path().display().to_string()) && error.contains("a directory"), "{error}");
    let missing = hone_data::readers::DataFile { path: dir.path().join("x.jsonl").into(), kind: FileKind::Jsonl };
    let error = open(&missing, &ReaderOptions::default()).err().unwrap().to_string();
    assert!(error.contains("x.jsonl") && error.contains("next step"), "{error}");
}
