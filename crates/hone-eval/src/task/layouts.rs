//! Two layouts of data sets that are no list of rows: SQuAD's nested JSON and WikiText's pages. Both are read as they come, an
//! article or a page at a time.

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use hone_data::example::SourceRef;
use hone_data::readers::RawRow;
use serde_json::{Map, Value, json};

use super::data::Doc;
use crate::error::EvalError;

#[derive(serde::Deserialize)]
struct Article {
    #[serde(default)]
    title: String,
    paragraphs: Vec<Paragraph>,
}

#[derive(serde::Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Question>,
}

#[derive(serde::Deserialize)]
struct Question {
    id: String,
    question: String,
    answers: Vec<Answer>,
}

#[derive(serde::Deserialize)]
struct Answer {
    text: String,
    answer_start: i64,
}

/// SQuAD's layout, flattened: a row a question with `id`, `title`, `context`, `question`, `answers.text`, `answers.answer_start`.
/// `articles` are the rows of its list `data`.
pub(super) fn squad(
    path: Arc<Path>,
    articles: impl Iterator<Item = Result<RawRow, EvalError>>,
) -> impl Iterator<Item = Result<Doc, EvalError>> {
    let mut number = 0;
    articles.flat_map(move |row| {
        let read = row.and_then(|row| {
            let line = row.source.line.unwrap_or(row.source.row);
            serde_json::from_value::<Article>(Value::Object(row.columns)).map_err(|error| EvalError::Row {
                file: path.display().to_string(),
                row: line,
                problem: format!("not SQuAD's layout (data, paragraphs, qas): {error}"),
            })
        });
        let docs: Vec<Result<Doc, EvalError>> = match read {
            Err(error) => vec![Err(error)],
            Ok(article) => questions(&article)
                .map(|columns| {
                    number += 1;
                    Ok(Doc { columns, place: SourceRef { file: path.clone(), row: number, line: None } })
                })
                .collect(),
        };
        docs
    })
}

fn questions(article: &Article) -> impl Iterator<Item = Map<String, Value>> {
    let of = |paragraph: &Paragraph, question: &Question| {
        let texts: Vec<&str> = question.answers.iter().map(|a| a.text.as_str()).collect();
        let starts: Vec<i64> = question.answers.iter().map(|a| a.answer_start).collect();
        let columns = json!({
            "id": question.id,
            "title": article.title,
            "context": paragraph.context,
            "question": question.question,
            "answers": {"text": texts, "answer_start": starts},
        });
        columns.as_object().cloned().unwrap_or_default()
    };
    article
        .paragraphs
        .iter()
        .flat_map(move |paragraph| paragraph.qas.iter().map(move |question| of(paragraph, question)))
}

/// WikiText by pages, as the harness' data set has them: a page starts at a heading of the first level; its text, without the
/// line break before the next one, is the column `page`. Pages of white space are left out.
pub(super) struct WikitextPages<R> {
    path: Arc<Path>,
    reader: R,
    /// Lines read.
    lines: usize,
    /// The page that is read, and the line it starts on; none behind the last.
    page: Option<(usize, String)>,
}

impl<R: BufRead> WikitextPages<R> {
    pub fn new(path: Arc<Path>, reader: R) -> WikitextPages<R> {
        WikitextPages { path, reader, lines: 0, page: Some((1, String::new())) }
    }

    /// The next page, be it empty.
    fn page(&mut self) -> Result<Option<(usize, String)>, EvalError> {
        loop {
            let mut bytes = Vec::new();
            let read = self.reader.read_until(b'\n', &mut bytes);
            if read.map_err(|source| EvalError::Io { path: self.path.to_path_buf(), source })? == 0 {
                return Ok(self.page.take());
            }
            self.lines += 1;
            let line = String::from_utf8(bytes).map_err(|_| EvalError::Row {
                file: self.path.display().to_string(),
                row: self.lines,
                problem: "not UTF-8 text".into(),
            })?;
            let heading = line.replace("= = =", "===").replace("= =", "==");
            let heading = heading.trim();
            let Some((_, page)) = &mut self.page else { return Ok(None) };
            if heading.starts_with("= ") && heading.ends_with(" =") {
                if page.ends_with('\n') {
                    page.pop();
                }
                return Ok(self.page.replace((self.lines, line)));
            }
            page.push_str(&line);
        }
    }
}

impl<R: BufRead> Iterator for WikitextPages<R> {
    type Item = Result<Doc, EvalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.page() {
                Err(error) => {
                    self.page = None;
                    return Some(Err(error));
                }
                Ok(None) => return None,
                Ok(Some((_, page))) if page.trim().is_empty() => {}
                Ok(Some((row, page))) => {
                    let columns = [("page".to_owned(), Value::String(page))].into_iter().collect();
                    return Some(Ok(Doc {
                        columns,
                        place: SourceRef { file: self.path.clone(), row, line: Some(row) },
                    }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Arc<Path> {
        Path::new("file").into()
    }

    #[test]
    fn squads_layout_becomes_rows() {
        let articles = |values: Vec<Value>| {
            values.into_iter().enumerate().map(|(i, value)| {
                let source = SourceRef { file: path(), row: i + 1, line: Some(10 + i) };
                Ok(RawRow { source, columns: value.as_object().cloned().unwrap() })
            })
        };
        let one = |id: &str| {
            json!({"title": "T", "paragraphs": [{"context": "C", "qas": [
                {"id": id, "question": "Q", "answers": [{"text": "A", "answer_start": 3}]},
                {"id": "2", "question": "R", "answers": []}]}]})
        };
        let docs: Vec<Doc> = squad(path(), articles(vec![one("1"), one("3")])).collect::<Result<_, _>>().unwrap();
        assert_eq!(docs.iter().map(|doc| doc.place.row).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(docs[0].columns["answers"]["text"], json!(["A"]));
        assert_eq!((&docs[2].columns["id"], &docs[2].columns["context"]), (&json!("3"), &json!("C")));
        let broken = articles(vec![one("1"), json!({"paragraphs": [{}]})]);
        let error = squad(path(), broken).find_map(Result::err).unwrap().to_string();
        assert!(error.contains("SQuAD") && error.contains("context") && error.contains("row 11"), "{error}");
    }

    #[test]
    fn pages_start_at_headings_of_the_first_level() {
        let pages = |text: &'static [u8]| WikitextPages::new(path(), text).collect::<Result<Vec<Doc>, EvalError>>();
        let text = b" \n = One = \n \n text = not \n = = Part = = \n more \n = = = Sub = = = \n\n = Two = \n end \n";
        let docs = pages(text).unwrap();
        let page = |i: usize| docs[i].columns["page"].as_str().unwrap();
        assert_eq!(docs.iter().map(|doc| doc.place.row).collect::<Vec<_>>(), [2, 9]);
        assert_eq!(page(0), " = One = \n \n text = not \n = = Part = = \n more \n = = = Sub = = = \n");
        assert_eq!(page(1), " = Two = \n end \n");
        assert!(pages(b"a\nb\xff").unwrap_err().to_string().contains("row 2"));
        assert_eq!(pages(b" = One = ").unwrap().len(), 1);
        assert!(pages(b" \n\n").unwrap().is_empty());
    }
}
