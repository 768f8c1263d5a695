//! Text metrics against the reference packages (`tools/golden/metrics.py`).

use hone_eval::metrics::bleu::{BleuCounts, Smoothing, corpus_bleu, tokenize_13a};
use hone_eval::metrics::chrf::{ChrfCounts, Grams};
use hone_eval::metrics::rouge::{Rouge, rouge};
use hone_eval::metrics::ter::TerCounts;
use hone_eval::metrics::{Aggregation, ExampleScore, Kind, Metric, TextOutcome, porter, squad};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    pairs: Vec<Pair>,
    corpus_bleu: std::collections::BTreeMap<String, [f64; 2]>,
    stems: Vec<(String, String)>,
    translations: Vec<Translation>,
    corpora: Vec<Corpus>,
}

#[derive(Deserialize)]
struct Translation {
    hypothesis: String,
    references: Vec<String>,
    chrf: f64,
    #[serde(rename = "chrf++")]
    chrf_words: f64,
    ter: f64,
    edits: f64,
    words: f64,
}

/// Scores of all translations that have so many references.
#[derive(Deserialize)]
struct Corpus {
    references: usize,
    chrf: f64,
    #[serde(rename = "chrf++")]
    chrf_words: f64,
    ter: f64,
}

#[derive(Deserialize)]
struct Pair {
    references: Vec<String>,
    prediction: String,
    stemmed: [[f64; 3]; 4],
    plain: [[f64; 3]; 4],
    tokens: Vec<String>,
    bleu: [f64; 8],
    squad_normalized: String,
    squad_f1: f64,
    squad_exact: f64,
}

const SMOOTHINGS: [(&str, Smoothing); 4] =
    [("exp", Smoothing::Exp), ("floor", Smoothing::Floor), ("add-k", Smoothing::AddK), ("none", Smoothing::None)];

fn golden() -> Golden {
    let golden: Golden = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    assert!(golden.pairs.len() >= 100);
    golden
}

fn close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-9, "{what}: {found}, expected {expected}");
}

#[test]
fn rouge_is_rouge_scores() {
    for pair in golden().pairs {
        for (stemmed, expected) in [(true, pair.stemmed), (false, pair.plain)] {
            for (variant, expected) in [Rouge::N(1), Rouge::N(2), Rouge::L, Rouge::Lsum].into_iter().zip(expected) {
                let found = rouge(variant, &pair.references[0], &pair.prediction, stemmed);
                let what = format!("{variant:?} {stemmed} of {:?} against {:?}", pair.prediction, pair.references[0]);
                close(found.precision, expected[0], &what);
                close(found.recall, expected[1], &what);
                close(found.f, expected[2], &what);
            }
        }
    }
}

#[test]
fn bleu_is_sacrebleus() {
    let golden = golden();
    for pair in &golden.pairs {
        assert_eq!(tokenize_13a(pair.prediction.trim_end()), pair.tokens);
        let references: Vec<&str> = pair.references.iter().map(String::as_str).collect();
        let counts = BleuCounts::new(&pair.prediction, &references);
        let settings = SMOOTHINGS.iter().flat_map(|(name, s)| [(*name, *s, false), (*name, *s, true)]);
        for ((name, smoothing, effective), expected) in settings.zip(pair.bleu) {
            let what = format!("{name} {effective} of {:?} against {references:?}", pair.prediction);
            close(counts.score(smoothing, effective), expected, &what);
        }
    }
    for (name, smoothing) in SMOOTHINGS {
        for (references, expected) in [(1, golden.corpus_bleu[name][0]), (2, golden.corpus_bleu[name][1])] {
            let mut segments: Vec<(&str, Vec<&str>)> = Vec::new();
            for pair in &golden.pairs {
                segments.push((&pair.prediction, pair.references[..references].iter().map(String::as_str).collect()));
            }
            close(corpus_bleu(&segments, smoothing), expected, &format!("corpus {name} {references}"));
        }
    }
}

