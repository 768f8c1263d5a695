//! Token F1 and exact match of the SQuAD script (Rajpurkar et al. 2016, arXiv 1606.05250): answers are compared without
//! case, ASCII punctuation and articles.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

static ARTICLES: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").ok());

/// Lower case, ASCII punctuation deleted, whole words `a`, `an`, `the` taken out, white space collapsed.
pub fn normalize(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let without_articles = match &*ARTICLES {
        Some(articles) => articles.replace_all(&plain, " "),
        None => plain.as_str().into(),
    };
    let words: Vec<&str> = without_articles.split(crate::python::is_space).filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// F1 over the bags of tokens of prediction and reference. If either has none, 1 if neither has, else 0.
pub fn token_f1(prediction: &str, reference: &str) -> f64 {
    let (prediction, reference) = (normalize(prediction), normalize(reference));
    let predicted: Vec<&str> = prediction.split_whitespace().collect();
    let wanted: Vec<&str> = reference.split_whitespace().collect();
    if predicted.is_empty() || wanted.is_empty() {
        return f64::from(predicted.is_empty() && wanted.is_empty());
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    wanted.iter().for_each(|token| *left.entry(token).or_default() += 1);
    let mut common = 0usize;
    for token in &predicted {
        if let Some(count) = left.get_mut(token).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / predicted.len() as f64;
    let recall = common as f64 / wanted.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_squad_scripts() {
        assert_eq!(normalize("The  Quick-brown fox's, den!"), "quickbrown foxs den");
        assert!((token_f1("a quick brown dog", "the quick brown fox") - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(token_f1("the", "an"), 1.0);
        assert_eq!(token_f1("the", "word"), 0.0);
    }
}
