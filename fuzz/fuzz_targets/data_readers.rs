//! Any bytes as a data file of any kind: rows, errors that name the file, or an end; never a panic, a hang or a row after
//! an error that ends the file. What is read goes on through every format.

#![no_main]

use std::cell::Cell;
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Once};

use hone_data::config::{FileKind, SampleBy};
use hone_data::formats::{DETECTION_ROWS, FORMATS, Interpreter};
use hone_data::readers::{Limits, RawRow, ReaderOptions, stream};
use hone_data::{Abilities, DataError, SourceConfig, duplicates};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static PARQUET: Cell<bool> = const { Cell::new(false) };
}

/// The Parquet crate panics on some damaged files, and our reader catches that. libFuzzer's hook would end the run at the
/// panic, before it is caught; so panics from outside our crate are let through while Parquet is read.
fn let_parquet_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let stop = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = info.location().is_none_or(|l| l.file().contains("hone-data"));
            if ours || !PARQUET.get() {
                stop(info);
            }
        }));
    });
}

fuzz_target!(|data: &[u8]| {
    let_parquet_panic();
    let Some((&choice, bytes)) = data.split_first() else { return };
    let kinds = [
        FileKind::Jsonl,
        FileKind::Json,
        FileKind::Csv,
        FileKind::Tsv,
        FileKind::Parquet,
        FileKind::Text,
        FileKind::Json,
    ];
    let kind = kinds[usize::from(choice) % kinds.len()];
    PARQUET.set(kind == FileKind::Parquet);
    let options = ReaderOptions {
        field: (usize::from(choice) % kinds.len() == 6).then(|| "data".into()),
        sample_by: [SampleBy::Line, SampleBy::Paragraph, SampleBy::Document][usize::from(choice >> 6) % 3],
        python: choice & 0x20 != 0,
        limits: Limits { row_bytes: 4096, document_bytes: 1 << 20, rows: 1000 },
    };
    let path: Arc<Path> = Path::new("fuzzed").into();
    let rows = match stream(Cursor::new(bytes.to_vec()), kind, path, &options) {
        Ok(rows) => rows,
        Err(error) => return assert!(error.to_string().contains("fuzzed"), "{error}"),
    };
    let mut read: Vec<RawRow> = Vec::new();
    let mut ended = false;
    for row in rows {
        assert!(!ended, "a row after an error that ends the file");
        match row {
            Ok(row) => read.push(row),
            Err(error) => {
                assert!(error.to_string().contains("fuzzed"), "{error}");
                ended = !matches!(error, DataError::Row(_));
            }
        }
    }
    PARQUET.set(false);
    interpret(&read);
});

/// Rows through the detected format and through every named one.
fn interpret(rows: &[RawRow]) {
    let names = FORMATS.iter().map(|f| f.name()).chain(["auto"]);
    for name in names {
        let source = SourceConfig { format: name.into(), ..SourceConfig::default() };
        let abilities = Abilities { chat_template: true, tool_calls: true };
        let interpreter = Interpreter::new(&source, abilities, "").expect("a known format");
        let first = &rows[..rows.len().min(DETECTION_ROWS)];
        let Ok(reading) = interpreter.detect(Path::new("fuzzed"), first) else { continue };
        for row in rows.iter().take(100) {
            match reading.read(row) {
                Ok(body) => drop(duplicates::content_hash(&body)),
                Err(error) => assert!(error.to_string().contains("fuzzed"), "{error}"),
            }
        }
    }
}
