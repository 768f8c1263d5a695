//! Shots that resemble the question: BM25 over the pool's questions (`fewshot_config: {sampler: bm25}`).
//!
//! Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", in Lucene's form, by `tantivy`:
//!
//! ```text
//! score(q, d) = Σ_t idf(t) · f(t, d) (k₁ + 1) / (f(t, d) + k₁ (1 − b + b |d| / avg |d|))      k₁ = 1.2, b = 0.75
//! idf(t)      = ln(1 + (N − n_t + ½) / (n_t + ½))
//! ```
//!
//! Words are split at everything that is no letter or digit, at digits, and at case changes (`parseHTTPHeader2` is `parse http
//! header 2`), in lower case, so that code's identifiers meet. What all questions share (an instruction) has next to no weight.
//! The shots stand with the least similar first and the most similar last, next to the question. Questions that are the evaluated
//! one's twin (the same text) are never shown. Of equal scores the earlier row is the more similar one; where fewer rows share a
//! word with the question than are wanted, the first rows fill up.
//!
//! What it does not know: meaning. Lengths of more than 39 words are kept to one part in eight by the index, as Lucene keeps them.

use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions, Value};
use tantivy::tokenizer::{TextAnalyzer, WhitespaceTokenizer};
use tantivy::{Index, IndexWriter, Searcher, TantivyDocument, Term, doc};

/// Memory the index is written with: the least that `tantivy` takes.
const WRITING: usize = 15_000_000;

/// An index of questions.
pub struct Similar {
    searcher: Searcher,
    text: Field,
    row: Field,
    /// The questions as they are, to tell twins.
    questions: Vec<String>,
}

impl Similar {
    /// Indexes the pool's questions.
    ///
    /// # Errors
    /// What the index says, in words.
    pub fn new(questions: Vec<String>) -> Result<Similar, String> {
        let wrong = |error: tantivy::TantivyError| format!("the index of shots could not be made: {error}");
        let mut schema = Schema::builder();
        let words = TextFieldIndexing::default().set_tokenizer("words").set_index_option(IndexRecordOption::WithFreqs);
        let text = schema.add_text_field("text", TextOptions::default().set_indexing_options(words));
        let row = schema.add_u64_field("row", STORED | FAST);
        let index = Index::create_in_ram(schema.build());
        // Texts come in split already.
        index.tokenizers().register("words", TextAnalyzer::from(WhitespaceTokenizer::default()));
        // One thread writes one segment, so the order of equal scores is that of the rows.
        let mut writer: IndexWriter = index.writer_with_num_threads(1, WRITING).map_err(wrong)?;
        for (i, question) in questions.iter().enumerate() {
            writer.add_document(doc!(text => words_of(question).join(" "), row => i as u64)).map_err(wrong)?;
        }
        writer.commit().map_err(wrong)?;
        let searcher = index.reader().map_err(wrong)?.searcher();
        Ok(Similar { searcher, text, row, questions })
    }

    /// The rows most similar to the question, the most similar last; the question's twins are left out.
    ///
    /// # Errors
    /// Fewer rows than wanted, or what the index says.
    pub fn most(&self, count: usize, question: &str) -> Result<Vec<usize>, String> {
        let is_twin = |row: usize| self.questions[row].trim() == question.trim();
        let twins = (0..self.questions.len()).filter(|&row| is_twin(row)).count();
        let available = self.questions.len() - twins;
        if available < count {
            return Err(format!("{count} shots are wanted, {available} are there to take"));
        }
        let mut rows: Vec<usize> = self
            .ranked(count + twins, question)?
            .into_iter()
            .map(|(row, _)| row)
            .filter(|&row| !is_twin(row))
            .collect();
        rows.truncate(count);
        let fill: Vec<usize> = (0..self.questions.len()).filter(|row| !rows.contains(row) && !is_twin(*row)).collect();
        rows.extend(fill.into_iter().take(count - rows.len()));
        rows.reverse();
        Ok(rows)
    }