#[test]
fn chrf_and_ter_are_sacrebleus() {
    let golden = golden();
    assert!(golden.translations.len() >= 100 && golden.corpora.len() == 2);
    let with = |translation: &Translation, references: usize| {
        let references: Vec<&str> = translation.references[..references].iter().map(String::as_str).collect();
        let of = |grams| ChrfCounts::new(&translation.hypothesis, &references, grams);
        (of(Grams::Characters), of(Grams::CharactersAndWords), TerCounts::new(&translation.hypothesis, &references))
    };
    for translation in &golden.translations {
        let what = format!("{:?} against {:?}", translation.hypothesis, translation.references);
        let (characters, words, ter) = with(translation, translation.references.len());
        close(characters.score(), translation.chrf, &format!("chrf of {what}"));
        close(words.score(), translation.chrf_words, &format!("chrf++ of {what}"));
        close(ter.edits, translation.edits, &format!("edits of {what}"));
        close(ter.words, translation.words, &format!("words of {what}"));
        close(ter.score(), translation.ter, &format!("ter of {what}"));
    }
    for corpus in golden.corpora {
        let enough = |references: usize| references == corpus.references || corpus.references == 1;
        let some: Vec<_> = (golden.translations.iter())
            .filter(|translation| enough(translation.references.len()))
            .map(|translation| with(translation, corpus.references))
            .collect();
        let value = |aggregation: Aggregation, parts: &dyn Fn(&(ChrfCounts, ChrfCounts, TerCounts)) -> Vec<f64>| {
            let rows: Vec<_> = some.iter().map(|all| ExampleScore { score: 0.0, parts: parts(all) }).collect();
            aggregation.value(rows.iter())
        };
        let what = format!("of {} translations, {} references", some.len(), corpus.references);
        close(value(Aggregation::Chrf, &|all| all.0.to_numbers()), corpus.chrf, &format!("chrf {what}"));
        close(value(Aggregation::ChrfWords, &|all| all.1.to_numbers()), corpus.chrf_words, &format!("chrf++ {what}"));
        close(value(Aggregation::Ter, &|all| all.2.to_numbers()), corpus.ter, &format!("ter {what}"));
    }
}

#[test]
fn answers_are_compared_as_by_the_squad_script() {
    for pair in golden().pairs {
        assert_eq!(squad::normalize(&pair.prediction), pair.squad_normalized);
        close(squad::token_f1(&pair.prediction, &pair.references[0]), pair.squad_f1, &pair.prediction);
        let equal = squad::normalize(&pair.prediction) == squad::normalize(&pair.references[0]);
        assert_eq!(f64::from(equal), pair.squad_exact, "{:?}", pair.prediction);
    }
}

/// `tools/golden/aggregations.py`
#[test]
fn single_classes_are_scored_as_by_evaluate() {
    #[derive(Deserialize)]
    struct Labels {
        labels: Vec<Label>,
    }
    #[derive(Deserialize)]
    struct Label {
        gold: i64,
        predicted: i64,
        metric: String,
        options: serde_json::Map<String, serde_json::Value>,
        score: Option<f64>,
    }
    let golden: Labels = serde_json::from_str(include_str!("golden/aggregations.json")).unwrap();
    let mut refused = 0;
    for Label { gold, predicted, metric, mut options, score } in golden.labels {
        let what = format!("{metric} {options:?} of {predicted} for {gold}");
        options.insert("hf_evaluate".into(), true.into());
        let metric = Metric::new(Kind::GenerateUntil, &metric, &options).unwrap();
        let (text, references) = (predicted.to_string(), [gold.to_string()]);
        let outcome = TextOutcome { text: &text, references: &references, prompt: "", passage: None, responses: &[] };
        match (metric.of_text(&outcome), score) {
            (Ok(found), Some(expected)) => close(found.score, expected, &what),
            (Err(_), None) => refused += 1,
            (found, expected) => panic!("{what}: {found:?}, expected {expected:?}"),
        }
    }
    assert!(refused > 0);
}

#[test]
fn stems_are_nltks() {
    for (word, stem) in golden().stems {
        assert_eq!(porter::stem(&word), stem, "{word}");
    }
}