    /// Rows with their scores, the best first; only rows that share a word.
    fn ranked(&self, count: usize, question: &str) -> Result<Vec<(usize, f32)>, String> {
        let wrong = |error: tantivy::TantivyError| format!("the index of shots could not be read: {error}");
        let term = |word: &String| -> Box<dyn Query> {
            Box::new(TermQuery::new(Term::from_field_text(self.text, word), IndexRecordOption::WithFreqs))
        };
        let query = BooleanQuery::union(words_of(question).iter().map(term).collect());
        if count == 0 {
            return Ok(Vec::new());
        }
        let found = self.searcher.search(&query, &TopDocs::with_limit(count).order_by_score()).map_err(wrong)?;
        let mut rows = Vec::with_capacity(found.len());
        for (score, address) in found {
            let document: TantivyDocument = self.searcher.doc(address).map_err(wrong)?;
            if let Some(row) = document.get_first(self.row).and_then(|row| row.as_u64()) {
                rows.push((row as usize, score));
            }
        }
        Ok(rows)
    }
}

/// The words of a text, as the module says.
fn words_of(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let characters: Vec<char> = text.chars().collect();
    for (i, &c) in characters.iter().enumerate() {
        let before = if i > 0 { Some(characters[i - 1]) } else { None };
        let after = characters.get(i + 1);
        let begins = match before {
            Some(b) => {
                b.is_numeric() != c.is_numeric()
                    || (b.is_lowercase() && c.is_uppercase())
                    // The last capital of a run begins the next word: HTTPHeader.
                    || (b.is_uppercase() && c.is_uppercase() && after.is_some_and(|a| a.is_lowercase()))
            }
            None => false,
        };
        if (begins || !c.is_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(texts: &[&str]) -> Similar {
        Similar::new(texts.iter().map(|text| (*text).to_owned()).collect()).unwrap()
    }

    /// Worked out by hand with the formula above: N = 3, lengths 7, 8 and 3, mean 6.
    #[test]
    fn scores_are_bm25() {
        let similar = index(&["def add a b return a b", "def sub a b return a b minus", "print hello world"]);
        let found = similar.ranked(3, "def add return").unwrap();
        let idf = |n: f64| (1.0 + (3.0 - n + 0.5) / (n + 0.5)).ln();
        let weight = |length: f64| 2.2 / (1.0 + 1.2 * (0.25 + 0.75 * length / 6.0));
        let expected = [(0, (2.0 * idf(2.0) + idf(1.0)) * weight(7.0)), (1, 2.0 * idf(2.0) * weight(8.0))];
        assert_eq!(found.len(), 2, "the third shares no word");
        for ((row, score), (expected_row, expected)) in found.iter().zip(expected) {
            assert_eq!(*row, expected_row);
            assert!((f64::from(*score) - expected).abs() < 1e-5, "{score}, expected {expected}");
        }
    }

    #[test]
    fn the_most_similar_stands_last_and_a_twin_never() {
        let similar = index(&["red green", "blue", "red green blue", "red", "red green blue "]);
        assert_eq!(similar.most(2, "red green blue").unwrap(), [1, 0]);
        // Nothing shares a word: the first rows.
        assert_eq!(similar.most(3, "yellow").unwrap(), [2, 1, 0]);
        assert_eq!(similar.most(0, "red").unwrap(), Vec::<usize>::new());
        assert!(similar.most(4, "red green blue").unwrap_err().contains("4 shots are wanted, 3 are there"));
        // What is no query's syntax to a parser is none here.
        assert_eq!(similar.most(1, "blue AND (\"").unwrap(), [1]);
    }

    #[test]
    fn identifiers_are_split() {
        assert_eq!(words_of("parseHTTPHeader2(my_value)"), ["parse", "http", "header", "2", "my", "value"]);
        assert_eq!(words_of("Ça va? x1y"), ["ça", "va", "x", "1", "y"]);
        assert!(words_of(" ()\n").is_empty());
    }
}
